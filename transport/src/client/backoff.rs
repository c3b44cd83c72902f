//! How long to wait before the next attempt. Pure, but for the dice.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubling from `min` to `max`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The delay before an attempt, counted from 1, without jitter.
    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }

    /// The delay less up to a tenth, so that the clients of a host that comes
    /// back do not all come in the same instant, and none later than it should.
    pub(crate) fn jittered(&self, attempt: u32, dice: u64) -> Duration {
        let delay = self.delay(attempt);
        let parts = u32::try_from(dice % 1001).unwrap_or(0);
        delay.saturating_sub(delay / 10 * parts / 1000)
    }
}

/// A number that differs from call to call and process to process.
pub(crate) fn dice() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
    };

    #[test]
    fn doubles_from_the_least_to_the_most() {
        let schedule: Vec<u128> = (1..=11).map(|n| BACKOFF.delay(n).as_millis()).collect();
        assert_eq!(
            schedule,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000
            ]
        );
        assert_eq!(BACKOFF.delay(0).as_millis(), 100);
        assert_eq!(BACKOFF.delay(u32::MAX).as_millis(), 30_000);
    }

    #[test]
    fn jitter_takes_at_most_a_tenth() {
        for attempt in [1, 5, 40] {
            let full = BACKOFF.delay(attempt);
            assert_eq!(BACKOFF.jittered(attempt, 0), full);
            assert_eq!(BACKOFF.jittered(attempt, 1000), full - full / 10);
            for _ in 0..100 {
                let delay = BACKOFF.jittered(attempt, dice());
                assert!(delay <= full && delay >= full - full / 10, "{delay:?}");
            }
        }
    }
}
