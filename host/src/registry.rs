//! The agents of a host, by id.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use skep_protocol::op::AgentCounts;
use skep_protocol::{AgentId, AgentState};

use crate::agent::handle::Handle;
use crate::log::Budget;

/// All agents that the host remembers.
#[derive(Debug)]
pub struct Registry {
    agents: DashMap<AgentId, Handle>,
    /// Those that have ended, oldest first.
    ended: Mutex<VecDeque<AgentId>>,
    max_ended: usize,
    history: Arc<Budget>,
}

impl Registry {
    #[must_use]
    pub fn new(max_ended: usize, history: Arc<Budget>) -> Self {
        Self {
            agents: DashMap::new(),
            ended: Mutex::default(),
            max_ended,
            history,
        }
    }

    pub fn insert(&self, handle: Handle) {
        self.agents.insert(handle.id, handle);
    }

    #[must_use]
    pub fn get(&self, id: &AgentId) -> Option<Handle> {
        self.agents.get(id).map(|handle| handle.clone())
    }

    /// Forgets an agent that has ended.
    pub fn forget(&self, id: &AgentId) {
        self.remove(id);
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|ended| ended != id);
    }

    fn remove(&self, id: &AgentId) {
        if let Some((_, handle)) = self.agents.remove(id) {
            handle.history.forget();
        }
    }

    /// Every agent, by id. Costs a copy of all references.
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
    pub fn has_ended(&self, id: AgentId) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been forgotten between its end and this.
        if self.agents.contains_key(&id) {
            ended.push_back(id);
        }
        while ended.len() > self.max_ended {
            let Some(oldest) = ended.pop_front() else {
                break;
            };
            self.remove(&oldest);
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
                self.remove(&oldest);
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
