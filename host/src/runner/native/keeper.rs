//! What a shim does while its agent lives: it waits for the first process to
//! end, and ends all that is left. It runs in the shim alone.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};

use super::child::{Failure, Starting};
use super::tree;
use super::wire::{KILL, PAUSE, RESUME, Report, Status, TERMINATE};

/// The time between two strikes against a tree that still stands, for the
/// kernel to take down what was struck.
const STRIKE_EVERY: Duration = Duration::from_millis(10);

/// Milliseconds between two signals to hold a tree that is paused. It is to
/// stand still within 100.
const HOLD_EVERY_MS: u8 = 20;

/// A few bytes, which fit. If the host is gone, the next read tells.
pub(super) fn tell(mut control: &UnixStream, report: Report) {
    let _gone = control.write_all(&report.encode());
}

/// What "all of the agent" is.
#[derive(Debug, Clone, Copy)]
pub(super) enum All {
    /// What the kernel counts in the pid namespace of which this is the first
    /// process.
    OfNamespace,
    /// What `/proc` shows below this process.
    OfTree,
}

impl All {
    fn signal(self, signal: Signal) {
        match self {
            // At once, whatever is being forked meanwhile. It spares the init.
            Self::OfNamespace => {
                let _nobody = kill(Pid::from_raw(-1), signal);
            }
            Self::OfTree => tree::signal_all(getpid().as_raw(), signal),
        }
    }
}

pub(super) struct Keeper<'a> {
    control: &'a UnixStream,
    children: SignalFd,
    /// The agent's first process, and its group.
    main: Pid,
    status: Option<Status>,
    all: All,
    paused: bool,
}

impl<'a> Keeper<'a> {
    /// Where the ends of children are told.
    pub(super) fn children() -> nix::Result<SignalFd> {
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGCHLD);
        SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
    }

    pub(super) fn new(control: &'a UnixStream, children: SignalFd, main: Pid, all: All) -> Self {
        Self {
            control,
            children,
            main,
            status: None,
            all,
            paused: false,
        }
    }

    /// Waits for the first process to end, or to be told to end it; ends the
    /// tree; gives what is to be reported.
    pub(super) fn watch(mut self, mut starting: Starting) -> Result<Report, Failure> {
        // Told before any of the agent runs, which might kill this process.
        let pid = self.main.as_raw();
        tell(self.control, Report::Made { pid });
        starting.proceed();
        let mut starting = Some(starting);
        let mut failure = None;
        while self.status.is_none() && failure.is_none() {
            if self.paused {
                // Again and again: one that was not stopped yet can have woken
                // another.
                self.all.signal(Signal::SIGSTOP);
            }
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
                    tell(self.control, Report::Started);
                }
            }
        }
        self.end_tree();
        if let Some(failure) = failure {
            return Err(failure);
        }
        let status = self.status.unwrap_or(Status::Signaled(libc::SIGKILL));
        let (cpu_ms, peak_bytes) = used();
        Ok(Report::Ended {
            status,
            cpu_ms,
            peak_bytes,
        })
    }

    /// Waits for a command, a child's end, or the outcome of the start, and
    /// says whether it was the last.
    fn wait(&self, starting: Option<&Starting>) -> nix::Result<bool> {
        let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = vec![of(self.children.as_fd()), of(self.control.as_fd())];
        watched.extend(starting.map(|starting| of(starting.outcome().as_fd())));
        let again = if self.paused {
            PollTimeout::from(HOLD_EVERY_MS)
        } else {
            PollTimeout::NONE
        };
        match poll(&mut watched, again) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        // Which children it was about, `waitpid` tells.
        while let Ok(Some(_)) = self.children.read_signal() {}
        Ok(watched.get(2).and_then(PollFd::any).unwrap_or(false))
    }

    /// Does what the host asks for.
    fn commands(&mut self) -> Wanted {
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
                    for command in commands {
                        self.command(*command);
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

    fn command(&mut self, command: u8) {
        match command {
            PAUSE => self.paused = true,
            RESUME if self.paused => {
                self.paused = false;
                self.all.signal(Signal::SIGCONT);
            }
            TERMINATE if self.status.is_none() => {
                // Not reaped yet, so the number is still its own. One that has
                // stopped itself shall hear it too.
                let _gone = killpg(self.main, Signal::SIGTERM);
                let _gone = killpg(self.main, Signal::SIGCONT);
            }
            _ => {}
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
            self.all.signal(Signal::SIGKILL);
            let next = Instant::now() + STRIKE_EVERY;
            while self.reap() == Left::Some && Instant::now() < next {
                let mut watched = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
                let _again = poll(&mut watched, PollTimeout::from(1_u8));
                while let Ok(Some(_)) = self.children.read_signal() {}
            }
        }
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
