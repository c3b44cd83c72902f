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

/// What of the bound is little: a hundredth.
const LITTLE: u64 = 100;

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
    /// Bytes of all that is held.
    bytes: u64,
    /// What is to be removed.
    doomed: VecDeque<Held>,
    /// Bytes of it, until they are gone.
    doomed_bytes: u64,
    /// Whether somebody removes it.
    removing: bool,
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
        self.bytes -= held.bytes;
        Some(held)
    }

    /// Gives up what an agent left, and says how many bytes that is.
    fn doom(&mut self, agent: &AgentId) -> u64 {
        let Some(held) = self.take(agent) else {
            return 0;
        };
        let bytes = held.bytes;
        self.doomed_bytes += bytes;
        self.doomed.push_back(held);
        bytes
    }

    fn oldest(&self) -> Option<AgentId> {
        self.by_age.first_key_value().map(|(_, agent)| *agent)
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
    /// the bound. What has to go for it is removed in the background: whoever ends
    /// waits for the removal of nothing but what it left itself. That it does where
    /// with it more than twice the bound (of little, three times) would lie on the
    /// disk, or directories would pile up that wait to be removed. Blocks for as long
    /// as it takes to look through what it left.
    pub fn keep(self: &Arc<Self>, agent: AgentId, scratch: Scratch) {
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
        let mut state = self.state();
        let all = (state.bytes.saturating_add(state.doomed_bytes)).saturating_add(bytes);
        // Nobody's little is lost because others left much.
        let times = if bytes <= self.bound / LITTLE { 3 } else { 2 };
        if all > self.bound.saturating_mul(times) {
            drop(state);
            tracing::warn!(%agent, bytes, "what an agent left is not kept: too much waits to be removed");
            return;
        }
        while state.bytes.saturating_add(bytes) > self.bound
            && let Some(oldest) = state.oldest()
        {
            state.doom(&oldest);
        }
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
        self.see_to_doomed(&mut state);
    }

    /// Bytes of what is kept of all, and how many they may be.
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
        let bytes = state.doom(agent);
        self.see_to_doomed(&mut state);
        bytes
    }

    fn see_to_doomed(self: &Arc<Self>, state: &mut State) {
        if !state.doomed.is_empty() && !std::mem::replace(&mut state.removing, true) {
            let kept = Arc::clone(self);
            tokio::task::spawn_blocking(move || kept.remove_doomed());
        }
    }

    /// Removes what is to be removed. Blocks for as long as that takes.
    pub fn remove_doomed(&self) {
        loop {
            let mut state = self.state();
            let Some(held) = state.doomed.pop_front() else {
                state.removing = false;
                return;
            };
            drop(state);
            // All of it is out of sight at once, and a host that dies in between
            // does not find it again.
            drop(held.scratch.set_aside());
            self.state().doomed_bytes -= held.bytes;
        }
    }
}

impl Drop for Kept {
    /// The host ends, and what its agents left stays for the next one, which
    /// removes what it has no agent for.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let held = state.held.drain().map(|(_, held)| held);
        for held in held.chain(state.doomed.drain(..)) {
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

    async fn removed(kept: &Kept) {
        let removed = async {
            while kept.state().doomed_bytes > 0 || kept.state().removing {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, removed).await.unwrap();
    }

    #[test]
    fn who_ends_waits_for_the_removal_of_nothing_else() {
        // One thread that blocks, which is busy at first.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let root = tempfile::tempdir().unwrap();
        let kept = Kept::new(1_000_000);
        let keep = |bytes| {
            let (agent, scratch) = left(root.path(), bytes);
            kept.keep(agent, scratch);
            agent
        };
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocker = tokio::task::spawn_blocking(move || released.recv());
        let (first, second) = (keep(700_000), keep(600_000));
        assert!(!has(&kept, &first) && has(&kept, &second));
        assert_eq!(count(root.path()), 2);
        // There is no more than twice the bound.
        let third = keep(900_000);
        assert!(!has(&kept, &third) && has(&kept, &second));
        assert_eq!(count(root.path()), 2);
        // But for those who left little.
        let there = kept.totals().0 + kept.state().doomed_bytes;
        let most = keep(usize::try_from(2_000_000 - there).unwrap() - 20_000);
        assert!(has(&kept, &most) && !has(&kept, &second));
        assert!(!has(&kept, &keep(30_000)));
        for _ in 0..8 {
            assert!(has(&kept, &keep(1)));
        }
        drop(release);
        assert!(runtime.block_on(blocker).unwrap().is_err());
        runtime.block_on(removed(&kept));
        assert_eq!(count(root.path()), 9);
        let third = keep(900_000);
        assert!(has(&kept, &third) && !has(&kept, &most));
        runtime.block_on(removed(&kept));
        assert_eq!(count(root.path()), 9);
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_too_much_is_not_kept() {
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
        removed(&kept).await;
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
        removed(&kept).await;
        assert_eq!(kept.state().bytes, 0);
        assert_eq!(count(root.path()), 0);
        assert!(kept.state().by_age.is_empty());
    }
}
