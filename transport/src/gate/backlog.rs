//! What waits for a peer that has not yet taken it.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// How many pieces are added or written at once.
pub(super) const PIECES: usize = 64;

/// Bytes that a piece counts besides its own: each of those who wait for an event has a
/// handle of it, in a queue that has grown by doubling.
pub(super) const HANDLE: usize = 64;

/// What one peer is behind by.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Until half of what there is is taken: many holes cost more than one.
    is_full: bool,
}

impl Backlog {
    /// Adds what is not left out.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes = self.bytes.saturating_add(piece.len());
        self.pieces.push_back(piece);
    }

    /// Adds an event, unless there would wait more than `share` with it. Whether it was
    /// added.
    pub(super) fn offer(&mut self, event: Bytes, share: usize) -> bool {
        let behind = self
            .bytes
            .saturating_add(event.len())
            .saturating_add((self.pieces.len() + 1).saturating_mul(HANDLE));
        let is_still_full = self.is_full && !self.is_empty();
        self.is_full = behind > if is_still_full { share / 2 } else { share };
        if !self.is_full {
            self.push(event);
        }
        !self.is_full
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of the memory that it takes besides what waits.
    pub(super) fn handles(&self) -> usize {
        self.pieces.len() * HANDLE
    }

    /// What comes next, or some of it.
    pub(super) fn next(&self) -> Vec<IoSlice<'_>> {
        let pieces = self.pieces.iter().take(PIECES);
        pieces.map(|piece| IoSlice::new(piece)).collect()
    }

    pub(super) fn taken(&mut self, mut count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                break;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        // An idle connection holds nothing, and one that has taken much not much.
        let len = self.pieces.len();
        if len == 0 || self.pieces.capacity() > 4 * len.max(PIECES) {
            self.pieces.shrink_to(2 * len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: usize = 1024 - HANDLE;

    fn event(number: u16) -> Bytes {
        let mut event = number.to_be_bytes().to_vec();
        event.resize(EVENT, b'x');
        event.into()
    }

    fn numbers(backlog: &Backlog) -> Vec<u16> {
        let starts = backlog.pieces.iter().filter(|piece| piece.len() == EVENT);
        starts
            .map(|event| u16::from_be_bytes([event[0], event[1]]))
            .collect()
    }

    #[test]
    fn whole_events_are_left_out_and_who_reads_on_gets_later_ones() {
        let mut slow = Backlog::default();
        let added = (0..1000).filter(|number| slow.offer(event(*number), 100 * 1024));
        assert_eq!(added.count(), 100);
        assert!(numbers(&slow).into_iter().eq(0..100));

        slow.taken(49 * EVENT + 1);
        assert!(!slow.offer(event(5000), 100 * 1024), "more than half");
        slow.taken(2 * EVENT - 1);
        assert!(slow.offer(event(5001), 100 * 1024));
        assert_eq!(numbers(&slow).last(), Some(&5001));
    }

    #[test]
    fn what_is_taken_is_taken_in_order_wherever_writes_end() {
        let mut backlog = Backlog::default();
        let pieces = ["", "a", "", "bcd", "efghij", ""];
        let all = pieces.concat();
        for size in 1..=all.len() {
            for piece in pieces {
                backlog.push(Bytes::from_static(piece.as_bytes()));
            }
            let mut taken: Vec<u8> = Vec::new();
            while !backlog.is_empty() {
                let next: Vec<u8> = backlog.next().iter().flat_map(|s| s.to_vec()).collect();
                let count = size.min(next.len());
                taken.extend(&next[..count]);
                backlog.taken(count);
            }
            assert_eq!(taken, all.as_bytes());
        }
    }

    #[test]
    fn who_has_taken_most_holds_no_more_memory_than_it_needs() {
        let mut slow = Backlog::default();
        for number in 0..8192 {
            assert!(slow.offer(event(number), usize::MAX));
        }
        assert_eq!(slow.handles(), 8192 * HANDLE);
        slow.taken(8191 * EVENT);
        assert_eq!(numbers(&slow), [8191]);
        assert!(slow.pieces.capacity() * size_of::<Bytes>() <= PIECES * 4 * HANDLE);
        slow.taken(EVENT);
        assert_eq!(
            (slow.handles(), slow.bytes, slow.pieces.capacity()),
            (0, 0, 0)
        );
    }

    /// However large an event is, and nothing is held of it.
    #[test]
    fn an_event_larger_than_the_room_is_left_out() {
        let large = Bytes::from(vec![b'x'; 512 * 1024]);
        let mut deaf = Backlog::default();
        assert!(!deaf.offer(large.clone(), 512 * 1024));
        assert!(deaf.is_empty());
        assert!(deaf.offer(large, 513 * 1024));
    }
}
