//! The agent's first process, between its fork and its program. It runs in
//! the shim alone.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, getpid, getppid, setpgid,
    setsid,
};

use super::wire::{Instruction, Jail, Step};
use super::{enclosure, reach, syscalls};

/// How much lower than the host an agent goes. Lower than guests, which share
/// a thread for each processor: an agent has as many processes and threads as it likes.
const LOWER: i32 = 10;

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
            3 => Step::Confine,
            _ => Step::Prepare,
        };
        Some((step, Errno::from_raw(i32::from_le_bytes(errno))))
    }
}

/// What the program is given that has no name.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub(super) stdio: [OwnedFd; 3],
    /// The list of processes of the cgroup that it is to be in.
    pub(super) cgroup: Option<OwnedFd>,
}

/// Forks; the child executes the program once it may proceed.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn start(instruction: &Instruction, given: Descriptors) -> Result<Starting, Failure> {
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
            let (step, errno) = become_program(instruction, &given, shim, &mut released);
            let step = match step {
                Step::Prepare => 0,
                Step::Enter => 1,
                Step::Execute => 2,
                Step::Confine => 3,
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
    given: &Descriptors,
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
        if instruction.jail.session {
            setsid()?;
        } else {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        }
        // Until the host knows its number: what runs from here on may kill the
        // shim.
        let _end = released.read(&mut [0]);
        if let Some(cgroup) = &given.cgroup {
            // Itself. Whether that is allowed, the kernel asks of who opened
            // the file, which is the host.
            nix::unistd::write(cgroup, b"0")?;
        }
        umask(Mode::from_bits_truncate(0o077));
        // All three lie above 2, since 0 to 2 are open in the shim. These
        // copies survive the execution; everything else is close-on-exec.
        let [stdin, stdout, stderr] = &given.stdio;
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    };
    if let Err(errno) = prepared() {
        return (Step::Prepare, errno);
    }
    if let Err(errno) = SigSet::empty().thread_set_mask() {
        return (Step::Prepare, errno);
    }
    if let Err(errno) = confine(instruction) {
        return (Step::Confine, errno);
    }
    // Not execvp, which hands a file that is no program to a shell. And not by
    // a descriptor that was checked before: the operator's list is of paths, and
    // a script executed so would not be found by its interpreter.
    let Err(errno) = execve(&instruction.program, &instruction.argv, &instruction.env);
    (Step::Execute, errno)
}

/// Shuts itself in. The limits come last: what comes before needs memory and
/// descriptors.
fn confine(instruction: &Instruction) -> nix::Result<()> {
    let Jail { layers, reach, .. } = &instruction.jail;
    enclosure::drop_capabilities()?;
    prctl::set_no_new_privs()?;
    // Where the system refuses, agents and host have the same priority.
    let _refused = rustix::process::nice(LOWER);
    if let Some(processors) = instruction.jail.processors() {
        processors.join_agents()?;
    }
    if layers.landlock {
        reach::restrict(Some(instruction.program_path()), reach)?;
    }
    if layers.syscalls {
        syscalls::restrict(instruction.jail.shared(), instruction.jail.others())?;
    }
    limit(&instruction.jail)
}

fn limit(jail: &Jail) -> nix::Result<()> {
    // Never over what the host itself may have, which it could not.
    let lower = |resource, value: u64| {
        let (_, hard) = getrlimit(resource)?;
        let value = value.min(hard);
        setrlimit(resource, value, value)
    };
    // Too little for a file. With none at all, a kernel that hands cores to a program
    // (core(5)) would start that, as root, for each crash.
    lower(Resource::RLIMIT_CORE, 1)?;
    lower(Resource::RLIMIT_NOFILE, jail.open_files)?;
    if let Some(bytes) = jail.data_bytes {
        // Not the address space, of which many runtimes reserve far more than
        // they use.
        lower(Resource::RLIMIT_DATA, bytes)?;
    }
    if let Some(processes) = jail.processes {
        // Counted per user namespace, and the guard and the init are in it.
        lower(Resource::RLIMIT_NPROC, processes.saturating_add(2))?;
    }
    Ok(())
}

/// Sets every signal's action to its default: a signal that is ignored stays
/// so in the programs that a process executes, and Rust's own start ignores
/// SIGPIPE.
#[expect(unsafe_code, reason = "rt_sigaction")]
pub(super) fn default_signals() {
    /// Bytes of the kernel's set of signals, and how many there are.
    const SET: usize = size_of::<u64>();
    const SIGNALS: i32 = 64;
    // The kernel's `struct sigaction`, of which no architecture has a larger
    // one: all of it zero is the default action.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // Past the C library, which keeps two signals for itself and refuses to
        // set them.
        // SAFETY: no handler is installed, and the kernel reads no more than
        // there is. It fails for SIGKILL and SIGSTOP.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET,
            )
        };
    }
}
