//! The agents of a host, by id.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use skep_protocol::op::AgentCounts;
use skep_protocol::{AgentId, AgentState};

use crate::agent::handle::Handle;
use crate::clock::{self, Steady};
use crate::kept::Kept;
use crate::log::{self, Budget};
use crate::past::Past;
use crate::retention::{Bounds, Queue};
use crate::store::{Change, EndedBefore, Known, Store, Unavailable};

/// What was used since is not known of an agent whose host was killed.
const NOTE_PROGRESS: Duration = Duration::from_secs(5);

/// How often it is looked who is too old: a look at one of them.
const LOOK: Duration = Duration::from_secs(1);

/// So many are forgotten at a time. Whoever has something else to do, or to
/// write down, comes in between.
const BATCH: usize = 256;

/// Of what all agents may remember of their output, those that have ended have a
/// quarter however much the others print: one that has just ended is there for whoever
/// asks how. By default it is what one agent may print at most.
const SHARE_OF_ENDED: u64 = 4;

/// Once those that live have to let go of records, so much of the bound is made
/// room: who lets go of how much is not found out for each record.
const ROOM: u64 = 16;

/// Where that was not to be had it is not tried again before this, and writers let
/// go of their own.
const BREATH: Duration = Duration::from_millis(100);

/// All agents that the host remembers.
#[derive(Debug)]
pub struct Registry {
    /// Those of this host.
    agents: DashMap<AgentId, Handle>,
    /// Those of hosts before.
    pub past: Past,
    /// Those that have ended, of this host and of others.
    ended: Mutex<Queue>,
    bounds: Bounds,
    /// By which they grow old.
    clock: Steady,
    history: Arc<Budget>,
    store: Store,
    kept: Arc<Kept>,
    /// Of hosts before, and not taken up yet: as many as they left, at most.
    postponed: DashSet<AgentId>,
}

/// What is kept of agents that have ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub agents: u64,
    pub oldest_ms: Option<u64>,
    pub bounds: Bounds,
    /// Of the agents that have not ended, too.
    pub history_bytes: u64,
    pub max_history_bytes: u64,
}

/// What was forgotten, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub agents: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Forgotten {
    fn add_assign(&mut self, more: Self) {
        self.agents += more.agents;
        self.bytes += more.bytes;
    }
}

impl Registry {
    #[must_use]
    pub fn new(
        bounds: Bounds,
        history: Arc<Budget>,
        past: Past,
        store: Store,
        kept: Arc<Kept>,
    ) -> Self {
        Self {
            agents: DashMap::new(),
            past,
            ended: Mutex::default(),
            bounds,
            clock: Steady::since(clock::now_ms()),
            history,
            store,
            kept,
            postponed: DashSet::new(),
        }
    }

    /// Whether the agent is there.
    #[must_use]
    pub fn has(&self, id: &AgentId) -> bool {
        self.agents.contains_key(id) || self.past.has(id)
    }

    /// Notes that an agent is there and cannot be taken up now, and says whether
    /// that is new.
    pub fn postpone(&self, id: AgentId) -> bool {
        self.postponed.insert(id)
    }

    /// How many these are.
    #[must_use]
    pub fn postponed(&self) -> usize {
        self.postponed.len()
    }

    /// Notes that it was.
    pub fn is_taken_up(&self, id: &AgentId) {
        self.postponed.remove(id);
    }

    pub fn insert(&self, handle: Handle) {
        self.agents.insert(handle.id, handle);
    }

    /// The agent of that id, from the store if it ended under a host before.
    ///
    /// # Errors
    /// If the store cannot be read, or the agent could not be taken up from it yet.
    pub async fn get(&self, id: AgentId) -> Result<Option<Handle>, Unavailable> {
        if self.postponed.contains(&id) {
            return Err(Unavailable::yet());
        }
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
        self.queue().remove(id);
        let _ = self.store.write(Change::Forgotten(vec![id])).await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how many bytes were kept of it.
    fn remove(&self, id: &AgentId) -> u64 {
        let files = self.kept.forget(id);
        let record = match self.agents.remove(id) {
            Some((_, handle)) => {
                let bytes = handle.history.bytes();
                handle.history.forget();
                bytes
            }
            None => self.past.forget(id).unwrap_or_default(),
        };
        record + files
    }

    fn bytes(&self, id: &AgentId) -> u64 {
        let record = match self.agents.get(id) {
            Some(handle) => handle.history.bytes(),
            None => self.past.bytes(id).unwrap_or_default(),
        };
        record + self.kept.bytes_of(id)
    }

    /// Up to `count` of the agents of this host that are wanted, by id: the first
    /// ones.
    #[must_use]
    pub fn first(&self, count: usize, wanted: impl Fn(&Handle) -> bool) -> Vec<Handle> {
        let mut first: BTreeMap<AgentId, Handle> = BTreeMap::new();
        for entry in &self.agents {
            let handle = entry.value();
            let too_late = |(last, _): (&AgentId, _)| *last < handle.id;
            if first.len() == count && first.last_key_value().is_none_or(too_late) {
                continue;
            }
            if wanted(handle) {
                first.insert(handle.id, handle.clone());
                if first.len() > count {
                    first.pop_last();
                }
            }
        }
        first.into_values().collect()
    }

    /// Notes that an agent has ended, and forgets the oldest of those that
    /// have, as far as the operator's bounds ask.
    pub async fn has_ended(&self, id: AgentId) {
        // It may have been forgotten between its end and this.
        let bytes = self.agents.get(&id).map(|agent| agent.history.bytes());
        let too_many = match bytes {
            Some(bytes) => self.enter(id, u64::MAX, bytes),
            None => Vec::new(),
        };
        self.forget_all(too_many).await;
    }

    /// The same, of agents that ended under a host before. They come oldest first,
    /// before any of this host.
    pub async fn had_ended(&self, agents: Vec<EndedBefore>) {
        let mut too_many = Vec::new();
        for agent in agents {
            self.past.take_up(agent);
            too_many.extend(self.enter(agent.id, agent.ended_ms, agent.bytes));
            // The operator may have lowered the bound by any number.
            if too_many.len() >= BATCH {
                self.forget_all(std::mem::take(&mut too_many)).await;
            }
        }
        self.forget_all(too_many).await;
    }

    /// Gives those that are too many. Nobody ended later than now.
    fn enter(&self, id: AgentId, ended_ms: u64, bytes: u64) -> Vec<AgentId> {
        let mut queue = self.queue();
        queue.enter(id, ended_ms, bytes, self.clock.now_ms(), &self.bounds)
    }

    async fn forget_all(&self, ids: Vec<AgentId>) {
        if ids.is_empty() {
            return;
        }
        for id in &ids {
            self.remove(id);
        }
        self.store.write_what_happened(Change::Forgotten(ids)).await;
    }

    /// What is kept of agents that have ended.
    #[must_use]
    pub fn ended(&self) -> Ended {
        let queue = self.queue();
        Ended {
            agents: queue.len() as u64,
            oldest_ms: queue.oldest_ms(),
            bounds: self.bounds,
            history_bytes: self.history.used(),
            max_history_bytes: self.history.bound(),
        }
    }

    /// By when an agent ended that is so old now, by default as old as one may
    /// become.
    fn ended_by(&self, age_ms: Option<u64>) -> Option<u64> {
        let age_ms = age_ms.unwrap_or_else(|| self.bounds.max_age_ms());
        self.clock.now_ms().checked_sub(age_ms)
    }

    /// What [`forget_older`](Self::forget_older) would forget now.
    #[must_use]
    pub fn older(&self, age_ms: Option<u64>) -> Forgotten {
        let Some(by_ms) = self.ended_by(age_ms) else {
            return Forgotten::default();
        };
        let ids: Vec<_> = self.queue().by(by_ms).collect();
        Forgotten {
            agents: ids.len() as u64,
            bytes: ids.iter().map(|id| self.bytes(id)).sum(),
        }
    }

    /// Forgets those that ended at least so long ago, by default those that are
    /// too old, oldest first.
    pub async fn forget_older(&self, age_ms: Option<u64>) -> Forgotten {
        let mut forgotten = Forgotten::default();
        // Those that end from now on are not meant.
        let Some(by_ms) = self.ended_by(age_ms) else {
            return forgotten;
        };
        loop {
            let ids = self.queue().take(by_ms, BATCH);
            if ids.is_empty() {
                return forgotten;
            }
            forgotten += Forgotten {
                agents: ids.len() as u64,
                bytes: ids.iter().map(|id| self.remove(id)).sum(),
            };
            // One batch is written down before the next begins. What cannot be
            // written now is owed.
            let _ = self.store.write(Change::Forgotten(ids)).await;
        }
    }

    /// Forgets agents once they are too old. Never returns.
    pub async fn forget_what_is_too_old(&self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Forgotten { agents, bytes } = self.forget_older(None).await;
            if agents > 0 {
                tracing::debug!(agents, bytes, "agents that ended long ago are forgotten");
            }
        }
    }

    /// Writes down now and then how far agents that run have come, for the case
    /// that the host dies. Never returns.
    pub async fn note_progress(&self) {
        let mut written: HashMap<AgentId, Known> = HashMap::new();
        let mut due = tokio::time::interval(NOTE_PROGRESS);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let mut seen = HashMap::new();
            let begun = |handle: &Handle| {
                !matches!(handle.state(), AgentState::Queued | AgentState::Exited)
            };
            for handle in self.first(usize::MAX, begun) {
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

    /// Whenever what all remember of their output is over its bound, forgets agents
    /// that have ended, oldest first, down to their share of it; beyond that, those
    /// that have not let go of what they remember. Never returns.
    pub async fn keep_history_bounded(&self) {
        let share = self.history.bound() / SHARE_OF_ENDED;
        loop {
            self.history.pressure().await;
            while self.history.is_exceeded() {
                let Some(oldest) = self.queue().pop_beyond(share) else {
                    break;
                };
                self.forget_all(vec![oldest]).await;
            }
            if self.history.is_exceeded() {
                self.make_room();
            }
            if self.history.is_exceeded() {
                tokio::time::sleep(BREATH).await;
            }
        }
    }

    /// Lets those that have not ended forget their oldest records: who remembers
    /// most first, until all have as much.
    fn make_room(&self) {
        let bound = self.history.bound();
        let too_much = self.history.used().saturating_sub(bound - bound / ROOM);
        let live = self.first(usize::MAX, |agent| !agent.has_ended());
        let level = log::level(
            live.iter().map(|agent| agent.history.log_bytes()).collect(),
            too_much,
        );
        for agent in live {
            agent.history.let_go_beyond(level);
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
