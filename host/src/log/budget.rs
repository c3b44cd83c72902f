//! Bytes that all agents of a host have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A number of bytes in use, and how many may be.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    bound: u64,
    pressure: Notify,
}

impl Budget {
    #[must_use]
    pub fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            bound,
            pressure: Notify::new(),
        })
    }

    /// Whether more is remembered than the operator allows.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.bound
    }

    /// How many bytes may be remembered.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// Waits until more is remembered than the operator allows, so that agents
    /// which have ended can be forgotten.
    pub async fn pressure(&self) {
        self.pressure.notified().await;
    }

    /// Whether those that still write have to let go of their own: an eighth
    /// over the bound, to leave time for forgetting others first.
    pub(super) fn is_overrun(&self) -> bool {
        self.used() > self.bound.saturating_add(self.bound / 8)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if self.is_exceeded() {
            self.pressure.notify_one();
        }
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// What nobody may have more of, so that all together have so much less. Who has
/// most gives first.
#[must_use]
pub fn level(mut have: Vec<u64>, too_much: u64) -> u64 {
    have.sort_unstable_by(|one, other| other.cmp(one));
    // What those looked at would give, if they had no more than the next.
    let mut given = 0;
    let next = have.iter().copied().skip(1).chain([0]);
    for ((count, has), next) in (1..).zip(&have).zip(next) {
        let more = (has - next).saturating_mul(count);
        if given + more >= too_much {
            return has - (too_much - given).div_ceil(count);
        }
        given += more;
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_most_gives_first() {
        assert_eq!(level(vec![], 5), 0);
        assert_eq!(level(vec![3, 10, 5], 0), 10);
        assert_eq!(level(vec![3, 10, 5], 5), 5);
        assert_eq!(level(vec![3, 10, 5], 8), 3);
        assert_eq!(level(vec![3, 10, 5], 17), 0);
        assert_eq!(level(vec![3, 10, 5], 100), 0);
    }

    proptest! {
        #[test]
        fn enough_is_given_and_little_more(
            have in prop::collection::vec(0_u64..1000, 0..20),
            too_much in 0_u64..30_000,
        ) {
            let level = level(have.clone(), too_much);
            let given: u64 = have.iter().map(|has| has.saturating_sub(level)).sum();
            if level > 0 {
                prop_assert!(given >= too_much && given < too_much + 20, "{given}");
            } else {
                prop_assert!(have.iter().sum::<u64>() < too_much + 20);
            }
        }
    }
}
