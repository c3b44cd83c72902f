//! How far published records may be ahead of what is on disk: while the disk takes
//! them, not at all. Where it does not, the number is written down before any of
//! them is seen, so that a host which comes after one that was killed gives none of
//! their numbers to other records.
//!
//! It is one number for all agents, in a small file that is there from the first
//! start on and is overwritten in place: that takes no room on a disk that is full.
//! It doubles when it is used up, and is 0 again once every log is whole.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use cap_std::fs::OpenOptions;
use skep_protocol::AgentId;
use tokio::sync::watch;

use super::disk::RETRY;
use super::patience::PATIENCE;
use super::root::{Root, to_make};

const FILE: &str = "allowance";
const NEW: &str = "allowance.new";

/// The first that is granted: an agent that prints little needs no second.
const LEAST: u64 = 1024;

/// What a file that is damaged stands for: more than any agent prints while its
/// disk is in trouble.
const UNKNOWN: u64 = 1 << 32;

#[derive(Debug)]
pub(super) struct Allowance {
    shared: Arc<Shared>,
    left: u64,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Root>,
    state: Mutex<State>,
    work: Condvar,
    /// What the file says, or less. It changes while `state` is locked.
    granted: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// Whose output may have been seen that is not on disk.
    ahead: HashSet<AgentId>,
    /// Whether logs of the host before were not looked at yet.
    before: bool,
    wanted: u64,
    /// What the host before was granted, while that may matter.
    inherited: u64,
    /// Whether the file may say more than is granted.
    excess: bool,
    failing: bool,
    /// Whether it was tried to have the file there.
    tried: bool,
    closed: bool,
}

impl Allowance {
    /// Reads what a host before has left.
    ///
    /// # Errors
    /// If that cannot be read, or the system has no more threads.
    pub(super) fn open(root: &Arc<Root>) -> io::Result<Self> {
        let left = match root.dir().read(FILE) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::error!(
                    path = %root.path(FILE).display(),
                    "how many records were not on disk cannot be told: agents that run again \
                     leave out {UNKNOWN} numbers"
                );
                UNKNOWN
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            root: Arc::clone(root),
            state: Mutex::new(State {
                ahead: HashSet::new(),
                before: true,
                wanted: left,
                inherited: left,
                excess: false,
                failing: false,
                tried: false,
                closed: false,
            }),
            work: Condvar::new(),
            granted: watch::Sender::new(left),
        });
        // One of its own: those that write logs may all wait for the disk.
        thread::Builder::new()
            .name("skep-log-ahead".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.serve()
            })?;
        // Before any agent takes the room; a disk that hangs is not waited for.
        let waited = (shared.work).wait_timeout_while(shared.state(), PATIENCE, |it| !it.tried);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        Ok(Self { shared, left })
    }

    /// How many records of each agent the host before may have published that
    /// are not on disk.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// The logs that the host before has left were looked at: each is whole, or
    /// [ahead](Self::enter).
    pub(super) fn took_up(&self) {
        self.shared.state().before = false;
        self.shared.work.notify_all();
    }

    /// One more log is ahead of its disk. From now on nothing that is granted is
    /// taken back.
    pub(super) fn enter(&self, agent: AgentId) {
        self.shared.state().ahead.insert(agent);
    }

    /// It is whole again, or forgotten.
    pub(super) fn leave(&self, agent: AgentId) {
        self.shared.state().ahead.remove(&agent);
        self.shared.work.notify_all();
    }

    /// Whether every log is whole.
    pub(super) fn is_used_by_none(&self) -> bool {
        self.shared.state().ahead.is_empty()
    }

    /// Waits until a log that has [entered](Self::enter) may be ahead by so many
    /// records.
    pub(super) async fn granted(&self, records: u64) {
        let mut granted = self.shared.granted.subscribe();
        if *granted.borrow_and_update() >= records {
            return;
        }
        // What the host before was granted is not doubled again: it would grow with
        // each that is killed on a full disk.
        {
            let mut state = self.shared.state();
            let own = records.saturating_sub(state.inherited);
            let doubled = own.checked_next_power_of_two().unwrap_or(own).max(LEAST);
            state.wanted = state.wanted.max(state.inherited.saturating_add(doubled));
        }
        self.shared.work.notify_all();
        // The sender is ours.
        let _ = granted.wait_for(|granted| *granted >= records).await;
    }

    /// What is the matter with the logs' disk, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.shared.state();
        let waits = state.wanted > *self.shared.granted.borrow();
        let ahead = state.ahead.len();
        drop(state);
        (ahead > 0).then(|| {
            let consequence = if waits {
                "their output waits until it does"
            } else {
                "their newest records are in memory alone, and lost if the host is killed"
            };
            format!(
                "the disk of the state directory does not take what agents print ({ahead} of \
                 them), and {consequence}: make room there, or see to it; the host's log may say \
                 more"
            )
        })
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only one who writes the file.
    fn serve(&self) {
        // What cannot be made now is made when it is needed.
        let mut file = None;
        let left = *self.granted.borrow();
        let _ = self.put(&mut file, left);
        self.state().tried = true;
        self.work.notify_all();
        while let Some(number) = self.next() {
            let result = self.put(&mut file, number);
            self.wrote(number, &result);
        }
    }

    /// Waits for a number that is to be written.
    fn next(&self) -> Option<u64> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            let granted = *self.granted.borrow();
            if !state.ahead.is_empty() || state.before {
                if state.wanted > granted {
                    state.excess = true;
                    return Some(state.wanted);
                }
            } else if granted > 0 || state.excess {
                // Whoever comes while it is written asks anew.
                state.wanted = 0;
                state.inherited = 0;
                state.excess = true;
                self.granted.send_replace(0);
                return Some(0);
            }
            state = (self.work.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wrote(&self, number: u64, result: &io::Result<()>) {
        let mut state = self.state();
        let failed = result.is_err();
        let changed = std::mem::replace(&mut state.failing, failed) != failed;
        if let Err(error) = result {
            if changed {
                tracing::error!(
                    %error, path = %self.root.path(FILE).display(),
                    "how many records are not on disk cannot be written down"
                );
            }
            if !state.closed {
                let waited = self.work.wait_timeout(state, RETRY);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            return;
        }
        self.granted.send_replace(number);
        state.excess = false;
        drop(state);
        if number > 0 {
            tracing::warn!(
                records = number,
                "agents may publish so many records beyond what is on disk"
            );
        }
    }

    fn put(&self, file: &mut Option<File>, number: u64) -> io::Result<()> {
        let bytes = encode(number);
        if let Some(file) = file {
            return file.write_all_at(&bytes, 0);
        }
        let root = self.root.dir();
        let there = match root.open_with(FILE, OpenOptions::new().write(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Never there in part, or that would be damage.
                let made = root.open_with(NEW, to_make().truncate(true))?.into_std();
                made.write_all_at(&bytes, 0)?;
                root.rename(NEW, root, FILE)?;
                made
            }
            opened => {
                let opened = opened?.into_std();
                opened.write_all_at(&bytes, 0)?;
                opened
            }
        };
        *file = Some(there);
        Ok(())
    }
}

/// The number and its CRC-32, little-endian.
const COPY: usize = 8 + 4;

/// Twice, so that a write that was cut short leaves one that is whole.
fn encode(number: u64) -> [u8; 2 * COPY] {
    let mut bytes = [0; 2 * COPY];
    for copy in bytes.chunks_exact_mut(COPY) {
        if let Some((value, checksum)) = copy.split_first_chunk_mut::<8>() {
            *value = number.to_le_bytes();
            checksum.copy_from_slice(&crc32fast::hash(value).to_le_bytes());
        }
    }
    bytes
}

/// The larger of the two, as far as they are whole.
fn decode(bytes: &[u8]) -> Option<u64> {
    let copies = bytes.chunks_exact(COPY).take(2).filter_map(|copy| {
        let (value, checksum) = copy.split_first_chunk::<8>()?;
        let sound = crc32fast::hash(value).to_le_bytes() == *checksum;
        sound.then(|| u64::from_le_bytes(*value))
    });
    copies.max()
}

#[cfg(test)]
mod tests;
