//! The host's side of one agent: starts its shim, moves its bytes, and reports
//! its end when nothing of it is left.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use skep_protocol::ErrorCode;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::control::Control;
use super::link::{self, Shim, ShimExit};
use super::pump::{OutputPump, StdinPump};
use super::wire::{self, Instruction, Report, Status, Step};
use super::{Refused, tree};
use crate::runner::{End, GuestEvent, Launch, Program};

/// How long a shim has for a kill before the host strikes too, and then every
/// time again: an agent of the same user can stop its shim, and one that forks
/// without end can starve it. What is left of 100 ms is for the strike.
const STRIKE_AFTER: Duration = Duration::from_millis(40);

/// The time between two strikes against what a killed shim has left.
const STRIKE_AGAIN: Duration = Duration::from_millis(5);

/// How long a tree may resist before its shim is given up. Only a process in a
/// call that the kernel does not interrupt lasts that long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How long output is still taken of a guest that was killed, where nobody
/// makes room for it.
const DRAIN_KILLED: Duration = Duration::from_millis(40);

/// One agent's process, before and while it runs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) shim: PathBuf,
    pub(super) control: Arc<Control>,
    pub(super) events: mpsc::Sender<GuestEvent>,
}

/// A shim and what its agent writes and reads.
struct Running {
    shim: Shim,
    stdout: OutputPump,
    stderr: OutputPump,
    stdin: StdinPump,
    /// The agent's session, once there is one.
    session: Option<i32>,
}

impl Process {
    /// The whole life of an agent.
    pub(super) async fn run(self, program: Result<PathBuf, Refused>, launch: Launch) {
        let end = self.end(program, launch).await;
        // There is room for both events, and maybe nobody to hear.
        let _nobody = self.events.try_send(GuestEvent::Ended(end));
    }

    async fn end(&self, program: Result<PathBuf, Refused>, launch: Launch) -> End {
        let program = match program {
            Ok(program) => program,
            Err(refused) => return start_failed(refused.code(), refused.to_string()),
        };
        let Some(frame) = instruct(&program, &launch) else {
            return start_failed(
                ErrorCode::InvalidArgument,
                "the command or the environment contains a NUL or is too long".into(),
            );
        };
        let (running, stdio) = match prepare(&self.shim, launch) {
            Ok(prepared) => prepared,
            Err(error) => return no_shim(&error),
        };
        self.supervise(running, stdio, frame).await
    }

    async fn supervise(&self, mut running: Running, stdio: [OwnedFd; 3], frame: Vec<u8>) -> End {
        self.control.lives(running.shim.pid());
        let instructed = tokio::select! {
            sent = running.shim.instruct(stdio, &frame) => sent.is_ok(),
            // A torn instruction is the end for a shim.
            () = self.control.killed() => false,
        };
        drop(frame);
        let last = if instructed {
            self.watch(&mut running).await
        } else {
            None
        };
        // A kill that comes later found it ended.
        let killed = self.control.is_killed();
        let (cpu_ms, peak_bytes) = match last {
            Some(Report::Ended {
                cpu_ms, peak_bytes, ..
            }) => (cpu_ms, peak_bytes),
            _ => (0, 0),
        };
        self.control.ends(cpu_ms, peak_bytes);
        let Running {
            shim,
            mut stdout,
            mut stderr,
            stdin,
            session,
        } = running;
        drop(stdin);
        // Its end of the socket is closed: whatever kept it, it ends the tree.
        let exit = shim.exit().await;
        if last.is_none()
            && let Some(session) = session
        {
            end_session(session).await;
        }
        // Every writer is gone, and what they wrote is in the pipes.
        let drained = async { tokio::join!(stdout.drain(), stderr.drain()) };
        let cut_short = async {
            tokio::select! {
                () = self.control.killed() => {}
                () = self.events.closed() => {}
            }
            tokio::time::sleep(DRAIN_KILLED).await;
        };
        tokio::select! {
            biased;
            _ = drained => {}
            () = cut_short => {}
        }
        Self::verdict(last, exit, killed)
    }

    /// Moves bytes and commands until the shim's last report; `None` if there
    /// will be none.
    async fn watch(&self, running: &mut Running) -> Option<Report> {
        let Running {
            shim,
            stdout,
            stderr,
            stdin,
            session,
        } = running;
        let (mut runs, mut asked) = (false, false);
        let mut killed: Option<Instant> = None;
        let mut strike_at = Instant::now();
        loop {
            if killed.is_none() && (self.control.is_killed() || self.events.is_closed()) {
                let now = Instant::now();
                (killed, strike_at) = (Some(now), now + STRIKE_AFTER);
                shim.proceed();
                shim.command(wire::KILL).await;
            }
            if !asked && runs && self.control.is_asked() {
                asked = true;
                shim.command(wire::TERMINATE).await;
            }
            tokio::select! {
                report = shim.report() => match report? {
                    Report::Made { pid } => *session = Some(pid),
                    Report::Started => {
                        runs = true;
                        let _nobody = self.events.try_send(GuestEvent::Running);
                    }
                    last => return Some(last),
                },
                () = self.control.changed() => {}
                () = self.events.closed(), if killed.is_none() => {}
                () = sleep_until(strike_at), if killed.is_some() => {
                    if killed.is_some_and(|since| since.elapsed() > GIVE_UP_AFTER) {
                        return None;
                    }
                    shim.strike().await;
                    strike_at = Instant::now() + STRIKE_AFTER;
                }
                () = stdout.run() => {}
                () = stderr.run() => {}
                () = stdin.run() => {}
            }
        }
    }

    fn verdict(last: Option<Report>, exit: ShimExit, killed: bool) -> End {
        match (last, exit) {
            (Some(Report::NotStarted { step, errno }), _) => {
                not_started(step, Errno::from_raw(errno))
            }
            (Some(Report::Ended { status, .. }), _) => match status {
                Status::Signaled(libc::SIGKILL) if killed => End::Killed,
                Status::Signaled(signal) => End::Signaled(signal),
                Status::Exited(code) => End::Exited(code),
            },
            (_, ShimExit::GivenUp) => fault("a native agent outlasts its kill"),
            _ if killed => End::Killed,
            (_, ShimExit::Killed) => {
                tracing::warn!("the shim of a native agent was killed, and not by Skep");
                End::Signaled(libc::SIGKILL)
            }
            _ => fault("the shim of a native agent ended without a report"),
        }
    }
}

/// Ends what is left of a session whose shim was killed. The agent's first
/// process had a SIGKILL from the kernel when that happened.
async fn end_session(session: i32) {
    let deadline = Instant::now() + link::SHIM_EXIT;
    while Instant::now() < deadline {
        match tokio::task::spawn_blocking(move || tree::strike_session(session)).await {
            Ok(tree::Session::Struck) => tokio::time::sleep(STRIKE_AGAIN).await,
            Ok(tree::Session::Empty) | Err(_) => return,
        }
    }
}

/// The instruction, encoded; `None` if it contains a NUL or is too long.
fn instruct(program: &Path, launch: &Launch) -> Option<Vec<u8>> {
    let Program::Command(command) = &launch.program else {
        return None;
    };
    let argv = command.iter().chain(&launch.args).cloned();
    let env = launch
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let scratch = launch.dirs.iter().find(|dir| dir.guest == "/");
    let cwd = scratch.map_or(Path::new("/"), |dir| &dir.host);
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    Instruction::new(bytes(program), bytes(cwd), argv, env)
        .ok()?
        .encode()
}

/// Starts a shim, and makes the pipes; gives the ends that are the agent's.
fn prepare(shim: &Path, launch: Launch) -> std::io::Result<(Running, [OwnedFd; 3])> {
    let Launch {
        stdin,
        stdout,
        stderr,
        ..
    } = launch;
    let (stdin_theirs, stdin_ours) = std::io::pipe()?;
    let (stdout_ours, stdout_theirs) = std::io::pipe()?;
    let (stderr_ours, stderr_theirs) = std::io::pipe()?;
    let running = Running {
        stdout: OutputPump::new(stdout_ours, stdout)?,
        stderr: OutputPump::new(stderr_ours, stderr)?,
        stdin: StdinPump::new(stdin, stdin_ours)?,
        // Last, so that nothing can fail once it runs.
        shim: Shim::spawn(shim)?,
        session: None,
    };
    Ok((
        running,
        [
            stdin_theirs.into(),
            stdout_theirs.into(),
            stderr_theirs.into(),
        ],
    ))
}

fn start_failed(code: ErrorCode, message: String) -> End {
    End::StartFailed { code, message }
}

/// Why a program did not start, for its submitter: nothing of the host's
/// paths, but what they named themselves.
fn not_started(step: Step, errno: Errno) -> End {
    let code = match (step, errno) {
        (_, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => ErrorCode::Capacity,
        (Step::Prepare, _) => ErrorCode::Internal,
        (Step::Enter, _) => ErrorCode::StorageUnavailable,
        (Step::Execute, Errno::ENOENT | Errno::ENOTDIR) => ErrorCode::NotFound,
        (Step::Execute, Errno::E2BIG) => ErrorCode::TooLarge,
        (Step::Execute, _) => ErrorCode::InvalidArgument,
    };
    let what = match step {
        Step::Prepare => "its process could not be made",
        Step::Enter => "its working directory could not be entered",
        Step::Execute => "the program could not be executed",
    };
    start_failed(code, format!("{what}: {}", errno.desc()))
}

/// No process, descriptor or memory for another agent; or the operator's shim
/// is not there.
fn no_shim(error: &std::io::Error) -> End {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => start_failed(
            ErrorCode::Capacity,
            "the host has no room for another process".into(),
        ),
        _ => fault(&format!(
            "the shim of a native agent could not be started: {error}"
        )),
    }
}

fn fault(cause: &str) -> End {
    End::Fault {
        incident: crate::incident(cause),
    }
}
