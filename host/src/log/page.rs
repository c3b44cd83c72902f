//! A piece of a history, as it is put together from memory and disk.

use serde_bytes::ByteBuf;
use skep_protocol::AgentId;
use skep_protocol::event::{LogRecord, Stream};
use skep_protocol::op::SeqRange;

use super::segment::Entry;
use super::tail;

/// Who asks for one stream goes past this much of the other at most, and asks
/// again from there: no request reads a whole history.
const MAX_PASSED: u64 = 8 * 1024 * 1024;

/// A piece of a history.
#[derive(Debug, PartialEq)]
pub struct Window {
    pub records: Vec<LogRecord>,
    pub next_seq: u64,
    pub expired: Option<SeqRange>,
    /// Whether nothing is left after `next_seq` for now.
    pub caught_up: bool,
}

#[derive(Debug)]
pub(super) struct Page<'a> {
    agent: AgentId,
    streams: &'a [Stream],
    max_bytes: u64,
    bytes: u64,
    passed: u64,
    records: Vec<LogRecord>,
    next_seq: u64,
    expired: Option<SeqRange>,
    full: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(
        agent: AgentId,
        from_seq: u64,
        streams: &'a [Stream],
        max_bytes: u64,
    ) -> Self {
        Self {
            agent,
            streams,
            max_bytes,
            bytes: 0,
            passed: 0,
            records: Vec::new(),
            next_seq: from_seq,
            expired: None,
            full: false,
        }
    }

    /// The number of the record that comes next.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether nothing more may be added.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Takes the next record, or goes past it if it is of another stream. One
    /// is taken however long it is. Costs are counted as the agent's are.
    /// Whether it was taken.
    pub(super) fn take(&mut self, seq: u64, entry: &Entry<'_>) -> bool {
        let cost = tail::cost(entry.data.len());
        if self.streams.contains(&entry.stream) {
            if self.bytes + cost > self.max_bytes && !self.records.is_empty() {
                self.full = true;
                return false;
            }
            self.bytes += cost;
            self.records.push(LogRecord {
                agent: self.agent,
                run: entry.run,
                seq,
                stream: entry.stream,
                time_ns: entry.time_ns,
                data: ByteBuf::from(entry.data),
                partial: entry.partial,
            });
        }
        self.next_seq = seq + 1;
        self.passed += cost;
        self.full = self.passed >= MAX_PASSED;
        !self.full
    }

    /// Goes past records that are gone, up to this one. A page tells of such a
    /// range at its beginning alone: before a later one, it ends.
    pub(super) fn skip_to(&mut self, seq: u64) {
        match &mut self.expired {
            Some(expired) if expired.to_seq + 1 == self.next_seq => expired.to_seq = seq - 1,
            None if self.passed == 0 => {
                self.expired = Some(SeqRange {
                    from_seq: self.next_seq,
                    to_seq: seq - 1,
                });
            }
            _ => {
                self.full = true;
                return;
            }
        }
        self.next_seq = seq;
    }

    /// What it has become, of a history that goes up to `end`.
    pub(super) fn into_window(self, end: u64) -> Window {
        Window {
            caught_up: self.next_seq >= end,
            records: self.records,
            next_seq: self.next_seq,
            expired: self.expired,
        }
    }
}
