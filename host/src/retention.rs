//! Which agents that have ended are forgotten, and in which order. Pure: it is
//! told what time it is.

use std::collections::VecDeque;
use std::time::Duration;

use skep_protocol::AgentId;

/// What the operator keeps of agents that have ended.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many; then the oldest is forgotten.
    pub max_ended: usize,
    /// For how long.
    pub max_ended_age: Duration,
}

impl Bounds {
    #[must_use]
    pub fn max_age_ms(&self) -> u64 {
        u64::try_from(self.max_ended_age.as_millis()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    id: AgentId,
    ended_ms: u64,
    bytes: u64,
}

/// Those that have ended, oldest first: as many as the bounds say, at most.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// What all of them had when they ended.
    bytes: u64,
}

impl Queue {
    /// Takes up one that ended then, with so many bytes, and gives those that are too
    /// many. Where a clock was wrong, so that it ended later than now, it ended now;
    /// where one was set back, it did not end before those that were here.
    pub fn enter(
        &mut self,
        id: AgentId,
        ended_ms: u64,
        bytes: u64,
        now_ms: u64,
        bounds: &Bounds,
    ) -> Vec<AgentId> {
        let last = self.entries.back().map_or(0, |last| last.ended_ms);
        let ended_ms = ended_ms.min(now_ms).max(last);
        self.entries.push_back(Entry {
            id,
            ended_ms,
            bytes,
        });
        self.bytes = self.bytes.saturating_add(bytes);
        self.take_first(self.entries.len().saturating_sub(bounds.max_ended))
    }

    fn take_first(&mut self, count: usize) -> Vec<AgentId> {
        let taken: Vec<_> = self.entries.drain(..count).collect();
        let bytes = taken.iter().map(|entry| entry.bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        taken.into_iter().map(|entry| entry.id).collect()
    }

    pub fn remove(&mut self, id: AgentId) {
        self.entries.retain(|entry| entry.id != id);
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
    }

    /// The oldest, if all have more bytes than this. The one that ended last
    /// stays: somebody may be about to ask how.
    pub fn pop_beyond(&mut self, bytes: u64) -> Option<AgentId> {
        let too_much = self.bytes > bytes && self.entries.len() > 1;
        self.take_first(usize::from(too_much)).pop()
    }

    /// Removes those that ended by then, so many at most.
    pub fn take(&mut self, by_ms: u64, at_most: usize) -> Vec<AgentId> {
        let count = self.by(by_ms).take(at_most).count();
        self.take_first(count)
    }

    /// Those that ended by then.
    pub fn by(&self, by_ms: u64) -> impl Iterator<Item = AgentId> {
        let old = self.entries.iter();
        old.take_while(move |entry| entry.ended_ms <= by_ms)
            .map(|entry| entry.id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the oldest ended.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.ended_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> AgentId {
        AgentId::from_bytes([number; 16])
    }

    fn bounds(max_ended: usize) -> Bounds {
        Bounds {
            max_ended,
            max_ended_age: Duration::from_secs(10),
        }
    }

    fn queue(ended_ms: &[u64], now_ms: u64) -> Queue {
        let mut queue = Queue::default();
        for (number, ended_ms) in (0..).zip(ended_ms) {
            assert!(
                queue
                    .enter(id(number), *ended_ms, 10, now_ms, &bounds(100))
                    .is_empty()
            );
        }
        queue
    }

    #[test]
    fn the_oldest_go_first_and_never_more_than_asked() {
        let mut queue = queue(&[10, 20, 20, 30], 100);
        assert_eq!(queue.take(9, 10), []);
        assert_eq!(queue.by(20).collect::<Vec<_>>(), [id(0), id(1), id(2)]);
        assert_eq!(queue.take(20, 2), [id(0), id(1)]);
        assert_eq!(queue.take(20, 2), [id(2)]);
        assert_eq!((queue.len(), queue.oldest_ms()), (1, Some(30)));
        assert_eq!(queue.take(30, 2), [id(3)]);
        assert_eq!((queue.len(), queue.oldest_ms()), (0, None));
    }

    #[test]
    fn more_than_the_bound_push_out_the_oldest() {
        let mut queue = queue(&[1, 2], 5);
        assert_eq!(queue.enter(id(9), 3, 10, 5, &bounds(2)), [id(0)]);
        queue.remove(id(1));
        assert_eq!(queue.take(5, 9), [id(9)]);
    }

    #[test]
    fn too_many_bytes_push_out_all_but_the_last() {
        let mut queue = queue(&[1, 2, 3, 4, 5], 9);
        assert_eq!(queue.pop_beyond(50), None);
        assert_eq!(queue.pop_beyond(49), Some(id(0)));
        assert_eq!(queue.pop_beyond(40), None);
        queue.remove(id(2));
        assert_eq!(queue.pop_beyond(30), None);
        assert_eq!(queue.take(2, 1), [id(1)]);
        assert_eq!(queue.pop_beyond(19), Some(id(3)));
        assert_eq!(queue.enter(id(9), 9, 1000, 9, &bounds(9)), []);
        assert_eq!(queue.pop_beyond(100), Some(id(4)));
        assert_eq!((queue.pop_beyond(0), queue.len()), (None, 1));
    }

    #[test]
    fn a_clock_that_was_wrong_keeps_nobody_for_ever() {
        // It was set in the far future, and then back.
        let mut queue = queue(&[10, u64::MAX, 11], 100);
        assert_eq!(queue.take(99, 9), [id(0)]);
        assert_eq!(queue.take(100, 9), [id(1), id(2)]);
    }

    proptest! {
        #[test]
        fn whoever_is_taken_is_older_than_whoever_stays(
            ended in prop::collection::vec(0_u64..200, 0..40),
            by in 0_u64..150,
            at_most in 0_usize..50,
        ) {
            let now = 100;
            let mut queue = queue(&ended, now);
            let all: Vec<_> = queue.by(u64::MAX).collect();
            let old: Vec<_> = queue.by(by).collect();
            let taken = queue.take(by, at_most);
            prop_assert_eq!(&taken, &old[..at_most.min(old.len())]);
            let left: Vec<_> = queue.by(u64::MAX).collect();
            prop_assert_eq!([taken, left].concat(), all);
            // Once the time has come, nobody stays.
            queue.take(now, usize::MAX);
            prop_assert!(queue.is_empty());
        }
    }
}
