//! What zeromq has sent and its peer has not yet taken.

use std::collections::VecDeque;

use super::scan::{Header, Piece, Scanner};

/// How little it may be that memory is given back.
const LITTLE: usize = 64 * 1024;

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
#[derive(Debug, Default)]
struct Events {
    /// Of the event under way: what there is of it until its length is known, and then
    /// whether there is no room for it.
    head: Vec<u8>,
    is_left_out: Option<bool>,
    /// Until half of what there is is taken: many holes cost more than one.
    is_full: bool,
}

impl Backlog {
    /// Of a client: while there is something, nothing more is read of zeromq, which
    /// bounds what waits for it.
    pub(super) fn of_replies() -> Self {
        Self::of(None)
    }

    pub(super) fn of_events() -> Self {
        Self::of(Some(Events::default()))
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

    /// Takes what zeromq has sent, and tells how many events were left out, because with
    /// them there would wait more than `share`.
    pub(super) fn add(&mut self, chunk: &[u8], share: usize) -> usize {
        let mut left_out = 0;
        let mut rest = chunk;
        while let Some(piece) = self.scanner.next(&mut rest) {
            if let Piece::Header(header) = piece {
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                self.longest = self.longest.max(len);
            }
            if let Some(events) = &mut self.events {
                left_out += usize::from(events.add(&piece, &mut self.bytes, share));
            }
        }
        if self.events.is_none() {
            self.bytes.extend(chunk);
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

    /// Bytes of memory for what waits, which is more than what waits, and nothing where
    /// nothing does.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// What comes next, or some of it.
    pub(super) fn next(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    pub(super) fn taken(&mut self, count: usize) {
        self.bytes.drain(..count);
        // An idle connection holds nothing, and one that has taken much not much.
        let len = self.bytes.len();
        if len == 0 || self.bytes.capacity() / 4 > len.max(LITTLE) {
            self.bytes.shrink_to(2 * len);
        }
    }
}

impl Events {
    /// Whether this ended an event that was left out.
    fn add(&mut self, piece: &Piece, bytes: &mut VecDeque<u8>, share: usize) -> bool {
        match piece {
            Piece::Greeting(part) => bytes.extend(*part),
            Piece::Header(header) => self.begin(*header, bytes, share),
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
    fn begin(&mut self, header: Header, bytes: &mut VecDeque<u8>, share: usize) {
        header.encode(&mut self.head);
        if header.more {
            return;
        }
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let behind = bytes
            .len()
            .saturating_add(self.head.len())
            .saturating_add(len);
        let is_left_out = !header.command && self.is_without_room(behind, share);
        self.is_left_out = Some(is_left_out);
        if !is_left_out {
            bytes.extend(&self.head);
        }
    }

    fn is_without_room(&mut self, behind: usize, share: usize) -> bool {
        self.is_full = behind > if self.is_full { share / 2 } else { share };
        self.is_full
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
    fn subscriber() -> Backlog {
        let mut backlog = Backlog::of_events();
        assert_eq!(backlog.add(&[0; 64], 0), 0);
        backlog.taken(64);
        backlog
    }

    #[test]
    fn whole_events_are_left_out_and_who_reads_on_gets_later_ones() {
        let mut slow = subscriber();
        let mut left_out = 0;
        for number in 0..1000 {
            // In parts, as zeromq's writes may come.
            for part in event(number).chunks(100) {
                left_out += slow.add(part, 100 * EVENT);
            }
        }
        assert_eq!(left_out, 900);
        assert!(numbers(&slow).into_iter().eq(0..100));

        slow.taken(49 * EVENT);
        assert_eq!(slow.add(&event(5000), 100 * EVENT), 1, "more than half");
        slow.taken(2 * EVENT);
        assert_eq!(slow.add(&event(5001), 100 * EVENT), 0);
        assert_eq!(numbers(&slow).last(), Some(&5001));
    }

    #[test]
    fn who_has_taken_most_holds_no_more_memory_than_it_needs() {
        let mut slow = subscriber();
        for number in 0..8192 {
            assert_eq!(slow.add(&event(number), usize::MAX), 0);
        }
        assert!(slow.memory() >= 8 << 20);
        slow.taken((8 << 20) - EVENT);
        assert_eq!(numbers(&slow), [8191]);
        assert!(slow.memory() <= 4 * LITTLE, "{}", slow.memory());
        slow.taken(EVENT);
        assert_eq!(slow.memory(), 0);
    }

    /// However large an event is, and nothing is held of it.
    #[test]
    fn an_event_larger_than_the_room_is_left_out() {
        let mut large = event(0);
        large.truncate(4);
        let (command, more, len) = (false, false, 512 * 1024);
        Header { command, more, len }.encode(&mut large);
        large.resize(large.len() + 512 * 1024, b'x');
        let mut deaf = subscriber();
        assert_eq!(deaf.add(&large, 512 * 1024), 1);
        assert_eq!(deaf.memory(), 0);
        assert_eq!(deaf.add(&event(1), 512 * 1024), 0);
        assert_eq!(numbers(&deaf), [1]);
        deaf.taken(EVENT);
        assert_eq!(deaf.add(&large, 513 * 1024), 0);
    }

    #[test]
    fn a_client_is_sent_everything() {
        let mut backlog = Backlog::of_replies();
        assert!(backlog.has_room());
        assert_eq!(backlog.add(&[1; 3 * EVENT], 0), 0);
        assert!(!backlog.has_room());
        backlog.taken(3 * EVENT);
        assert!(backlog.has_room());
    }
}
