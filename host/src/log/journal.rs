//! Logs that are small, in one file for all agents: most agents print a few
//! lines, and a file for each would cost more than all else that a host does
//! for them. What lives in it is in memory too, so that nobody reads it but the
//! host that comes after.
//!
//! Entries of all agents follow one another, each after its agent and number.
//! When the file has grown to twice what lives in it, that is written to a new
//! one, and the old one is removed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::AgentId;
use skep_protocol::event::Stream;

use super::root::{Root, to_make};
use super::segment::{Decoded, Entry, decode, encode, owner};
use super::tail::Stored;

/// A log that costs more has files of its own.
pub(super) const SMALL: u64 = 4 * 1024;

/// A journal is not replaced before it has so many bytes.
const MIN_BOUND: u64 = 8 * 1024 * 1024;

/// What comes before each entry: whose it is, and its number.
const ADDRESS: usize = 16 + 8;

/// In the place of a number: the agent has files of its own now, or is
/// forgotten.
const GONE: u64 = u64::MAX;

const PREFIX: &str = "journal-";

#[derive(Debug)]
pub(super) struct Journal {
    root: Arc<Root>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None until something is written.
    file: Option<File>,
    number: u64,
    bytes: u64,
    /// It is replaced when it has more.
    bound: u64,
    /// Files that the next one replaces.
    replaced: Vec<String>,
    live: HashMap<AgentId, Small>,
    buffer: Vec<u8>,
}

/// A small log, without a hole.
#[derive(Debug, Clone, Default)]
pub(super) struct Small {
    pub(super) first_seq: u64,
    pub(super) records: Vec<Stored>,
}

impl Small {
    /// The number after its last record's.
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64
    }
}

impl Journal {
    /// Takes up what a host before has left; nothing is written yet.
    pub(super) fn open(root: &Arc<Root>) -> io::Result<Self> {
        let mut numbers = Vec::new();
        for entry in root.dir().entries()? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut state = State::default();
        for number in numbers {
            let name = name(number);
            // The newer one may be what a host did not live to finish: it says
            // nothing that the older does not.
            take_up(&root.dir().read(&name)?, &mut state.live);
            state.replaced.push(name);
            state.number = number;
        }
        Ok(Self {
            root: Arc::clone(root),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes records of an agent that follow those that it has here.
    pub(super) fn append(
        &self,
        agent: AgentId,
        first_seq: u64,
        records: &[Stored],
    ) -> io::Result<()> {
        let mut state = self.state();
        state.make_room(&self.root)?;
        state.buffer.clear();
        for (seq, record) in (first_seq..).zip(records) {
            put(agent, seq, &record.entry(), &mut state.buffer);
        }
        state.flush()?;
        let small = state.live.entry(agent).or_insert_with(|| Small {
            first_seq,
            records: Vec::new(),
        });
        small.records.extend(records.iter().cloned());
        Ok(())
    }

    /// What an agent has here.
    pub(super) fn get(&self, agent: AgentId) -> Option<Small> {
        self.state().live.get(&agent).cloned()
    }

    /// Lets go of what an agent has here.
    pub(super) fn release(&self, agent: AgentId) {
        let mut state = self.state();
        if state.live.remove(&agent).is_none() {
            return;
        }
        state.buffer.clear();
        let nothing = Entry {
            stream: Stream::Stdout,
            run: 0,
            time_ns: 0,
            partial: false,
            data: &[],
        };
        put(agent, GONE, &nothing, &mut state.buffer);
        if let Err(error) = state.flush() {
            tracing::warn!(%error, %agent, "the journal of logs does not tell that an agent is gone");
        }
    }

    /// When the newest record of these agents was written.
    pub(super) fn newest_ms_of(&self, is_wanted: impl Fn(&AgentId) -> bool) -> Option<u64> {
        let state = self.state();
        let wanted = state.live.iter().filter(|(agent, _)| is_wanted(agent));
        let newest = wanted.filter_map(|(_, small)| small.records.last());
        newest.map(|record| record.time_ns / 1_000_000).max()
    }

    /// The files that a host before has left.
    pub(super) fn left(&self) -> Vec<String> {
        self.state().replaced.clone()
    }

    /// Lets go of what a host before has left of agents that are not known,
    /// unless this one has gone on with it, and says how many logs that were.
    pub(super) fn sweep(&self, is_known: impl Fn(&AgentId) -> bool) -> usize {
        let mut state = self.state();
        if state.file.is_some() {
            return 0;
        }
        let before = state.live.len();
        // The next journal is without them.
        state.live.retain(|agent, _| is_known(agent));
        if state.live.is_empty() {
            for name in std::mem::take(&mut state.replaced) {
                remove(&self.root, &name);
            }
        }
        before - state.live.len()
    }
}

impl State {
    /// Sees to a file that is not too long.
    fn make_room(&mut self, root: &Root) -> io::Result<()> {
        if self.file.is_some() && self.bytes <= self.bound {
            return Ok(());
        }
        match self.replace(root) {
            // It grows instead; as far again before the next attempt.
            Err(_) if self.file.is_some() => {
                self.bound = self.bytes * 2;
                Ok(())
            }
            replaced => replaced,
        }
    }

    fn replace(&mut self, root: &Root) -> io::Result<()> {
        let new = name(self.number + 1);
        let file = (root.dir())
            .open_with(&new, to_make().truncate(true))?
            .into_std();
        self.buffer.clear();
        for (agent, small) in &self.live {
            for (seq, record) in (small.first_seq..).zip(&small.records) {
                put(*agent, seq, &record.entry(), &mut self.buffer);
            }
        }
        if let Err(error) = file.write_all_at(&self.buffer, 0) {
            remove(root, &new);
            return Err(error);
        }
        for old in self.replaced.drain(..) {
            remove(root, &old);
        }
        self.bytes = self.buffer.len() as u64;
        self.bound = MIN_BOUND.max(self.bytes * 2);
        self.number += 1;
        self.file = Some(file);
        self.replaced.push(new);
        // The next batches are small.
        self.buffer = Vec::new();
        Ok(())
    }

    /// Writes what is in the buffer. What an attempt that failed has left is
    /// overwritten.
    fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.write_all_at(&self.buffer, self.bytes)?;
        self.bytes += self.buffer.len() as u64;
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

fn remove(root: &Root, name: &str) {
    if let Err(error) = root.dir().remove_file(name) {
        let path = root.path(name);
        tracing::warn!(%error, path = %path.display(), "a journal of logs was not removed");
    }
}

fn put(agent: AgentId, seq: u64, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(agent.as_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    encode(owner(agent), seq, entry, out);
}

/// Reads a journal up to its end, or to what is no entry.
fn take_up(mut bytes: &[u8], live: &mut HashMap<AgentId, Small>) {
    while let Some((agent, seq, entry, taken)) = next(bytes) {
        bytes = bytes.get(taken..).unwrap_or_default();
        if seq == GONE {
            live.remove(&agent);
            continue;
        }
        let small = live.entry(agent).or_insert_with(|| Small {
            first_seq: seq,
            records: Vec::new(),
        });
        // It may be there twice, from the journal before.
        if seq == small.end_seq() {
            small.records.push(entry.into());
        }
    }
    if !bytes.is_empty() {
        tracing::warn!(
            torn_bytes = bytes.len(),
            "the end of the journal of logs was not whole, and is cut"
        );
    }
}

fn next(bytes: &[u8]) -> Option<(AgentId, u64, Entry<'_>, usize)> {
    let (agent, rest) = bytes.split_first_chunk::<16>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (agent, seq) = (AgentId::from_bytes(*agent), u64::from_le_bytes(*seq));
    match decode(owner(agent), seq, rest) {
        Decoded::Entry(entry, taken) => Some((agent, seq, entry, ADDRESS + taken)),
        Decoded::Short | Decoded::Damaged => None,
    }
}
