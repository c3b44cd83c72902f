//! The agent's first process, between its fork and its program. It runs in
//! the shim alone.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, getpid, getppid,
    setsid,
};

use super::wire::{Instruction, Step};

/// Where a start failed.
pub(super) type Failure = (Step, Errno);

/// A process on its way to its program.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) pid: Pid,
    /// Closed to let it go on.
    held: Option<PipeWriter>,
    /// Says why the program was not executed; ends without a word when it
    /// was.
    failure: PipeReader,
}

impl Starting {
    /// Lets it execute its program. Before that, nothing of the agent runs.
    pub(super) fn proceed(&mut self) {
        self.held = None;
    }

    /// Readable once the outcome is known.
    pub(super) fn outcome(&self) -> &PipeReader {
        &self.failure
    }

    /// Reads the outcome, and waits for it if it must.
    pub(super) fn failed(mut self) -> Option<Failure> {
        self.proceed();
        let mut frame = [0; 5];
        self.failure.read_exact(&mut frame).ok()?;
        let [step, errno @ ..] = frame;
        let step = match step {
            1 => Step::Enter,
            2 => Step::Execute,
            _ => Step::Prepare,
        };
        Some((step, Errno::from_raw(i32::from_le_bytes(errno))))
    }
}

/// Forks; the child executes the program once it may proceed.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn start(instruction: &Instruction, stdio: [OwnedFd; 3]) -> Result<Starting, Failure> {
    let prepare = |error: std::io::Error| {
        (
            Step::Prepare,
            Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        )
    };
    let (failure, mut report) = std::io::pipe().map_err(prepare)?;
    let (mut released, held) = std::io::pipe().map_err(prepare)?;
    let shim = getpid();
    // SAFETY: the shim has one thread, so no lock is held by another one that
    // the child will not have, and the child may do what any process may.
    match unsafe { fork() }.map_err(|errno| (Step::Prepare, errno))? {
        ForkResult::Parent { child } => Ok(Starting {
            pid: child,
            held: Some(held),
            failure,
        }),
        ForkResult::Child => {
            drop((held, failure));
            let (step, errno) = become_program(instruction, &stdio, shim, &mut released);
            let step = match step {
                Step::Prepare => 0,
                Step::Enter => 1,
                Step::Execute => 2,
            };
            let [a, b, c, d] = (errno as i32).to_le_bytes();
            // If the shim is gone, nobody wants to know.
            let _gone = report.write_all(&[step, a, b, c, d]);
            std::process::exit(127)
        }
    }
}

/// Every setting of the process; returns only if it fails. The signals' actions
/// are the defaults already, see [`default_signals`].
fn become_program(
    instruction: &Instruction,
    stdio: &[OwnedFd; 3],
    shim: Pid,
    released: &mut PipeReader,
) -> Failure {
    let mut prepared = || -> nix::Result<()> {
        // Without its shim nobody would end it. If the shim died before this
        // was set, there is no signal, but another parent.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != shim {
            return Err(Errno::ESRCH);
        }
        setsid()?;
        // Until the host knows its number: what runs from here on may kill the
        // shim.
        let _end = released.read(&mut [0]);
        umask(Mode::from_bits_truncate(0o077));
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        prctl::set_no_new_privs()?;
        // All three lie above 2, since 0 to 2 are open in the shim. These
        // copies survive the execution; everything else is close-on-exec.
        let [stdin, stdout, stderr] = stdio;
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    };
    if let Err(errno) = prepared() {
        return (Step::Prepare, errno);
    }
    if let Err(errno) = chdir(instruction.cwd.as_c_str()) {
        return (Step::Enter, errno);
    }
    if let Err(errno) = SigSet::empty().thread_set_mask() {
        return (Step::Prepare, errno);
    }
    // Not execvp, which hands a file that is no program to a shell.
    let Err(errno) = execve(&instruction.program, &instruction.argv, &instruction.env);
    (Step::Execute, errno)
}

/// Sets every signal's action to its default: a signal that is ignored stays
/// so in the programs that a process executes, and Rust's own start ignores
/// SIGPIPE.
#[expect(unsafe_code, reason = "signal")]
pub(super) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed. It fails for SIGKILL and SIGSTOP,
        // and for two that the C library keeps for itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
