//! What a guest has used, readable at any time from outside: a few counters,
//! each with one writer.
//!
//! The fuel is exact at the end of a guest that returned, exited, panicked or
//! ran out of it. After other traps, and after a kill between two instructions,
//! what ran since the last call or the last ten million instructions may be
//! missing: compiled code keeps the count in a register there, and the trap
//! does not save it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::runner::GuestUsage;

/// The counters of one guest.
#[derive(Debug)]
pub(super) struct Meters {
    fuel_limit: u64,
    fuel_left: AtomicU64,
    memory_bytes: AtomicU64,
    memory_peak_bytes: AtomicU64,
    cpu_ns: AtomicU64,
}

impl Meters {
    pub(super) fn new(fuel_limit: u64) -> Self {
        Self {
            fuel_limit,
            fuel_left: AtomicU64::new(fuel_limit),
            memory_bytes: AtomicU64::new(0),
            memory_peak_bytes: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn fuel_left(&self, left: u64) {
        self.fuel_left.store(left, Relaxed);
    }

    pub(super) fn memory(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Relaxed);
        self.memory_peak_bytes.fetch_max(bytes, Relaxed);
    }

    /// Nothing of the guest is left.
    pub(super) fn memory_returned(&self) {
        self.memory_bytes.store(0, Relaxed);
    }

    /// The guest had a thread for this long.
    pub(super) fn ran(&self, time: Duration) {
        self.cpu_ns
            .fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn read(&self) -> GuestUsage {
        let fuel_left = self.fuel_left.load(Relaxed);
        GuestUsage {
            fuel_used: self.fuel_limit.saturating_sub(fuel_left),
            fuel_left: Some(fuel_left),
            memory_bytes: self.memory_bytes.load(Relaxed),
            memory_peak_bytes: self.memory_peak_bytes.load(Relaxed),
            cpu_ms: self.cpu_ns.load(Relaxed) / 1_000_000,
        }
    }
}
