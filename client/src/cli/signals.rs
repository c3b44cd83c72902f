//! Ctrl-C, SIGTERM and what else asks a command to end, often more than once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// The signals that ask this command to end.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    quit: Option<Signal>,
}

impl Signals {
    /// From now on the signals do nothing but come here.
    pub(super) fn new() -> Result<Self, Failure> {
        survive_large_files()?;
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: None,
            quit: None,
        })
    }

    /// The same, with the end of the terminal, unless that is to be survived
    /// (`nohup`).
    pub(super) fn with_hangup() -> Result<Self, Failure> {
        let hangup = match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(listen(SignalKind::hangup())?),
        };
        Ok(Self {
            hangup,
            ..Self::new()?
        })
    }

    /// The same, with all that a terminal sends: for one that has something to
    /// restore.
    pub(super) fn of_terminal() -> Result<Self, Failure> {
        Ok(Self {
            hangup: Some(listen(SignalKind::hangup())?),
            quit: Some(listen(SignalKind::quit())?),
            ..Self::new()?
        })
    }

    /// The next one that a person sends again where the first takes too long. A
    /// terminal that closes sends its own several times. Cancel-safe.
    pub(super) async fn next_but_hangup(&mut self) -> i32 {
        let hangup = SignalKind::hangup().as_raw_value();
        loop {
            let signal = self.next().await;
            if signal != hangup {
                return signal;
            }
        }
    }

    /// The number of the next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            () = heard(&mut self.hangup) => SignalKind::hangup().as_raw_value(),
            () = heard(&mut self.quit) => SignalKind::quit().as_raw_value(),
        }
    }
}

/// A file that would be larger than this process may write (`ulimit -f`) is an
/// error from now on, like a disk that is full. By itself it would end the process,
/// and a host at each start again. What is executed has the signal's default.
fn survive_large_files() -> Result<(), Failure> {
    let too_large = rustix::process::Signal::XFSZ.as_raw();
    listen(SignalKind::from_raw(too_large)).map(drop)
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::of_skep(format!("cannot listen to signals: {error}")))
}

/// Whether whoever started this process has it ignore the signal.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
