//! What zeromq has sent and its peer has not yet taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::scan::{Header, Piece, Scanner};

/// A subscriber may be behind by at least so much.
const LEAST: usize = 64 * 1024;

/// Beyond that, by this part of what nobody holds.
const SHARE: usize = 4;

/// What all subscribers of a socket are behind by.
#[derive(Debug)]
pub(super) struct Behind {
    max: usize,
    all: AtomicUsize,
}

/// What one peer is behind by.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    scanner: Scanner,
    /// Bytes of the longest frame that there was.
    longest: usize,
    events: Option<Events>,
}

/// Of a subscriber: events for which there is no room are left out, each as a whole.
#[derive(Debug)]
struct Events {
    behind: Arc<Behind>,
    counted: usize,
    /// Of the event under way: what there is of it until its length is known, and then
    /// whether there is no room for it.
    head: Vec<u8>,
    is_left_out: Option<bool>,
    /// Until half of what there is is taken: many holes cost more than one.
    is_full: bool,
}

impl Behind {
    pub(super) fn new(max: usize) -> Arc<Self> {
        let all = AtomicUsize::new(0);
        Arc::new(Self { max, all })
    }

    fn share(&self) -> usize {
        let left = self.max.saturating_sub(self.all.load(Ordering::Relaxed));
        LEAST.max(left / SHARE)
    }
}

impl Backlog {
    /// Of a client: while there is something, nothing more is read of zeromq, which
    /// bounds what waits for it.
    pub(super) fn of_replies() -> Self {
        Self::of(None)
    }

    pub(super) fn of_events(behind: &Arc<Behind>) -> Self {
        Self::of(Some(Events {
            behind: Arc::clone(behind),
            counted: 0,
            head: Vec::new(),
            is_left_out: None,
            is_full: false,
        }))
    }

    fn of(events: Option<Events>) -> Self {
        Self {
            bytes: VecDeque::new(),
            scanner: Scanner::new(),
            longest: 0,
            events,
        }
    }

    /// Whether more may come.
    pub(super) fn has_room(&self) -> bool {
        self.events.is_some() || self.bytes.is_empty()
    }

    /// Takes what zeromq has sent, and tells how many events were left out.
    pub(super) fn add(&mut self, chunk: &[u8]) -> usize {
        let mut left_out = 0;
        let mut rest = chunk;
        while let Some(piece) = self.scanner.next(&mut rest) {
            if let Piece::Header(header) = piece {
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                self.longest = self.longest.max(len);
            }
            if let Some(events) = &mut self.events {
                left_out += usize::from(events.add(&piece, &mut self.bytes));
            }
        }
        match &mut self.events {
            None => self.bytes.extend(chunk),
            Some(events) => events.count(self.bytes.capacity()),
        }
        left_out
    }

    /// Bytes of the longest frame that zeromq has sent: it keeps as much for the next.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What comes next, or some of it.
    pub(super) fn next(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    pub(super) fn taken(&mut self, count: usize) {
        self.bytes.drain(..count);
        // An idle connection holds nothing, and one that has taken much not much.
        let len = self.bytes.len();
        if len == 0 || self.bytes.capacity() / 4 > len.max(LEAST) {
            self.bytes.shrink_to(2 * len);
        }
        if let Some(events) = &mut self.events {
            events.count(self.bytes.capacity());
        }
    }
}

impl Events {
    /// Whether this ended an event that was left out.
    fn add(&mut self, piece: &Piece, bytes: &mut VecDeque<u8>) -> bool {
        match piece {
            Piece::Greeting(part) => bytes.extend(*part),
            Piece::Header(header) => self.begin(*header, bytes),
            Piece::Body(part) => match self.is_left_out {
                None => self.head.extend_from_slice(part),
                Some(false) => bytes.extend(*part),
                Some(true) => {}
            },
            Piece::End(header) if !header.more => {
                self.head.clear();
                return self.is_left_out.take() == Some(true);
            }
            Piece::End(_) => {}
        }
        false
    }

    /// Knows with its last frame how long an event is, and whether it has room.
    fn begin(&mut self, header: Header, bytes: &mut VecDeque<u8>) {
        header.encode(&mut self.head);
        if header.more {
            return;
        }
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let behind = bytes
            .len()
            .saturating_add(self.head.len())
            .saturating_add(len);
        let is_left_out = !header.command && self.is_without_room(behind);
        self.is_left_out = Some(is_left_out);
        if !is_left_out {
            bytes.extend(&self.head);
        }
    }

    fn is_without_room(&mut self, behind: usize) -> bool {
        let share = self.behind.share();
        self.is_full = behind > if self.is_full { share / 2 } else { share };
        self.is_full
    }

    /// The memory that it takes, which is more than what is in it.
    fn count(&mut self, capacity: usize) {
        let all = &self.behind.all;
        all.fetch_add(capacity, Ordering::Relaxed);
        all.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = capacity;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.count(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: usize = 1024;

    /// An event of a topic and a payload, a kibibyte as it is sent.
    fn event(number: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let (command, len) = (false, 2);
        Header {
            command,
            more: true,
            len,
        }
        .encode(&mut out);
        out.extend(number.to_be_bytes());
        let left = EVENT - out.len() - 9;
        let (more, len) = (false, left as u64);
        Header { command, more, len }.encode(&mut out);
        out.resize(EVENT, b'x');
        out
    }

    fn numbers(backlog: &Backlog) -> Vec<u16> {
        let bytes: Vec<u8> = backlog.bytes.iter().copied().collect();
        let numbers = bytes.chunks(EVENT);
        numbers
            .map(|event| u16::from_be_bytes([event[2], event[3]]))
            .collect()
    }

    /// After its greeting.
    fn subscriber(behind: &Arc<Behind>) -> Backlog {
        let mut backlog = Backlog::of_events(behind);
        assert_eq!(backlog.add(&[0; 64]), 0);
        backlog.taken(64);
        backlog
    }

    #[test]
    fn whole_events_are_left_out_and_who_reads_on_gets_later_ones() {
        let behind = Behind::new(1 << 20);
        let mut slow = subscriber(&behind);
        let mut left_out = 0;
        for number in 0..1000 {
            // In parts, as zeromq's writes may come.
            for part in event(number).chunks(100) {
                left_out += slow.add(part);
            }
        }
        // At most a quarter of what is left, which memory grows to by doubling.
        let held = slow.bytes.len();
        assert_eq!(held + left_out * EVENT, 1000 * EVENT);
        assert!((100 * 1024..230 * 1024).contains(&held), "{held}");
        let count = u16::try_from(held / EVENT).unwrap();
        assert!(numbers(&slow).into_iter().eq(0..count));

        slow.taken(held / EVENT / 4 * EVENT);
        assert_eq!(slow.add(&event(5000)), 1, "still more than half");
        slow.taken(held / EVENT / 2 * EVENT);
        assert_eq!(slow.add(&event(5001)), 0);
        assert_eq!(numbers(&slow).last(), Some(&5001));
    }

    #[test]
    fn who_has_taken_most_holds_no_more_memory_than_it_needs() {
        let behind = Behind::new(64 << 20);
        let mut slow = subscriber(&behind);
        for number in 0..8192 {
            assert_eq!(slow.add(&event(number)), 0);
        }
        assert!(behind.all.load(Ordering::Relaxed) >= 8 << 20);
        slow.taken((8 << 20) - EVENT);
        assert_eq!(numbers(&slow), [8191]);
        let all = behind.all.load(Ordering::Relaxed);
        assert!(all <= 4 * LEAST, "{all}");
        slow.taken(EVENT);
        assert_eq!(behind.all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_who_do_not_read_leave_room_for_one_who_does() {
        let behind = Behind::new(1 << 20);
        let mut deaf: Vec<_> = (0..100).map(|_| subscriber(&behind)).collect();
        for number in 0..1000 {
            for one in &mut deaf {
                one.add(&event(number));
            }
        }
        let all = behind.all.load(Ordering::Relaxed);
        assert!(all < (1 << 20) + 100 * 2 * (LEAST + EVENT), "{all}");
        let mut reads = subscriber(&behind);
        for number in 0..1000 {
            assert_eq!(reads.add(&event(number)), 0);
            reads.taken(EVENT);
        }
        drop(deaf);
        assert_eq!(behind.all.load(Ordering::Relaxed), 0);
    }

    /// However large an event is, nobody who does not read holds more than its share.
    #[test]
    fn an_event_larger_than_the_room_is_left_out() {
        let behind = Behind::new(1 << 20);
        let mut large = event(0);
        large.truncate(4);
        let (command, more, len) = (false, false, 512 * 1024);
        Header { command, more, len }.encode(&mut large);
        large.resize(large.len() + 512 * 1024, b'x');
        let mut deaf: Vec<_> = (0..100).map(|_| subscriber(&behind)).collect();
        for one in &mut deaf {
            assert_eq!(one.add(&large), 1);
            assert_eq!(one.add(&event(1)), 0);
            assert_eq!(numbers(one), [1]);
        }
        let all = behind.all.load(Ordering::Relaxed);
        assert!(all < 100 * 4 * EVENT, "{all}");
    }

    #[test]
    fn a_client_is_sent_everything() {
        let mut backlog = Backlog::of_replies();
        assert!(backlog.has_room());
        assert_eq!(backlog.add(&[1; 3 * LEAST]), 0);
        assert!(!backlog.has_room());
        backlog.taken(3 * LEAST);
        assert!(backlog.has_room());
    }
}
