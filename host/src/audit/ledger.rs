//! What waits to be written, bounded: refused requests are told singly up to a
//! rate and summed up beyond it, and lines that find no room are counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::line::{self, Event};

/// Bytes of lines that wait. The writer holds as many besides.
const ROOM: usize = 4 * 1024 * 1024;

/// In each of these spans so many refused requests are told singly, and so many
/// bytes of them: whoever sends a million adds some tens of kilobytes a second,
/// and pushes nothing that others did out of the files within an hour.
const SPAN: Duration = Duration::from_secs(1);
const SINGLY: u32 = 100;
const SINGLY_BYTES: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Ledger {
    lines: Vec<u8>,
    lost: u64,
    span: Instant,
    told: u32,
    told_bytes: usize,
    /// By error code, of which there are few, since the first of them.
    sums: BTreeMap<&'static str, u64>,
    summed_since: Option<Instant>,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            lines: Vec::new(),
            lost: 0,
            span: now,
            told: 0,
            told_bytes: 0,
            sums: BTreeMap::new(),
            summed_since: None,
        }
    }

    /// Whether one more refused request is told by itself; if not, it is
    /// counted.
    pub(super) fn admit(&mut self, code: &'static str, now: Instant) -> bool {
        if now.saturating_duration_since(self.span) >= SPAN {
            self.span = now;
            (self.told, self.told_bytes) = (0, 0);
        }
        if self.told < SINGLY && self.told_bytes < SINGLY_BYTES {
            self.told += 1;
            return true;
        }
        *self.sums.entry(code).or_default() += 1;
        self.summed_since.get_or_insert(now);
        false
    }

    /// Counts the bytes of a refused request that is told by itself.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.told_bytes += bytes;
    }

    /// Takes a line, or counts it where there is no room. Whether nothing waited
    /// before.
    pub(super) fn push(&mut self, line: &[u8]) -> bool {
        let was_empty = self.lines.is_empty();
        if self.lines.len() + line.len() > ROOM {
            self.lost += 1;
        } else {
            self.lines.extend_from_slice(line);
        }
        was_empty
    }

    /// Lines that found no room, and were not told of yet.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Those and the lines that wait.
    pub(super) fn left(&self) -> u64 {
        self.lost + count(&self.lines)
    }

    pub(super) fn has_sums(&self) -> bool {
        self.summed_since.is_some()
    }

    /// How long until the sums are to be written, if there are any.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        let since = self.summed_since?;
        Some((since + SPAN).saturating_duration_since(now))
    }

    /// Moves all that waits into an empty buffer: the lines, how many were lost
    /// since the last time, and the sums that are due, or `all`. Whether there
    /// was anything.
    pub(super) fn take(&mut self, lines: &mut Vec<u8>, now: Instant, all: bool) -> bool {
        std::mem::swap(&mut self.lines, lines);
        if let lost @ 1.. = std::mem::take(&mut self.lost) {
            lines.extend(line::of_event(&Event::Lost { count: lost }));
        }
        let due = self.due(now).is_some_and(|due| all || due.is_zero());
        if due && let Some(since) = self.summed_since.take() {
            let over = now.saturating_duration_since(since);
            lines.extend(line::of_event(&Event::Refusals {
                count: self.sums.values().sum(),
                codes: &self.sums,
                over_ms: u64::try_from(over.as_millis()).unwrap_or(u64::MAX),
            }));
            self.sums.clear();
        }
        !lines.is_empty()
    }
}

/// How many lines there are.
pub(super) fn count(lines: &[u8]) -> u64 {
    lines
        .split_inclusive(|byte| *byte == b'\n')
        .map(|_| 1)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ledger: &mut Ledger, now: Instant) -> String {
        let mut lines = Vec::new();
        ledger.take(&mut lines, now, false);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn a_flood_is_summed_up() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut admitted = 0;
        for _ in 0..1_000_000 {
            admitted += u32::from(ledger.admit("malformed", start));
            ledger.admit("denied", start);
        }
        assert_eq!(admitted, SINGLY / 2);
        assert_eq!(taken(&mut ledger, start), "", "not yet");
        assert_eq!(ledger.due(start), Some(SPAN));
        let later = start + SPAN;
        let line = taken(&mut ledger, later);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["kind"], "refusals");
        assert_eq!(value["count"], 2_000_000 - SINGLY);
        assert_eq!(value["codes"]["denied"], 1_000_000 - SINGLY / 2);
        assert_eq!(value["over_ms"], 1000);
        assert_eq!(ledger.due(later), None);
        // The next span has its own.
        assert!(ledger.admit("denied", later));
        assert_eq!(taken(&mut ledger, later), "");
    }

    #[test]
    fn few_that_are_long_are_as_many_that_are_short() {
        const LONG: usize = 8 * 1024;
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut bytes = 0;
        while ledger.admit("denied", start) {
            ledger.charge(LONG);
            bytes += LONG;
        }
        assert_eq!(bytes, SINGLY_BYTES);
        assert!(ledger.admit("denied", start + SPAN));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let line = [b'x'; 1000];
        assert!(ledger.push(&line));
        for _ in 0..10_000 {
            assert!(!ledger.push(&line));
        }
        let fitted = ROOM / line.len();
        assert_eq!(ledger.lost(), (10_001 - fitted) as u64);
        let lines = taken(&mut ledger, start);
        let (told, last) = lines.split_at(fitted * line.len());
        assert!(told.bytes().all(|byte| byte == b'x'));
        let last: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(
            (&last["kind"], &last["count"]),
            (&"lost".into(), &(10_001 - fitted).into())
        );
        assert_eq!(ledger.lost(), 0);
        assert!(ledger.push(&line));
    }
}
