//! A guest's fuel: how many instructions it may run, and has.
//!
//! Where the end of the fuel ends the guest, wasmtime counts, to the
//! instruction. But its trap cannot be taken back, and fuel cannot be added
//! from outside while the guest runs. So where the end is a pause, the store
//! gets more than can ever be used, the budget is this counter, and the guest
//! is held once it is over it: at the first tick of the clock after, so that it
//! may have run as far as it comes in a tick and [`INTERVAL`] too many. What it
//! ran too many is counted, and the next refuelling pays for it first.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use skep_protocol::spec::OnFuelExhausted;

/// How many instructions a guest runs at most between two readings of its fuel
/// that are right: compiled code keeps the count in a register meanwhile. Half
/// a millisecond; the guest lets others go first then, which costs it about a
/// microsecond.
pub(super) const INTERVAL: u64 = 1_000_000;

/// The fuel of one guest. Read from anywhere, settled by whoever runs it.
#[derive(Debug)]
pub(super) struct Fuel {
    on_exhausted: OnFuelExhausted,
    limit: AtomicU64,
    used: AtomicU64,
    /// Added from outside, and not in the store yet.
    added: AtomicU64,
    /// What would be in the store if nothing had been used.
    in_store: AtomicU64,
}

impl Fuel {
    pub(super) fn new(limit: u64, on_exhausted: OnFuelExhausted) -> Self {
        let in_store = match on_exhausted {
            OnFuelExhausted::Exit => limit,
            OnFuelExhausted::Pause => u64::MAX,
        };
        Self {
            on_exhausted,
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            added: AtomicU64::new(0),
            in_store: AtomicU64::new(in_store),
        }
    }

    /// What a store begins with.
    pub(super) fn at_start(&self) -> u64 {
        self.in_store.load(Relaxed)
    }

    /// Notes what is left in the store.
    pub(super) fn left(&self, left: u64) {
        let used = self.in_store.load(Relaxed).saturating_sub(left);
        self.used.fetch_max(used, Relaxed);
    }

    /// Adds to the limit.
    pub(super) fn add(&self, fuel: u64) {
        // Saturating: a ceiling keeps the sum far below.
        let more = |limit: u64| Some(limit.saturating_add(fuel));
        let _ = self.limit.fetch_update(Relaxed, Relaxed, more);
        if self.on_exhausted == OnFuelExhausted::Exit {
            self.added.fetch_add(fuel, Relaxed);
        }
    }

    /// What the store is to be set to, if fuel was added since and what it says
    /// to be left is `left`.
    ///
    /// Compiled code overwrites a part of what is set with the count in its
    /// register, which is up to an interval more than `left` says: that much is
    /// given on top, so that the guest never gets less than was added.
    pub(super) fn claim(&self, left: u64) -> Option<u64> {
        if self.added.load(Relaxed) == 0 {
            return None;
        }
        let added = self.added.swap(0, Relaxed);
        let store = left.saturating_add(added).saturating_add(INTERVAL);
        let used = self.used.load(Relaxed);
        self.in_store.store(store.saturating_add(used), Relaxed);
        Some(store)
    }

    /// Whether the guest is to be held for want of fuel.
    pub(super) fn is_out(&self) -> bool {
        self.on_exhausted == OnFuelExhausted::Pause
            && self.used.load(Relaxed) >= self.limit.load(Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// What is left of the limit.
    pub(super) fn remaining(&self) -> u64 {
        self.limit.load(Relaxed).saturating_sub(self.used())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_its_end_a_guest_traps_or_is_held() {
        let exits = Fuel::new(100, OnFuelExhausted::Exit);
        assert_eq!(exits.at_start(), 100);
        exits.left(0);
        assert!(!exits.is_out());
        assert_eq!((exits.used(), exits.remaining()), (100, 0));

        let pauses = Fuel::new(100, OnFuelExhausted::Pause);
        pauses.left(u64::MAX - 99);
        assert!(!pauses.is_out());
        pauses.left(u64::MAX - 130);
        assert!(pauses.is_out());
        assert_eq!((pauses.used(), pauses.remaining()), (130, 0));
        // What it ran too many is paid for first.
        pauses.add(30);
        assert!(pauses.is_out());
        pauses.add(1);
        assert!(!pauses.is_out());
        assert_eq!(pauses.claim(u64::MAX - 130), None);
    }

    #[test]
    fn what_is_added_is_claimed_once_and_never_short() {
        let fuel = Fuel::new(100, OnFuelExhausted::Exit);
        fuel.left(40);
        assert_eq!(fuel.claim(40), None);
        fuel.add(7);
        assert_eq!(fuel.remaining(), 47);
        let set = fuel.claim(40).unwrap();
        assert!((47..=47 + INTERVAL).contains(&set));
        assert_eq!(fuel.claim(set), None);
        fuel.left(set);
        assert_eq!(fuel.used(), 60);
        fuel.left(set - 5);
        assert_eq!((fuel.used(), fuel.remaining()), (65, 42));
    }

    #[test]
    fn sums_do_not_overflow() {
        let fuel = Fuel::new(u64::MAX, OnFuelExhausted::Exit);
        fuel.add(u64::MAX);
        assert_eq!(fuel.claim(u64::MAX), Some(u64::MAX));
        assert_eq!(fuel.remaining(), u64::MAX);
    }
}
