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
