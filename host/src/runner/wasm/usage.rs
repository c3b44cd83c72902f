//! What a guest has used, readable at any time from outside: a few counters,
//! each with one writer.
//!
//! The fuel is exact at the end of a guest that returned, exited, panicked or
//! ran out of it. After other traps, and after a kill between two instructions,
//! it is the least that ran: what ran since the last call is missing, an
//! [interval](super::fuel::INTERVAL) at most. Compiled code keeps the count in a
//! register there, and the trap does not save it; saving it before each
//! instruction that may trap would cost every guest a store for each access to
//! memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::fuel::Fuel;
use crate::runner::GuestUsage;

/// The processor time of this thread: what another process took from it
/// meanwhile is not the guest's. Costs some 0.3 µs, for the kernel is asked.
pub(super) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The counters of one guest.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) fuel: Fuel,
    memory_bytes: AtomicU64,
    memory_peak_bytes: AtomicU64,
    cpu_ns: AtomicU64,
    /// Of that, what others computed for it and its clock has not got yet.
    elsewhere_ns: AtomicU64,
    disk_bytes: AtomicU64,
    /// The most bytes that the allocator held for it: its tables, and what its instances
    /// are.
    heap_bytes: AtomicU64,
    ticked: AtomicBool,
}

impl Meters {
    pub(super) fn new(fuel: Fuel) -> Self {
        Self {
            fuel,
            memory_bytes: AtomicU64::new(0),
            memory_peak_bytes: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            elsewhere_ns: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
            heap_bytes: AtomicU64::new(0),
            ticked: AtomicBool::new(false),
        }
    }

    /// The guest met a tick of the clock, and is to let others go first.
    pub(super) fn tick(&self) {
        self.ticked.store(true, Relaxed);
    }

    /// Whether it met one since this was last asked.
    pub(super) fn has_ticked(&self) -> bool {
        self.ticked.swap(false, Relaxed)
    }

    pub(super) fn memory(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Relaxed);
        self.memory_peak_bytes.fetch_max(bytes, Relaxed);
    }

    pub(super) fn heap(&self, bytes: u64) {
        self.heap_bytes.fetch_max(bytes, Relaxed);
    }

    pub(super) fn heap_bytes(&self) -> u64 {
        self.heap_bytes.load(Relaxed)
    }

    /// Nothing of the guest is left.
    pub(super) fn memory_returned(&self) {
        self.memory_bytes.store(0, Relaxed);
    }

    /// The guest computed for this long.
    pub(super) fn ran(&self, time: Duration) {
        self.cpu_ns.fetch_add(nanos(time), Relaxed);
    }

    /// Another thread computed for this long on its behalf.
    pub(super) fn ran_elsewhere(&self, time: Duration) {
        self.ran(time);
        self.elsewhere_ns.fetch_add(nanos(time), Relaxed);
    }

    /// How long others computed for it since this was last asked.
    pub(super) fn take_elsewhere(&self) -> Duration {
        Duration::from_nanos(self.elsewhere_ns.swap(0, Relaxed))
    }

    /// What it holds on disk.
    pub(super) fn disk(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Relaxed);
    }

    pub(super) fn read(&self) -> GuestUsage {
        GuestUsage {
            fuel_used: self.fuel.used(),
            fuel_left: Some(self.fuel.remaining()),
            memory_bytes: self.memory_bytes.load(Relaxed),
            memory_peak_bytes: self.memory_peak_bytes.load(Relaxed),
            cpu_ms: self.cpu_ns.load(Relaxed) / 1_000_000,
            disk_bytes: Some(self.disk_bytes.load(Relaxed)),
        }
    }
}
