//! What agents left in their scratch directories: kept until the agent is
//! forgotten, within the operator's bound for all of them; beyond it, what the
//! agent that ended first has left is removed first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::AgentId;
use tokio::sync::Semaphore;

use crate::below;
use crate::scratch::Scratch;

/// How many look into a directory at once. More requests wait; each takes a
/// thread and at most a chunk or a page of memory.
const LOOKS: usize = 4;

/// The directories of agents that have ended.
#[derive(Debug)]
pub struct Kept {
    state: Mutex<State>,
    bound: u64,
    pub looks: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<AgentId, Held>,
    by_age: BTreeMap<u64, AgentId>,
    next_age: u64,
    /// What is to be removed. It counts until it is gone, so that what lies on
    /// the disk is within the bound, however slow that is.
    doomed: VecDeque<Held>,
    /// Whether somebody removes it.
    removing: bool,
    /// Bytes of all of these.
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    age: u64,
    scratch: Scratch,
    bytes: u64,
}

impl State {
    fn take(&mut self, agent: &AgentId) -> Option<Held> {
        let held = self.held.remove(agent)?;
        self.by_age.remove(&held.age);
        Some(held)
    }

    fn take_oldest(&mut self) -> Option<Held> {
        let (_, agent) = self.by_age.pop_first()?;
        self.held.remove(&agent)
    }
}

impl Kept {
    #[must_use]
    pub fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            bound,
            looks: Arc::new(Semaphore::new(LOOKS)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an agent left; removes it where that is nothing, or more than
    /// the bound. What has to go for it is gone when this returns: whoever ends
    /// pays, so that directories never pile up that wait to be removed. Blocks
    /// for as long as that takes.
    pub fn keep(&self, agent: AgentId, scratch: Scratch) {
        let bytes = match below::measure_and_open(scratch.path()) {
            Ok(size) if size.entries == 0 => return,
            Ok(size) => size.bytes,
            Err(error) => {
                tracing::warn!(%error, %agent, "what an agent left cannot be measured and is removed");
                return;
            }
        };
        if bytes > self.bound {
            tracing::info!(%agent, bytes, bound = self.bound, "an agent left more than is kept of all");
            return;
        }
        loop {
            let mut state = self.state();
            if state.bytes.saturating_add(bytes) <= self.bound {
                let age = state.next_age;
                state.next_age += 1;
                state.bytes += bytes;
                state.by_age.insert(age, agent);
                let held = Held {
                    age,
                    scratch,
                    bytes,
                };
                state.held.insert(agent, held);
                return;
            }
            let oldest = state.take_oldest();
            drop(state);
            match oldest {
                Some(oldest) => self.remove(oldest),
                // All of it is being removed by others, and counts until then.
                None => return,
            }
        }
    }

    /// Bytes of what all have left, and how many they may be.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.state().bytes, self.bound)
    }

    /// Bytes of what an agent left.
    #[must_use]
    pub fn bytes_of(&self, agent: &AgentId) -> u64 {
        (self.state().held.get(agent)).map_or(0, |held| held.bytes)
    }

    /// Removes what an agent left, in the background, and says how many bytes
    /// that is.
    pub fn forget(self: &Arc<Self>, agent: &AgentId) -> u64 {
        let mut state = self.state();
        let Some(held) = state.take(agent) else {
            return 0;
        };
        let bytes = held.bytes;
        state.doomed.push_back(held);
        if !std::mem::replace(&mut state.removing, true) {
            let kept = Arc::clone(self);
            tokio::task::spawn_blocking(move || kept.remove_doomed());
        }
        bytes
    }

    fn remove_doomed(&self) {
        loop {
            let mut state = self.state();
            let Some(held) = state.doomed.pop_front() else {
                state.removing = false;
                return;
            };
            drop(state);
            self.remove(held);
        }
    }

    fn remove(&self, held: Held) {
        let bytes = held.bytes;
        // All of it is out of sight at once, and a host that dies in between
        // does not find it again.
        drop(held.scratch.set_aside());
        self.state().bytes -= bytes;
    }
}

impl Drop for Kept {
    /// The host ends, and what its agents left stays for the next one, which
    /// removes what it has no agent for.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, held) in state.held.drain() {
            held.scratch.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn left(root: &Path, bytes: usize) -> (AgentId, Scratch) {
        let agent = AgentId::random();
        let scratch = Scratch::make(root, agent).unwrap();
        if bytes > 0 {
            std::fs::write(scratch.path().join("file"), vec![1; bytes]).unwrap();
        }
        (agent, scratch)
    }

    fn has(kept: &Kept, agent: &AgentId) -> bool {
        kept.state().held.contains_key(agent)
    }

    fn count(root: &Path) -> usize {
        std::fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn the_oldest_makes_room_and_too_much_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let kept = Kept::new(1_000_000);
        let agents: Vec<AgentId> = (0..3)
            .map(|_| {
                let (agent, scratch) = left(root.path(), 400_000);
                kept.keep(agent, scratch);
                agent
            })
            .collect();
        assert!(!has(&kept, &agents[0]) && has(&kept, &agents[1]) && has(&kept, &agents[2]));
        assert_eq!(count(root.path()), 2);
        for bytes in [0, 2_000_000] {
            let (agent, scratch) = left(root.path(), bytes);
            kept.keep(agent, scratch);
            assert!(!has(&kept, &agent), "{bytes}");
        }
        assert_eq!(count(root.path()), 2);
        drop(kept);
        assert_eq!(count(root.path()), 2, "the next host looks after them");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_removed_and_its_room_given_back() {
        let root = tempfile::tempdir().unwrap();
        let kept = Kept::new(u64::MAX);
        let agents: Vec<AgentId> = (0..10)
            .map(|_| {
                let (agent, scratch) = left(root.path(), 10);
                kept.keep(agent, scratch);
                agent
            })
            .collect();
        for agent in &agents {
            kept.forget(agent);
            kept.forget(agent);
            assert!(!has(&kept, agent));
        }
        while kept.state().bytes > 0 || kept.state().removing {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(root.path()), 0);
        assert!(kept.state().by_age.is_empty());
    }
}
