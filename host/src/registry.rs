//! The agents of a host, by id.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use skep_protocol::op::AgentCounts;
use skep_protocol::{AgentId, AgentState};

use crate::agent::handle::Handle;
use crate::kept::Kept;
use crate::log::Budget;
use crate::past::Past;
use crate::store::{Change, EndedBefore, Known, Store, Unavailable};

/// What was used since is not known of an agent whose host was killed.
const NOTE_PROGRESS: Duration = Duration::from_secs(5);

/// All agents that the host remembers.
#[derive(Debug)]
pub struct Registry {
    /// Those of this host.
    agents: DashMap<AgentId, Handle>,
    /// Those of hosts before.
    pub past: Past,
    /// Those that have ended, of this host and of others, oldest first.
    ended: Mutex<VecDeque<AgentId>>,
    max_ended: usize,
    history: Arc<Budget>,
    store: Store,
    kept: Arc<Kept>,
}

impl Registry {
    #[must_use]
    pub fn new(
        max_ended: usize,
        history: Arc<Budget>,
        past: Past,
        store: Store,
        kept: Arc<Kept>,
    ) -> Self {
        Self {
            agents: DashMap::new(),
            past,
            ended: Mutex::default(),
            max_ended,
            history,
            store,
            kept,
        }
    }

    pub fn insert(&self, handle: Handle) {
        self.agents.insert(handle.id, handle);
    }

    /// The agent of that id, from the store if it ended under a host before.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn get(&self, id: AgentId) -> Result<Option<Handle>, Unavailable> {
        let here = self.agents.get(&id).map(|handle| handle.clone());
        match here {
            Some(handle) => Ok(Some(handle)),
            None => self.past.recall(id).await,
        }
    }

    /// Forgets an agent that has ended. Where that cannot be written down now,
    /// it is later.
    pub async fn forget(&self, id: AgentId) {
        self.remove(&id);
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|ended| *ended != id);
        let _ = self.store.write(Change::Forgotten(vec![id])).await;
    }

    fn remove(&self, id: &AgentId) {
        self.kept.forget(id);
        match self.agents.remove(id) {
            Some((_, handle)) => handle.history.forget(),
            None => {
                self.past.forget(id);
            }
        }
    }

    /// Every agent of this host, by id. Costs a copy of all references.
    #[must_use]
    pub fn sorted(&self) -> Vec<Handle> {
        let mut all: Vec<Handle> = self
            .agents
            .iter()
            .map(|entry| entry.value().clone())
            .collect();
        all.sort_unstable_by_key(|handle| handle.id);
        all
    }

    /// Notes that an agent has ended, and forgets the oldest of those that
    /// have, as far as the operator's bounds ask.
    pub async fn has_ended(&self, id: AgentId) {
        // It may have been forgotten between its end and this.
        let oldest = if self.agents.contains_key(&id) {
            self.enter(id)
        } else {
            Vec::new()
        };
        self.forget_all(oldest).await;
    }

    /// The same, of an agent that ended under a host before. They come oldest
    /// first, before any of this host.
    pub async fn had_ended(&self, agent: EndedBefore) {
        self.past.take_up(agent);
        let oldest = self.enter(agent.id);
        self.forget_all(oldest).await;
    }

    /// Gives those that are too many.
    fn enter(&self, id: AgentId) -> Vec<AgentId> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(id);
        let too_many = ended.len().saturating_sub(self.max_ended);
        ended.drain(..too_many).collect()
    }

    async fn forget_all(&self, ids: Vec<AgentId>) {
        if ids.is_empty() {
            return;
        }
        for id in &ids {
            self.remove(id);
        }
        self.store.note(Change::Forgotten(ids)).await;
    }

    /// Writes down now and then how far agents that run have come, for the case
    /// that the host dies. Never returns.
    pub async fn note_progress(&self) {
        let mut written: HashMap<AgentId, Known> = HashMap::new();
        let mut due = tokio::time::interval(NOTE_PROGRESS);
        loop {
            due.tick().await;
            let mut seen = HashMap::new();
            for handle in self.sorted() {
                if matches!(handle.state(), AgentState::Queued | AgentState::Exited) {
                    continue;
                }
                let known = handle.known();
                if written.get(&handle.id) != Some(&known) {
                    self.store
                        .note(Change::Seen(handle.id, Box::new(known.clone())))
                        .await;
                }
                seen.insert(handle.id, known);
            }
            written = seen;
        }
    }

    /// Forgets agents that have ended, oldest first, whenever what all remember
    /// of their output is over its bound. Never returns.
    pub async fn keep_history_bounded(&self) {
        loop {
            self.history.pressure().await;
            while self.history.is_exceeded() {
                let oldest = self
                    .ended
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some(oldest) = oldest else { break };
                self.forget_all(vec![oldest]).await;
            }
        }
    }
}

/// How many agents are in which state, kept by their drivers as they move, so
/// that asking costs the same however many there are.
#[derive(Debug, Default)]
pub struct StateCounts([AtomicU64; AgentState::ALL.len()]);

impl StateCounts {
    fn of(&self, state: AgentState) -> Option<&AtomicU64> {
        AgentState::ALL
            .iter()
            .zip(&self.0)
            .find(|(known, _)| **known == state)
            .map(|(_, count)| count)
    }

    /// Notes that an agent has come from one state, or from nowhere, to another.
    pub fn moved(&self, from: Option<AgentState>, to: AgentState) {
        if let Some(count) = self.of(to) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = from.and_then(|from| self.of(from)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn read(&self) -> AgentCounts {
        let count = |state| {
            self.of(state)
                .map_or(0, |count| count.load(Ordering::Relaxed))
        };
        AgentCounts {
            queued: count(AgentState::Queued),
            starting: count(AgentState::Starting),
            running: count(AgentState::Running),
            paused: count(AgentState::Paused),
            stopping: count(AgentState::Stopping),
        }
    }
}
