//! The host's side of one agent: starts its shim, moves its bytes, and reports
//! its end when nothing of it is left.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use skep_protocol::ErrorCode;
use skep_protocol::info::PausedReason;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::cgroup::Cgroup;
use super::control::Control;
use super::hold::Hold;
use super::jailer::{Jailer, ProbeError};
use super::link::{self, Shim, ShimExit};
use super::look::Look;
use super::pump::{OutputPump, StdinPump};
use super::start::{fault, instruct, no_room, not_started, prepare, start_failed};
use super::wire::{self, Report, Status};
use super::{Refused, Setup, tree};
use crate::runner::{End, GuestEvent, Launch, Pipes, Stand};

/// How long a shim has for a kill before the host strikes too, and then every
/// time again: an agent of the same user can stop its shim, and one that forks
/// without end can starve it. What is left of 100 ms is for the strike.
const STRIKE_AFTER: Duration = Duration::from_millis(40);

/// The time between two strikes against what a killed shim has left.
const STRIKE_AGAIN: Duration = Duration::from_millis(5);

/// How long a tree may resist before its shim is given up. Only a process in a
/// call that the kernel does not interrupt lasts that long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The time between two looks at an agent's memory, where no cgroup limits it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long output is still taken of a guest that was killed, where nobody
/// makes room for it.
const DRAIN_KILLED: Duration = Duration::from_millis(40);

/// One agent's process, before and while it runs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) setup: Arc<Setup>,
    pub(super) control: Arc<Control>,
    pub(super) events: mpsc::Sender<GuestEvent>,
}

/// A shim and what its agent writes and reads.
struct Running {
    shim: Shim,
    stdout: OutputPump,
    stderr: OutputPump,
    stdin: StdinPump,
    /// Dropped last, when all that was in it is gone.
    cgroup: Option<Cgroup>,
    /// The agent's session, once there is one, where a killed shim does not
    /// take all of it along.
    session: Option<i32>,
    /// The first process of the agent's namespace, where it has one.
    init: Option<i32>,
    limit: MemoryLimit,
}

/// How much memory a tree may have, where the host has to look.
#[derive(Debug, Clone, Copy)]
struct MemoryLimit {
    bytes: u64,
    watched: bool,
}

/// How a shim's work was over.
struct Watched {
    /// `None` if it was not reported.
    last: Option<Report>,
    /// The memory for which it was killed.
    outgrown: Option<u64>,
}

impl Process {
    /// The whole life of an agent.
    pub(super) async fn run(self, program: Result<PathBuf, Refused>, launch: Launch, pipes: Pipes) {
        let end = self.end(program, launch, pipes).await;
        // There is room for both events, and maybe nobody to hear.
        let _nobody = self.events.try_send(GuestEvent::Ended(end));
    }

    async fn end(&self, program: Result<PathBuf, Refused>, launch: Launch, pipes: Pipes) -> End {
        let program = match program {
            Ok(program) => program,
            Err(refused) => return start_failed(refused.code(), refused.to_string()),
        };
        let jailer = match self.setup.jailer().await {
            Ok(jailer) => jailer,
            Err(ProbeError::Shim(error)) => return no_room(&error, "the shim of a native agent"),
            Err(error) => return fault(&format!("no native agent can be run: {error}")),
        };
        // Who was taken by a host before may be started by this one.
        if let Err(refused) = self.setup.hides(jailer) {
            return start_failed(refused.code(), refused.to_string());
        }
        let Some(frame) = instruct(&self.setup, jailer, &program, &launch) else {
            return start_failed(
                ErrorCode::InvalidArgument,
                "the command or the environment contains a NUL or is too long".into(),
            );
        };
        let cgroup = match prepare(&self.setup, &launch).await {
            Ok(cgroup) => cgroup,
            Err(end) => return end,
        };
        let limit = MemoryLimit {
            bytes: launch.limits.memory_bytes,
            watched: jailer.watches_memory(),
        };
        let (running, stdio) = match spawn(&self.setup.config.shim, pipes, cgroup, limit) {
            Ok(spawned) => spawned,
            Err(error) => return no_room(&error, "the shim of a native agent"),
        };
        self.supervise(running, stdio, frame).await
    }

    async fn supervise(&self, mut running: Running, given: Vec<OwnedFd>, frame: Vec<u8>) -> End {
        self.control.lives(running.shim.pid());
        let instructed = tokio::select! {
            sent = running.shim.order(given, &frame) => sent.is_ok(),
            // A torn instruction is the end for a shim.
            () = self.control.killed() => false,
        };
        drop(frame);
        let Watched { last, outgrown } = if instructed {
            self.watch(&mut running).await
        } else {
            Watched {
                last: None,
                outgrown: None,
            }
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
            cgroup,
            session,
            init,
            limit,
        } = running;
        drop(stdin);
        // Its end of the socket is closed: whatever kept it, it ends the tree.
        let exit = shim.exit().await;
        if last.is_none()
            && let Some(session) = session
        {
            end_session(session).await;
        }
        if last.is_none()
            && let Some(init) = init
        {
            end_namespace(init).await;
        }
        if last.is_none()
            && let Some(cgroup) = &cgroup
        {
            end_cgroup(cgroup).await;
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
        let outgrown = outgrown.or_else(|| {
            let out = cgroup.is_some_and(|cgroup| cgroup.ran_out_of_memory());
            // The kernel does not tell how much more it was that was asked for.
            out.then(|| limit.bytes.saturating_add(1))
        });
        Self::verdict(last, exit, killed, outgrown)
    }

    /// Moves bytes and commands until the shim's last report; `None` if there
    /// will be none.
    async fn watch(&self, running: &mut Running) -> Watched {
        let Running {
            shim,
            stdout,
            stderr,
            stdin,
            cgroup,
            session,
            init,
            limit,
        } = running;
        let (mut made, mut runs, mut asked) = (false, false, false);
        let mut hold = Hold::default();
        let mut outgrown = None;
        let mut memory = Look::every(LOOK_EVERY);
        let look_at_memory = || tokio::spawn(Arc::clone(&self.control).outgrows(limit.bytes));
        let mut killed: Option<Instant> = None;
        let mut strike_at = Instant::now();
        loop {
            let unwanted =
                self.control.is_killed() || self.events.is_closed() || outgrown.is_some();
            if killed.is_none() && unwanted {
                let now = Instant::now();
                (killed, strike_at) = (Some(now), now + STRIKE_AFTER);
                shim.proceed();
                shim.command(wire::KILL);
                if let Some(cgroup) = &cgroup {
                    // Without waiting for the shim's turn.
                    let _gone = cgroup.kill();
                }
            }
            if killed.is_none() && hold.wanted != self.control.is_paused() {
                if let Some(command) = hold.turn(cgroup.as_ref()) {
                    shim.command(command);
                }
                self.control.stands(Stand::Goes);
            }
            if !asked && runs && self.control.is_asked() {
                asked = true;
                shim.command(wire::TERMINATE);
            }
            tokio::select! {
                report = shim.report() => match report {
                    Some(Report::Enclosed { init: first }) => {
                        *init = Some(first);
                        self.control.lives(Some(first));
                    }
                    Some(Report::Made { pid }) => {
                        made = true;
                        *session = init.is_none().then_some(pid);
                    }
                    Some(Report::Started) => {
                        runs = true;
                        let _nobody = self.events.try_send(GuestEvent::Running);
                    }
                    last => return Watched { last, outgrown },
                },
                () = self.control.changed() => {}
                () = self.events.closed(), if killed.is_none() => {}
                () = sleep_until(strike_at), if killed.is_some() => {
                    if killed.is_some_and(|since| since.elapsed() > GIVE_UP_AFTER) {
                        return Watched { last: None, outgrown };
                    }
                    let processors = self.setup.known().and_then(Jailer::processors);
                    shim.strike(*init, processors).await;
                    strike_at = Instant::now() + STRIKE_AFTER;
                }
                seen = memory.next(look_at_memory), if limit.watched && killed.is_none() => {
                    outgrown = seen.flatten();
                }
                stands = hold.has_come_true(&self.control, cgroup.as_ref()),
                    if made && hold.looks() =>
                {
                    if stands {
                        self.control.stands(Stand::Held(PausedReason::Asked));
                    }
                }
                () = stdout.run() => {}
                () = stderr.run() => {}
                () = stdin.run() => {}
            }
        }
    }

    fn verdict(last: Option<Report>, exit: ShimExit, killed: bool, outgrown: Option<u64>) -> End {
        match (last, exit) {
            (
                Some(Report::Ended {
                    status: Status::Signaled(libc::SIGKILL),
                    ..
                }),
                _,
            ) if !killed && let Some(asked_bytes) = outgrown => End::OutOfMemory { asked_bytes },
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
            _ if let Some(asked_bytes) = outgrown => End::OutOfMemory { asked_bytes },
            (_, ShimExit::Killed) => {
                tracing::warn!("the shim of a native agent was killed, and not by Skep");
                End::Signaled(libc::SIGKILL)
            }
            _ => fault("the shim of a native agent ended without a report"),
        }
    }
}

/// Waits until the kernel has killed all of a namespace whose guard was killed.
async fn end_namespace(init: i32) {
    let deadline = Instant::now() + link::SHIM_EXIT;
    while Instant::now() < deadline && !tree::has_ended(init) {
        tokio::time::sleep(STRIKE_AGAIN).await;
    }
}

/// Ends what is left of a cgroup whose shim was killed: whoever left the session
/// is still in there.
async fn end_cgroup(cgroup: &Cgroup) {
    let deadline = Instant::now() + link::SHIM_EXIT;
    while Instant::now() < deadline && !cgroup.is_empty() {
        let _again = cgroup.kill();
        tokio::time::sleep(STRIKE_AGAIN).await;
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

/// Starts a shim, and makes the pipes; gives the ends that are the agent's.
fn spawn(
    shim: &Path,
    pipes: Pipes,
    cgroup: Option<Cgroup>,
    limit: MemoryLimit,
) -> std::io::Result<(Running, Vec<OwnedFd>)> {
    let Pipes {
        stdin,
        stdout,
        stderr,
    } = pipes;
    let (stdin_theirs, stdin_ours) = std::io::pipe()?;
    let (stdout_ours, stdout_theirs) = std::io::pipe()?;
    let (stderr_ours, stderr_theirs) = std::io::pipe()?;
    let mut given = vec![
        stdin_theirs.into(),
        stdout_theirs.into(),
        stderr_theirs.into(),
    ];
    if let Some(cgroup) = &cgroup {
        given.push(cgroup.procs()?);
    }
    let running = Running {
        stdout: OutputPump::new(stdout_ours, stdout)?,
        stderr: OutputPump::new(stderr_ours, stderr)?,
        stdin: StdinPump::new(stdin, stdin_ours)?,
        // Last, so that nothing can fail once it runs.
        shim: Shim::spawn(shim)?,
        cgroup,
        session: None,
        init: None,
        limit,
    };
    Ok((running, given))
}
