//! What is remembered of one agent's output: its newest records within the
//! limit `output_history_bytes`, and within what all agents share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_bytes::ByteBuf;
use skep_protocol::AgentId;
use skep_protocol::event::{LogRecord, Stream};
use skep_protocol::op::SeqRange;
use tokio::sync::Notify;

/// What a record costs besides its bytes, so that a million empty lines are
/// not free: about what its entry takes.
const RECORD_OVERHEAD: u64 = 64;

/// Bytes of history that all agents of a host have in common.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    /// What was let go of, counted on and on.
    freed: AtomicU64,
    bound: u64,
    pressure: Notify,
}

impl Budget {
    #[must_use]
    pub fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            bound,
            pressure: Notify::new(),
        })
    }

    /// Whether more is remembered than the operator allows.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.bound
    }

    /// Waits until more is remembered than the operator allows, so that agents
    /// which have ended can be forgotten.
    pub async fn pressure(&self) {
        self.pressure.notified().await;
    }

    /// How many bytes were let go of since the start.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    fn free(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether those that still write have to let go of their own: an eighth
    /// over the bound, to leave time for forgetting others first.
    fn is_overrun(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.bound.saturating_add(self.bound / 8)
    }
}

/// One record, without what all records of an agent share.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) stream: Stream,
    pub(super) time_ns: u64,
    pub(super) partial: bool,
    pub(super) data: Bytes,
}

impl Stored {
    fn cost(&self) -> u64 {
        self.data.len() as u64 + RECORD_OVERHEAD
    }
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Stored>,
    /// The number of the first record that is still there.
    first_seq: u64,
    bytes: u64,
}

impl State {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64
    }
}

/// A piece of a history.
#[derive(Debug, PartialEq)]
pub struct Window {
    pub records: Vec<LogRecord>,
    pub next_seq: u64,
    pub expired: Option<SeqRange>,
    /// Whether nothing is left after `next_seq` for now.
    pub caught_up: bool,
}

/// The newest records of one agent.
#[derive(Debug)]
pub struct History {
    agent: AgentId,
    bound: u64,
    budget: Arc<Budget>,
    /// Bytes that the agent's record takes besides its output.
    record_bytes: u64,
    state: Mutex<State>,
}

impl History {
    #[must_use]
    pub fn new(agent: AgentId, bound: u64, budget: Arc<Budget>) -> Self {
        Self {
            agent,
            bound,
            budget,
            record_bytes: 0,
            state: Mutex::default(),
        }
    }

    /// Counts what else is remembered of the agent, such as its texts, to what
    /// all agents share.
    #[must_use]
    pub fn charged(mut self, bytes: u64) -> Self {
        self.record_bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds records and gives the number of the first. The oldest expire where
    /// the limit, or what all agents share, is exceeded.
    pub(super) fn append(&self, records: &[Stored]) -> u64 {
        let mut state = self.state();
        let first = state.next_seq();
        let mut added = 0;
        for record in records {
            added += record.cost();
            state.records.push_back(record.clone());
        }
        state.bytes += added;
        self.budget.used.fetch_add(added, Ordering::Relaxed);
        if self.budget.is_exceeded() {
            self.budget.pressure.notify_one();
        }
        while state.bytes > self.bound || (self.budget.is_overrun() && state.records.len() > 1) {
            let Some(oldest) = state.records.pop_front() else {
                break;
            };
            state.first_seq += 1;
            state.bytes -= oldest.cost();
            self.budget.free(oldest.cost());
        }
        first
    }

    /// The number that the next record will have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.state().next_seq()
    }

    /// The records of these streams from `from_seq` on, until their bytes
    /// reach `max_bytes`; one is given however long it is. Costs are those of
    /// the records passed, whichever their stream.
    #[must_use]
    pub fn read(&self, from_seq: u64, streams: &[Stream], max_bytes: u64) -> Window {
        let state = self.state();
        let end = state.next_seq();
        let start = from_seq.max(state.first_seq);
        let expired = (from_seq < state.first_seq).then(|| SeqRange {
            from_seq,
            to_seq: state.first_seq.saturating_sub(1),
        });
        let mut next_seq = start.max(from_seq);
        let mut records = Vec::new();
        let mut bytes = 0;
        let skip = usize::try_from(start - state.first_seq).unwrap_or(usize::MAX);
        for (seq, stored) in (start..end).zip(state.records.iter().skip(skip)) {
            if streams.contains(&stored.stream) {
                bytes += stored.cost();
                if bytes > max_bytes && !records.is_empty() {
                    break;
                }
                records.push(LogRecord {
                    agent: self.agent,
                    run: 0,
                    seq,
                    stream: stored.stream,
                    time_ns: stored.time_ns,
                    data: ByteBuf::from(stored.data.to_vec()),
                    partial: stored.partial,
                });
            }
            next_seq = seq + 1;
        }
        Window {
            records,
            next_seq,
            expired,
            caught_up: next_seq >= end,
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        let bytes = self.state().bytes + self.record_bytes;
        self.budget.free(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(data: &'static str, stream: Stream) -> Stored {
        Stored {
            stream,
            time_ns: 0,
            partial: false,
            data: Bytes::from_static(data.as_bytes()),
        }
    }

    fn history(bound: u64, budget: u64) -> History {
        History::new(AgentId::random(), bound, Budget::new(budget))
    }

    #[test]
    fn numbers_have_no_hole_and_the_oldest_expire() {
        let history = history(3 * (RECORD_OVERHEAD + 1), u64::MAX);
        for (expected, data) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            assert_eq!(
                history.append(&[stored(data, Stream::Stdout)]),
                expected as u64
            );
        }
        let window = history.read(0, &Stream::ALL, 1000);
        assert_eq!(
            window.expired,
            Some(SeqRange {
                from_seq: 0,
                to_seq: 1
            })
        );
        let seen: Vec<_> = window
            .records
            .iter()
            .map(|r| (r.seq, r.data.to_vec()))
            .collect();
        assert_eq!(
            seen,
            [(2, b"c".to_vec()), (3, b"d".to_vec()), (4, b"e".to_vec())]
        );
        assert_eq!((window.next_seq, window.caught_up), (5, true));
    }

    #[test]
    fn a_reader_of_one_stream_goes_past_the_other() {
        let history = history(u64::MAX, u64::MAX);
        history.append(&[
            stored("o", Stream::Stdout),
            stored("e", Stream::Stderr),
            stored("e", Stream::Stderr),
        ]);
        let window = history.read(0, &[Stream::Stdout], 1000);
        assert_eq!((window.records.len(), window.next_seq), (1, 3));
        let window = history.read(0, &Stream::ALL, 1);
        assert_eq!(
            (window.records.len(), window.next_seq, window.caught_up),
            (1, 1, false)
        );
        let window = history.read(9, &Stream::ALL, 1);
        assert_eq!(
            (window.records.len(), window.next_seq, window.expired),
            (0, 9, None)
        );
    }

    #[test]
    fn what_all_share_is_bounded_and_given_back() {
        let budget = Budget::new(8 * (RECORD_OVERHEAD + 1));
        let first = History::new(AgentId::random(), u64::MAX, Arc::clone(&budget));
        for _ in 0..20 {
            first.append(&[stored("x", Stream::Stdout)]);
        }
        assert!(budget.is_exceeded(), "others are to be forgotten first");
        assert_eq!(first.read(0, &Stream::ALL, u64::MAX).records.len(), 9);
        let _second = History::new(AgentId::random(), 1, Arc::clone(&budget)).charged(7);
        drop(first);
        assert_eq!(budget.used.load(Ordering::Relaxed), 7);
    }
}
