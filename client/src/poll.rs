//! When the host is asked without cause: soon in the beginning, and ever more
//! seldom.

use std::time::Duration;

use tokio::time::Instant;

/// The time of the next request, and the pause behind it, which doubles.
#[derive(Debug)]
pub(crate) struct Poll {
    at: Instant,
    pause: Duration,
    first: Duration,
}

impl Poll {
    /// One that is due at once, with this pause behind it.
    pub(crate) fn new(first: Duration) -> Self {
        Self {
            at: Instant::now(),
            pause: first,
            first,
        }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Makes it due at once.
    pub(crate) fn hurry(&mut self) {
        self.at = Instant::now();
    }

    /// Begins anew, as where something was lost.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.first);
    }

    /// Puts it off for its pause, after which it pauses for twice as long; never
    /// for longer than this.
    pub(crate) fn put_off(&mut self, longest: Duration) {
        self.at = Instant::now() + self.pause.min(longest);
        self.pause = (self.pause * 2).min(longest);
    }

    /// Puts it off for so long at least, now and from now on.
    pub(crate) fn relax(&mut self, pause: Duration) {
        self.at = self.at.max(Instant::now() + pause);
        self.pause = pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_something_is_lost() {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(35));
        let mut poll = Poll::new(first);
        for _ in 0..2 {
            assert!(poll.is_due());
            for pause in [10, 20, 35, 35] {
                let now = Instant::now();
                poll.put_off(longest);
                assert_eq!(poll.at() - now, Duration::from_millis(pause));
            }
            assert!(!poll.is_due());
            poll.reset();
        }
    }
}
