//! Who asked for what, and with which result: a line of JSON for each request
//! that changed something and for each that was refused, appended to a file that
//! is rotated.
//!
//! - `asked`: what is told of a request, all of it bounded
//! - `line`: the lines
//! - `ledger`: what waits to be written, and what is summed up or lost
//! - `roll`: the file, and those before it
//!
//! Requests wait for nothing here: a line is put together in a microsecond or
//! two and written by a thread of its own, some hundred microseconds later.
//! While the disk takes nothing, requests go on, what fits into memory waits, and
//! the rest is counted; the count is written when there is room again. The
//! alternative, to refuse what cannot be recorded, would let whoever fills the
//! disk stop the host, and nobody could kill an agent then.

mod asked;
mod ledger;
mod line;
mod roll;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use skep_protocol::WireError;

pub use self::asked::Asked;
use self::ledger::Ledger;
use self::line::Event;
use self::roll::Roll;
use crate::config::Audit as Bounds;

/// After a write has failed, the next is tried this much later.
const RETRY: Duration = Duration::from_secs(1);

/// The record cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit record {} cannot be opened: {error}: mend that, or set [audit] enabled = false",
    path.display()
)]
pub struct OpenError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// The record of one host.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Whether the last write has failed.
    failing: AtomicBool,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    closed: bool,
}

impl Audit {
    /// Opens the record in a directory, which is made, and says that a host has
    /// started.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(dir: &Path, bounds: Bounds, server_id: &str) -> Result<Self, OpenError> {
        let failed = |error| OpenError {
            path: dir.to_owned(),
            error,
        };
        let roll = Roll::open(dir, bounds).map_err(failed)?;
        let mut ledger = Ledger::new(Instant::now());
        ledger.push(&line::of_event(&Event::Started { server_id }));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ledger,
                closed: false,
            }),
            work: Condvar::new(),
            failing: AtomicBool::new(false),
        });
        let writes = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("skep-audit".to_owned())
            .spawn(move || writes.write(roll))
            .map_err(failed)?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Records what was asked and how it ended. Never waits for the disk.
    pub fn record(&self, asked: &Asked, refusal: Option<&WireError>) {
        if let Some(refusal) = refusal {
            // Before a line is put together, so that a flood costs little more
            // than a lock.
            if !self.shared.admits(refusal) {
                return;
            }
        } else if !asked.changes() {
            return;
        }
        let line = line::of_request(asked, refusal);
        self.shared.push(&line, refusal.is_some());
    }

    /// Records what changes something and has no answer yet.
    pub fn record_begun(&self, asked: &Asked) {
        if asked.changes() {
            self.shared.push(&line::of_begun(asked), false);
        }
    }

    /// Whether lines cannot be written at present.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Says that the host has ended, and returns when all is written, or cannot
    /// be.
    pub fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(writer) = writer else { return };
        {
            let mut state = self.shared.state();
            state.ledger.push(&line::of_event(&Event::Ended));
            state.closed = true;
        }
        self.shared.work.notify_one();
        if writer.join().is_err() {
            tracing::error!("the writer of the audit record panicked");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admits(&self, refusal: &WireError) -> bool {
        let mut state = self.state();
        let began_to_sum = !state.ledger.has_sums();
        let admits = state.ledger.admit(refusal.code.as_str(), Instant::now());
        drop(state);
        if !admits && began_to_sum {
            // Its writer must know that there is something to wait for.
            self.work.notify_one();
        }
        admits
    }

    fn push(&self, line: &[u8], refused: bool) {
        let mut state = self.state();
        if refused {
            state.ledger.charge(line.len());
        }
        let was_empty = state.ledger.push(line);
        drop(state);
        if was_empty {
            self.work.notify_one();
        }
    }

    /// What the writer does until the record is closed.
    fn write(&self, mut roll: Roll) {
        let mut lines = Vec::new();
        while self.next(&mut lines) {
            while let Err(error) = roll.append(&mut lines) {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        %error, path = %roll.path().display(),
                        "the audit record cannot be written: lines wait, and then are counted"
                    );
                }
                if self.closed_within(RETRY) {
                    let lost = ledger::count(&lines) + self.state().ledger.left();
                    tracing::error!(lost, "the host ends, and audit lines are lost");
                    return;
                }
            }
            if self.failing.swap(false, Ordering::Relaxed) {
                let lost = self.state().ledger.lost();
                tracing::warn!(lost, "the audit record is written again");
            }
        }
    }

    /// Waits for lines and takes them; `false` when it is closed and all is
    /// taken.
    fn next(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.state();
        loop {
            let (now, closed) = (Instant::now(), state.closed);
            if state.ledger.take(lines, now, closed) {
                return true;
            }
            if closed {
                return false;
            }
            state = match state.ledger.due(now) {
                Some(due) => {
                    let waited = self.work.wait_timeout(state, due);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => (self.work.wait(state)).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether it was closed within that time.
    fn closed_within(&self, time: Duration) -> bool {
        let waited = (self.work).wait_timeout_while(self.state(), time, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }
}

#[cfg(test)]
mod tests;
