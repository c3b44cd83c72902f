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
}

/// Those that have ended, oldest first: as many as the bounds say, at most.
#[derive(Debug, Default)]
pub struct Queue(VecDeque<Entry>);

impl Queue {
    /// Takes up one that ended then, and gives those that are too many. Where a
    /// clock was wrong, so that it ended later than now, it ended now; where one
    /// was set back, it did not end before those that were here.
    pub fn enter(
        &mut self,
        id: AgentId,
        ended_ms: u64,
        now_ms: u64,
        bounds: &Bounds,
    ) -> Vec<AgentId> {
        let last = self.0.back().map_or(0, |last| last.ended_ms);
        let ended_ms = ended_ms.min(now_ms).max(last);
        self.0.push_back(Entry { id, ended_ms });
        let too_many = self.0.len().saturating_sub(bounds.max_ended);
        self.0.drain(..too_many).map(|entry| entry.id).collect()
    }

    pub fn remove(&mut self, id: AgentId) {
        self.0.retain(|entry| entry.id != id);
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<AgentId> {
        self.0.pop_front().map(|entry| entry.id)
    }

    /// Removes those that ended by then, so many at most.
    pub fn take(&mut self, by_ms: u64, at_most: usize) -> Vec<AgentId> {
        let count = self.by(by_ms).take(at_most).count();
        self.0.drain(..count).map(|entry| entry.id).collect()
    }

    /// Those that ended by then.
    pub fn by(&self, by_ms: u64) -> impl Iterator<Item = AgentId> {
        let old = self.0.iter();
        old.take_while(move |entry| entry.ended_ms <= by_ms)
            .map(|entry| entry.id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the oldest ended.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        self.0.front().map(|entry| entry.ended_ms)
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
                    .enter(id(number), *ended_ms, now_ms, &bounds(100))
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
        assert_eq!((queue.pop(), queue.oldest_ms()), (None, None));
    }

    #[test]
    fn more_than_the_bound_push_out_the_oldest() {
        let mut queue = queue(&[1, 2], 5);
        assert_eq!(queue.enter(id(9), 3, 5, &bounds(2)), [id(0)]);
        queue.remove(id(1));
        assert_eq!(queue.pop(), Some(id(9)));
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
