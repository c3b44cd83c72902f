//! A look at processes, which may take long: whoever wants it does other things
//! meanwhile.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// One that is taken again and again, once at a time.
#[derive(Debug)]
pub(super) struct Look<T> {
    every: Duration,
    at: Instant,
    under_way: Option<JoinHandle<T>>,
}

impl<T> Look<T> {
    pub(super) fn every(every: Duration) -> Self {
        Self {
            every,
            at: Instant::now() + every,
            under_way: None,
        }
    }

    /// Without waiting for the time of the next one. Says whether one is under
    /// way, which may have seen what was before.
    pub(super) fn at_once(&mut self) -> bool {
        self.at = Instant::now();
        self.under_way.is_some()
    }

    /// Waits until it is time.
    pub(super) async fn due(&mut self) {
        sleep_until(self.at).await;
        self.at = Instant::now() + self.every;
    }

    /// What is seen by the look that is under way, or else by the next one;
    /// `None` if it panicked. Safe to cancel: what has begun goes on.
    pub(super) async fn next(&mut self, begin: impl FnOnce() -> JoinHandle<T>) -> Option<T> {
        if self.under_way.is_none() {
            self.due().await;
        }
        let seen = self.under_way.get_or_insert_with(begin).await;
        self.under_way = None;
        self.at = Instant::now() + self.every;
        seen.ok()
    }
}
