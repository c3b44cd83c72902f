//! What has been yielded, what comes next and what is missing. Pure.

use std::collections::{BTreeMap, VecDeque};

use skep_protocol::event::{LogRecord, Stream};
use skep_protocol::op::{OutputReply, SeqRange};

use super::LogItem;

/// How many records, and how many of their bytes, wait behind a hole. Beyond
/// it the latest are dropped: the history has them.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;

/// The order of an agent's records.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The number of the next record that is not in `ready`.
    next: u64,
    streams: Option<Vec<Stream>>,
    ready: VecDeque<LogItem>,
    /// Live records behind a hole.
    waiting: BTreeMap<u64, LogRecord>,
    waiting_bytes: usize,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// This is the number after the last.
    At(u64),
}

impl Sequence {
    pub(super) fn new(from_seq: u64, streams: Option<Vec<Stream>>) -> Self {
        Self {
            next: from_seq,
            streams,
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            end: End::Open,
        }
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next
    }

    pub(super) fn pop(&mut self) -> Option<LogItem> {
        self.ready.pop_front()
    }

    /// Whether everything was taken that there will ever be.
    pub(super) fn is_complete(&self) -> bool {
        self.ready.is_empty() && matches!(self.end, End::At(end) if self.next >= end)
    }

    /// Whether records are missing that the history has.
    pub(super) fn lacks(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.end, End::At(end) if self.next < end)
    }

    /// A record that was published.
    pub(super) fn live(&mut self, record: LogRecord) {
        if record.seq < self.next {
            return;
        }
        if record.seq == self.next {
            self.take(record);
            self.drain();
            return;
        }
        self.waiting_bytes += record.data.len();
        if let Some(twice) = self.waiting.insert(record.seq, record) {
            self.waiting_bytes -= twice.data.len();
        }
        while self.waiting.len() > MAX_WAITING || self.waiting_bytes > MAX_WAITING_BYTES {
            let Some((_, latest)) = self.waiting.pop_last() else {
                break;
            };
            self.waiting_bytes -= latest.data.len();
        }
    }

    /// A piece of the history that was asked for from [`next_seq`](Self::next_seq) on.
    pub(super) fn history(&mut self, reply: OutputReply) {
        if let Some(SeqRange { to_seq, .. }) = reply.expired {
            self.skip_to(to_seq.saturating_add(1));
        }
        for record in reply.records {
            if record.seq < self.next {
                continue;
            }
            self.pass_to(record.seq);
            self.take(record);
        }
        self.pass_to(reply.next_seq);
        self.drain();
        if reply.end {
            self.end = End::At(self.next);
        }
    }

    /// The agent has ended, and this was the number of its last record.
    pub(super) fn ends_with(&mut self, last_seq: Option<u64>) {
        let end = last_seq.map_or(0, |last| last.saturating_add(1));
        self.end = match self.end {
            End::Open => End::At(end),
            End::At(known) => End::At(known.max(end)),
        };
    }

    /// Numbers that the history leaves out belong to streams that were not asked
    /// for. Where both were, they are lost, and whoever reads must know.
    fn pass_to(&mut self, seq: u64) {
        if self.streams.is_none() {
            self.skip_to(seq);
        } else {
            self.next = self.next.max(seq);
        }
    }

    fn skip_to(&mut self, seq: u64) {
        if seq > self.next {
            let range = SeqRange {
                from_seq: self.next,
                to_seq: seq - 1,
            };
            self.ready.push_back(LogItem::Gap(range));
            self.next = seq;
        }
    }

    fn take(&mut self, record: LogRecord) {
        self.next = record.seq.saturating_add(1);
        if self
            .streams
            .as_ref()
            .is_none_or(|streams| streams.contains(&record.stream))
        {
            self.ready.push_back(LogItem::Record(record));
        }
    }

    /// Takes what no longer waits for anything.
    fn drain(&mut self) {
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let record = entry.remove();
            self.waiting_bytes -= record.data.len();
            if record.seq == self.next {
                self.take(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_protocol::AgentId;

    use super::*;

    fn record(seq: u64, stream: Stream, size: usize) -> LogRecord {
        LogRecord {
            agent: AgentId::random(),
            run: 0,
            seq,
            stream,
            time_ns: 0,
            data: vec![b'x'; size].into(),
            partial: false,
        }
    }

    fn out(seq: u64) -> LogRecord {
        record(seq, Stream::Stdout, 1)
    }

    fn reply(records: Vec<LogRecord>, next_seq: u64, end: bool) -> OutputReply {
        OutputReply {
            records,
            next_seq,
            end,
            expired: None,
        }
    }

    /// What is ready: a record as its number, a gap as both of its ends.
    fn ready(sequence: &mut Sequence) -> Vec<(u64, Option<u64>)> {
        std::iter::from_fn(|| sequence.pop())
            .map(|item| match item {
                LogItem::Record(record) => (record.seq, None),
                LogItem::Gap(gap) => (gap.from_seq, Some(gap.to_seq)),
            })
            .collect()
    }

    fn numbers(range: std::ops::Range<u64>) -> Vec<(u64, Option<u64>)> {
        range.map(|seq| (seq, None)).collect()
    }

    #[test]
    fn disorder_and_duplicates_are_straightened() {
        let mut sequence = Sequence::new(0, None);
        for seq in [1, 0, 0, 1, 4, 4, 3] {
            sequence.live(out(seq));
        }
        assert_eq!(ready(&mut sequence), numbers(0..2));
        assert!(sequence.lacks());
        sequence.history(reply(vec![out(2), out(3)], 4, false));
        assert_eq!(ready(&mut sequence), numbers(2..5));
        assert!(!sequence.lacks());
        assert_eq!(sequence.waiting_bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded_and_the_earliest_stay() {
        let mut sequence = Sequence::new(0, None);
        for seq in 1..=(MAX_WAITING as u64 + 10) {
            sequence.live(out(seq));
        }
        assert_eq!(sequence.waiting.len(), MAX_WAITING);
        sequence.live(out(0));
        assert_eq!(ready(&mut sequence), numbers(0..MAX_WAITING as u64 + 1));
        assert!(!sequence.lacks(), "the next event will show the hole");

        let mut sequence = Sequence::new(0, None);
        for seq in 1..10 {
            sequence.live(record(seq, Stream::Stdout, MAX_WAITING_BYTES / 4));
        }
        assert_eq!(sequence.waiting.len(), 4);
    }

    #[test]
    fn the_end_is_where_the_status_says() {
        let mut sequence = Sequence::new(0, None);
        assert!(!sequence.is_complete());
        sequence.live(out(0));
        sequence.ends_with(Some(1));
        assert!(sequence.lacks());
        sequence.history(reply(vec![out(1)], 2, true));
        assert!(!sequence.is_complete(), "not before it is taken");
        assert_eq!(ready(&mut sequence), numbers(0..2));
        assert!(sequence.is_complete());

        let mut silent = Sequence::new(0, None);
        silent.ends_with(None);
        assert!(silent.is_complete());

        let mut late = Sequence::new(50, None);
        late.history(reply(vec![], 50, true));
        assert!(late.is_complete());
    }

    #[test]
    fn what_has_expired_is_one_gap() {
        let mut sequence = Sequence::new(2, None);
        sequence.live(out(12));
        let mut expired = reply(vec![out(10), out(11)], 12, false);
        expired.expired = Some(SeqRange {
            from_seq: 2,
            to_seq: 9,
        });
        sequence.history(expired);
        assert_eq!(
            ready(&mut sequence),
            [(2, Some(9)), (10, None), (11, None), (12, None)]
        );
    }

    #[test]
    fn a_hole_in_the_history_is_told() {
        let mut sequence = Sequence::new(0, None);
        sequence.history(reply(vec![out(0), out(5)], 6, false));
        assert_eq!(ready(&mut sequence), [(0, None), (1, Some(4)), (5, None)]);
    }

    #[test]
    fn other_streams_are_passed_over_and_are_no_holes() {
        let mut sequence = Sequence::new(0, Some(vec![Stream::Stderr]));
        sequence.history(reply(vec![record(3, Stream::Stderr, 1)], 7, false));
        sequence.live(out(7));
        sequence.live(record(8, Stream::Stderr, 1));
        assert_eq!(ready(&mut sequence), [(3, None), (8, None)]);
        assert_eq!(sequence.next_seq(), 9);
        assert!(!sequence.lacks());
    }
}
