//! The shim: a process between the host and one agent. It is the `skep` binary
//! again, with one thread, and is there because only a parent can tell that
//! nothing of a tree is left, and because a host that dies cannot clean up.
//!
//! It is the subreaper of its tree: a process that loses its parent becomes
//! the shim's child, however often it forked or changed its session. So when
//! `waitpid` finds no child, no descendant is left, whatever `/proc` showed.
//!
//! All signals but SIGKILL and SIGSTOP are blocked in it, and it is not
//! dumpable, so an agent of the same user cannot trace it or read its memory.
//! SIGKILL such an agent can send; then its first process dies with the shim,
//! see `child`, and the host ends what is left of its session.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Pid, chdir, getpid, setsid};

use super::child::{Failure, Starting, default_signals, start};
use super::tree;
use super::wire::{DESCRIPTORS, Instruction, KILL, MAX_INSTRUCTION, Report, Status, TERMINATE};

/// The time between two strikes against a tree that still stands, for the
/// kernel to take down what was struck.
const STRIKE_EVERY: Duration = Duration::from_millis(10);

/// What `skep` does when it is called with [`SHIM_ARG`](super::SHIM_ARG).
///
/// To be called before anything else in `main`: it closes every descriptor
/// above 2, sets signals and prctls for the whole process, and forks, which is
/// sound in a process with one thread only. Exits once the agent is gone, or
/// at once and with 2 if no host is at the other end of stdin.
pub fn shim_main() -> ! {
    let served = shut_in().and_then(serve);
    std::process::exit(if served.is_ok() { 0 } else { 2 })
}

/// Makes this process a shim; gives the socket to the host, which is stdin.
fn shut_in() -> std::io::Result<UnixStream> {
    prctl::set_dumpable(false)?;
    SigSet::all().thread_set_mask()?;
    default_signals();
    crate::helper::close_from_3()?;
    // So that what the host's terminal or group gets does not get here. It
    // fails for the leader of a group, which has left the host's already.
    let _leader = setsid();
    chdir("/")?;
    prctl::set_child_subreaper(true)?;
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Runs the agent that the host instructs it to run.
fn serve(mut control: UnixStream) -> std::io::Result<()> {
    let stdio = receive_descriptors(&control)?;
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_INSTRUCTION {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    control.read_exact(&mut body)?;
    let instruction = Instruction::decode(&body).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    control.set_nonblocking(true)?;
    let report = match start(&instruction, stdio) {
        Ok(starting) => {
            drop((instruction, body));
            Shim {
                control: &control,
                children,
                main: starting.pid,
                status: None,
            }
            .watch(starting)
        }
        Err(failure) => not_started(failure),
    };
    (&control).write_all(&report.encode())
}

fn not_started((step, errno): Failure) -> Report {
    Report::NotStarted {
        step,
        errno: errno as i32,
    }
}

/// The program's stdin, stdout and stderr, which come with the first byte.
#[expect(unsafe_code, reason = "SCM_RIGHTS")]
fn receive_descriptors(control: &UnixStream) -> std::io::Result<[OwnedFd; 3]> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([libc::c_int; 3]);
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        control.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just made them for this message, which is
            // read once; nothing else knows of them.
            received.extend(
                descriptors
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let stdio = received.try_into().ok();
    stdio
        .filter(|_| byte == [DESCRIPTORS])
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

struct Shim<'a> {
    control: &'a UnixStream,
    children: SignalFd,
    /// The agent's first process, and its session and group.
    main: Pid,
    status: Option<Status>,
}

impl Shim<'_> {
    /// Waits for the first process to end, or to be told to end it; ends the
    /// tree; gives what is to be reported.
    fn watch(mut self, mut starting: Starting) -> Report {
        // Told before any of the agent runs, which might kill this process.
        self.report(Report::Made {
            pid: self.main.as_raw(),
        });
        starting.proceed();
        let mut starting = Some(starting);
        let mut failure = None;
        while self.status.is_none() && failure.is_none() {
            let waited = self.wait(starting.as_ref());
            if waited.is_err() || self.commands() == Wanted::End {
                break;
            }
            self.reap();
            // If it has ended, there is an outcome, seen or not.
            if let Some(starting) =
                starting.take_if(|_| waited == Ok(true) || self.status.is_some())
            {
                failure = starting.failed();
                if failure.is_none() {
                    self.report(Report::Started);
                }
            }
        }
        self.end_tree();
        if let Some(failure) = failure {
            return not_started(failure);
        }
        let status = self.status.unwrap_or(Status::Signaled(libc::SIGKILL));
        let (cpu_ms, peak_bytes) = used();
        Report::Ended {
            status,
            cpu_ms,
            peak_bytes,
        }
    }

    /// Waits for a command, a child's end, or the outcome of the start, and
    /// says whether it was the last.
    fn wait(&self, starting: Option<&Starting>) -> nix::Result<bool> {
        let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = vec![of(self.children.as_fd()), of(self.control.as_fd())];
        watched.extend(starting.map(|starting| of(starting.outcome().as_fd())));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        // Which children it was about, `waitpid` tells.
        while let Ok(Some(_)) = self.children.read_signal() {}
        Ok(watched.get(2).and_then(PollFd::any).unwrap_or(false))
    }

    /// Does what the host asks for.
    fn commands(&self) -> Wanted {
        let mut commands = [0; 16];
        let mut control = self.control;
        loop {
            match control.read(&mut commands) {
                // The host is gone, and with it all who wanted this agent.
                Ok(0) => return Wanted::End,
                Ok(count) => {
                    let commands = commands.get(..count).unwrap_or_default();
                    if commands.contains(&KILL) {
                        return Wanted::End;
                    }
                    if commands.contains(&TERMINATE) && self.status.is_none() {
                        // Not reaped yet, so the number is still its own. One
                        // that has stopped itself shall hear it too.
                        let _gone = killpg(self.main, Signal::SIGTERM);
                        let _gone = killpg(self.main, Signal::SIGCONT);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Wanted::Nothing;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Wanted::End,
            }
        }
    }

    /// Takes note of every child that has ended, and says whether any is left.
    fn reap(&mut self) -> Left {
        loop {
            match wait_any() {
                Ok(Some((pid, status))) if pid == self.main => {
                    self.status = Some(match (status.code(), status.signal()) {
                        (Some(code), _) => Status::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
                        (None, signal) => Status::Signaled(signal.unwrap_or(libc::SIGKILL)),
                    });
                }
                Ok(Some(_)) | Err(Errno::EINTR) => {}
                Ok(None) => return Left::Some,
                Err(_no_child) => return Left::None,
            }
        }
    }

    /// Kills until nothing is left. A process in an uninterruptible call lasts
    /// as long as the call, and so does this.
    fn end_tree(&mut self) {
        // The common case, and the one process whose number is certain.
        if self.status.is_none() {
            let _gone = kill(self.main, Signal::SIGKILL);
        }
        while self.reap() == Left::Some {
            tree::strike(getpid().as_raw());
            let next = Instant::now() + STRIKE_EVERY;
            while self.reap() == Left::Some && Instant::now() < next {
                let mut watched = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
                let _again = poll(&mut watched, PollTimeout::from(1_u8));
                while let Ok(Some(_)) = self.children.read_signal() {}
            }
        }
    }

    /// A few bytes, which fit. If the host is gone, the next read tells.
    fn report(&self, report: Report) {
        let mut control = self.control;
        let _gone = control.write_all(&report.encode());
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    End,
}

#[derive(Debug, PartialEq, Eq)]
enum Left {
    Some,
    None,
}

/// `waitpid` for any child that has ended. Not nix's, which reaps a child that
/// died of a real-time signal and then fails to name the signal.
#[expect(unsafe_code, reason = "waitpid")]
fn wait_any() -> nix::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: it writes the status, and nothing else.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    Ok((pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status))))
}

/// Milliseconds that all descendants computed, and the most bytes that one of
/// them had in memory.
fn used() -> (u64, u64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return (0, 0);
    };
    let ms = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1000 + time.tv_usec() / 1000).unwrap_or(0)
    };
    let peak_kib = u64::try_from(usage.max_rss()).unwrap_or(0);
    (
        ms(usage.user_time()) + ms(usage.system_time()),
        peak_kib * 1024,
    )
}
