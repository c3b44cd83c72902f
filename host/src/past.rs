//! Agents that ended under a host before: their records stay in the store until
//! somebody asks for one. A hundred thousand of them cost the start of a host
//! a look through the store's file, which is checked then, and the reading of an
//! index, and its memory an entry each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::{AgentId, AgentName};

use crate::agent::handle::Handle;
use crate::log::{Budget, Logs};
use crate::store::{EndedBefore, Record, Store, Unavailable};

/// Those that were asked for last stay as they are, with what is known of where
/// their records are in their logs: a log is read in many requests.
const RECALLED: usize = 64;

#[derive(Debug, Default)]
struct State {
    /// What each has in bytes. As many as the operator keeps of ended agents, at
    /// most.
    bytes: BTreeMap<AgentId, u64>,
    /// Least recently asked for first.
    recalled: VecDeque<Handle>,
    /// Those of whom it was told that they are left out of lists.
    left_out: BTreeSet<AgentId>,
}

impl State {
    /// One that is at hand.
    fn use_again(&mut self, id: AgentId) -> Option<Handle> {
        let at = self.recalled.iter().position(|handle| handle.id == id)?;
        let handle = self.recalled.remove(at)?;
        self.recalled.push_back(handle.clone());
        Some(handle)
    }
}

/// The agents that hosts before have left.
#[derive(Debug)]
pub struct Past {
    store: Store,
    logs: Logs,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

impl Past {
    #[must_use]
    pub fn new(store: Store, logs: Logs, budget: Arc<Budget>) -> Self {
        Self {
            store,
            logs,
            budget,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up an agent, and counts its bytes.
    pub fn take_up(&self, agent: EndedBefore) {
        self.budget.add(agent.bytes);
        self.state().bytes.insert(agent.id, agent.bytes);
    }

    #[must_use]
    pub fn has(&self, id: &AgentId) -> bool {
        self.state().bytes.contains_key(id)
    }

    /// Up to `count` ids after one, in their order.
    #[must_use]
    pub fn ids_after(&self, after: Option<AgentId>, count: usize) -> Vec<AgentId> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = state.bytes.range((from, Bound::Unbounded));
        ids.take(count).map(|(id, _)| *id).collect()
    }

    /// Those of a name, in the order of their ids.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn named(&self, name: AgentName) -> Result<Vec<AgentId>, Unavailable> {
        if self.state().bytes.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = self.store.named(name).await?;
        let state = self.state();
        ids.retain(|id| state.bytes.contains_key(id));
        ids.sort_unstable();
        Ok(ids)
    }

    /// One agent, kept at hand for who asks again.
    ///
    /// # Errors
    /// If the store, or what it has of the agent, cannot be read.
    pub async fn recall(&self, id: AgentId) -> Result<Option<Handle>, Unavailable> {
        {
            let mut state = self.state();
            if !state.bytes.contains_key(&id) {
                return Ok(None);
            }
            if let Some(handle) = state.use_again(id) {
                return Ok(Some(handle));
            }
        }
        let handle = match self.store.recall(vec![id]).await?.pop() {
            Some(record) => self.handle(record)?,
            None => return Ok(None),
        };
        let mut state = self.state();
        // Two may have asked at once, and share what the first has found.
        if let Some(other) = state.use_again(id) {
            return Ok(Some(other));
        }
        if !state.bytes.contains_key(&id) {
            return Ok(None);
        }
        if state.recalled.len() == RECALLED {
            state.recalled.pop_front();
        }
        state.recalled.push_back(handle.clone());
        Ok(Some(handle))
    }

    /// These agents, as far as they are there. One of which the record cannot be
    /// read is left out, which is told once.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn recall_all(&self, ids: Vec<AgentId>) -> Result<Vec<Handle>, Unavailable> {
        let records = self.store.recall(ids).await?;
        let mut handles = Vec::with_capacity(records.len());
        for record in records {
            let id = record.0;
            match self.handle(record) {
                Ok(handle) => handles.push(handle),
                Err(error) if self.leave_out(id) => {
                    tracing::warn!(%error, "an agent is left out of lists");
                }
                Err(_) => {}
            }
        }
        Ok(handles)
    }

    fn handle(&self, (id, record): Record) -> Result<Handle, Unavailable> {
        let (born, known) = record?;
        let bound = born.limits.output_history_bytes;
        let history = self.logs.recall(id, bound, known.next_seq);
        Ok(Handle::of_record(id, &born, known, history))
    }

    /// Whether it was not told of before.
    fn leave_out(&self, id: AgentId) -> bool {
        let mut state = self.state();
        state.bytes.contains_key(&id) && state.left_out.insert(id)
    }

    /// What is remembered of an agent, in bytes.
    #[must_use]
    pub fn bytes(&self, id: &AgentId) -> Option<u64> {
        self.state().bytes.get(id).copied()
    }

    /// Forgets an agent, with its log, and says how many bytes that were.
    pub fn forget(&self, id: &AgentId) -> Option<u64> {
        let mut state = self.state();
        let bytes = state.bytes.remove(id)?;
        state.left_out.remove(id);
        let at = state.recalled.iter().position(|handle| handle.id == *id);
        let recalled = at.and_then(|at| state.recalled.remove(at));
        drop(state);
        self.budget.give_back(bytes);
        match recalled {
            Some(handle) => handle.history.forget(),
            None => self.logs.recall(*id, 0, 0).forget(),
        }
        Some(bytes)
    }
}
