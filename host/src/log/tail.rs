//! The newest records of one agent, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::event::Stream;

use super::budget::Budget;
use super::segment::Entry;

/// What a record costs besides its bytes, so that a million empty lines are
/// not free: about what its entry takes.
const RECORD_OVERHEAD: u64 = 64;

/// What a record of so many bytes costs.
pub(super) const fn cost(data_bytes: usize) -> u64 {
    data_bytes as u64 + RECORD_OVERHEAD
}

/// One record, without what all records of an agent share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) stream: Stream,
    pub(super) run: u64,
    pub(super) time_ns: u64,
    pub(super) partial: bool,
    pub(super) data: Bytes,
}

impl Stored {
    pub(super) fn cost(&self) -> u64 {
        cost(self.data.len())
    }

    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            stream: self.stream,
            run: self.run,
            time_ns: self.time_ns,
            partial: self.partial,
            data: &self.data,
        }
    }
}

impl From<Entry<'_>> for Stored {
    fn from(entry: Entry<'_>) -> Self {
        Self {
            stream: entry.stream,
            run: entry.run,
            time_ns: entry.time_ns,
            partial: entry.partial,
            data: Bytes::copy_from_slice(entry.data),
        }
    }
}

/// Records without a hole up to the newest, within a bound of their own and one
/// that all agents share.
#[derive(Debug)]
pub(super) struct Tail {
    records: VecDeque<Stored>,
    first_seq: u64,
    cost: u64,
    bound: u64,
    budget: Arc<Budget>,
}

impl Tail {
    pub(super) fn new(first_seq: u64, bound: u64, budget: Arc<Budget>) -> Self {
        Self {
            records: VecDeque::new(),
            first_seq,
            cost: 0,
            bound,
            budget,
        }
    }

    /// What its records cost.
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// The number of the first record that is there.
    pub(super) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The number that the next record will have.
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64
    }

    /// Adds records; the oldest go where a bound is exceeded.
    pub(super) fn append(&mut self, records: &[Stored]) {
        let added = records.iter().map(Stored::cost).sum();
        self.records.extend(records.iter().cloned());
        self.cost += added;
        self.budget.add(added);
        while self.cost > self.bound || (self.budget.is_overrun() && self.records.len() > 1) {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    /// Lets go of all but the newest within this bound.
    pub(super) fn shrink(&mut self, bound: u64) {
        while self.cost > bound && self.drop_oldest() {}
        self.records.shrink_to_fit();
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.records.pop_front() else {
            return false;
        };
        self.first_seq += 1;
        self.cost -= oldest.cost();
        self.budget.give_back(oldest.cost());
        true
    }

    /// The records from this number on, as far as they are there.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &Stored)> {
        let start = seq.max(self.first_seq);
        let skip = usize::try_from(start - self.first_seq).unwrap_or(usize::MAX);
        (start..).zip(self.records.iter().skip(skip))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.budget.give_back(self.cost);
    }
}
