//! Memory that many have together, and a bound on it: one counter. There is one of
//! the linear memories and tables of all guests, as large as they have grown, whether
//! they have touched all of it or not, and one of the code that is loaded. Costs an
//! atomic addition a growth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is used of it, and how much there is.
#[derive(Debug)]
pub(super) struct HostMemory {
    used: AtomicU64,
    bound: u64,
}

impl HostMemory {
    pub(super) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            bound,
        })
    }

    /// Takes so many bytes, if there are.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= self.bound)
        });
        taken.is_ok()
    }

    /// How many are lacking to take so many.
    pub(super) fn lacking(&self, bytes: u64) -> u64 {
        let all = self.used().saturating_add(bytes);
        all.saturating_sub(self.bound)
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}
