//! One process from its start to its end: fed, read, and ended when its time is
//! up, when it says too much, or when nobody wants its answer any more. It is
//! waited for in any case: no zombie stays.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use rustix::process::{PidfdFlags, pidfd_open};

/// How often a process that runs is asked whether anybody still wants it.
const LOOK: Duration = Duration::from_millis(20);

/// What is kept of the standard error: a last word, not a log.
const MAX_WORDS: usize = 4096;

const PIECE: usize = 256 * 1024;

/// What a process is held to.
pub(super) struct Bounds<'a> {
    pub(super) time: Duration,
    pub(super) output: usize,
    /// Whether nobody wants the answer any more.
    pub(super) unwanted: &'a dyn Fn() -> bool,
}

/// How it came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, or by a signal that is not ours.
    Itself(ExitStatus),
    /// By the clock, after so much processor time.
    Late(Duration),
    TooMuch,
    Unwanted,
}

/// All that it said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) ended: Ended,
    pub(super) output: Vec<u8>,
    pub(super) words: Vec<u8>,
}

/// A child that does not outlive this value.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // It fails for one that was waited for, whose number may be another's.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Starts a process, gives it the input, and reads all that it says.
pub(super) fn run(
    command: &mut Command,
    mut input: impl Read,
    bounds: &Bounds<'_>,
) -> std::io::Result<Said> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + bounds.time;
    let mut child = Held(child);
    let exit = pidfd(&child.0)?;
    let mut stdin = child.0.stdin.take();
    let mut stdout = child.0.stdout.take();
    let mut stderr = child.0.stderr.take();
    for pipe in [
        stdin.as_ref().map(AsFd::as_fd),
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ]
    .into_iter()
    .flatten()
    {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let mut said = Said {
        ended: Ended::Unwanted,
        output: Vec::new(),
        words: Vec::new(),
    };
    let mut piece = vec![0; PIECE];
    let mut pending = (0, 0);
    loop {
        let now = Instant::now();
        if (bounds.unwanted)() {
            return Ok(said);
        }
        if now >= deadline {
            said.ended = Ended::Late(processor_time(&child.0));
            return Ok(said);
        }
        let readers = [
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ];
        let writer = stdin.as_ref().map(AsFd::as_fd);
        let exited = wait(exit.as_fd(), readers, writer, deadline - now)?;
        if let Some(pipe) = &mut stdin
            && !feed(pipe, &mut input, &mut piece, &mut pending)
        {
            stdin = None;
        }
        // After its end, which is known by now, nothing comes that is not there.
        take(&mut stdout, &mut said.output, bounds.output)?;
        take(&mut stderr, &mut said.words, MAX_WORDS)?;
        if said.output.len() > bounds.output {
            said.ended = Ended::TooMuch;
            return Ok(said);
        }
        if exited {
            said.ended = Ended::Itself(child.0.wait()?);
            return Ok(said);
        }
    }
}

/// What it has computed so far, all of its threads together.
fn processor_time(child: &Child) -> Duration {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    ClockId::pid_cpu_clock_id(pid)
        .and_then(clock_gettime)
        .map(Duration::from)
        .unwrap_or_default()
}

fn pidfd(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or(ErrorKind::InvalidData)?;
    // Not waited for yet, so the number is its own.
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits until something can be done, and tells whether the process has ended.
fn wait(
    exit: BorrowedFd<'_>,
    readers: [Option<BorrowedFd<'_>>; 2],
    writer: Option<BorrowedFd<'_>>,
    left: Duration,
) -> std::io::Result<bool> {
    let mut all = vec![PollFd::new(exit, PollFlags::POLLIN)];
    let readers = readers.into_iter().flatten();
    all.extend(readers.map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
    all.extend(writer.map(|pipe| PollFd::new(pipe, PollFlags::POLLOUT)));
    let patience = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::ZERO);
    match poll(&mut all, patience) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(all.first().and_then(PollFd::any).unwrap_or(false))
}

/// Writes as much as the pipe takes, and tells whether there is more.
fn feed(
    pipe: &mut impl Write,
    input: &mut impl Read,
    piece: &mut [u8],
    (from, to): &mut (usize, usize),
) -> bool {
    loop {
        if from == to {
            match input.read(piece) {
                Ok(0) | Err(_) => return false,
                Ok(read) => (*from, *to) = (0, read),
            }
        }
        let bytes = piece.get(*from..*to).unwrap_or_default();
        match pipe.write(bytes) {
            Ok(written) => *from += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It is gone, and what it said tells why.
            Err(_) => return false,
        }
    }
}

/// Reads what is there, up to one byte more than there may be. A pipe that has
/// nothing more to say is closed: it would always be ready.
fn take(pipe: &mut Option<impl Read>, to: &mut Vec<u8>, most: usize) -> std::io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let room = (most + 1).saturating_sub(to.len());
    match open.take(room as u64).read_to_end(to) {
        Ok(_) => *pipe = None,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
