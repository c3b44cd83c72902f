//! What a host has counted since its start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_protocol::op::Op;
use skep_protocol::{ErrorCode, Outcome};

/// Counts requests by operation and result, spawns, and outcomes by kind. The
/// keys are names of the protocol, so the tables cannot grow.
#[derive(Debug, Default)]
pub struct Tally {
    requests: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    spawns: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// Counts an answer; `op` is `None` for what was no request.
    pub fn answered(&self, op: Option<Op>, refused: Option<ErrorCode>) {
        let key = (
            op.map_or("-", Op::as_str),
            refused.map_or("ok", ErrorCode::as_str),
        );
        *lock(&self.requests).entry(key).or_default() += 1;
    }

    /// Counts an agent that was started.
    pub fn spawned(&self) {
        self.spawns.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an agent that has ended.
    pub fn ended(&self, outcome: &Outcome) {
        *lock(&self.outcomes).entry(outcome.kind()).or_default() += 1;
    }

    /// How many agents were started.
    #[must_use]
    pub fn spawns(&self) -> u64 {
        self.spawns.load(Ordering::Relaxed)
    }

    /// Requests, by operation and then by result.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut by_op: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((op, result), count) in &*lock(&self.requests) {
            by_op
                .entry((*op).to_owned())
                .or_default()
                .insert((*result).to_owned(), *count);
        }
        by_op
    }

    /// Agents that have ended, by the kind of their outcome.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        lock(&self.outcomes)
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count))
            .collect()
    }
}
