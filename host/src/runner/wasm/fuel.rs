//! A guest's fuel: how many instructions it may run, and has.
//!
//! Where the end of the fuel ends the guest, wasmtime counts, to the
//! instruction. But its trap cannot be taken back, and fuel cannot be added
//! from outside while the guest runs. So where the end is a pause, the store
//! gets more than can ever be used, the budget is this counter, and the guest
//! is held once it is over it: at the first tick of the clock after, so that it
//! may have run as far as it comes in a tick and [`INTERVAL`] too many. What it
//! ran too many is counted, and the next refuelling pays for it first.
//!
//! A guest that would end is counted like that from its first refuelling on.
//! Compiled code overwrites a part of what a store is set to with the count in
//! its register, so that each setting may be wrong by [`INTERVAL`]: were the
//! store set at each refuelling, a million of one instruction each would add
//! up to a million times a million.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use skep_protocol::spec::OnFuelExhausted;

/// How many instructions a guest runs at most between two readings of its fuel
/// that are right: compiled code keeps the count in a register meanwhile. Some 10
/// to 100 µs; the guest is left and entered again then, which takes 0.4 µs.
pub(super) const INTERVAL: u64 = 200_000;

/// How many of them are a turn, if no tick ends it before: half a millisecond at most.
pub(super) const INTERVALS_PER_TURN: usize = 5;

/// The fuel of one guest. Read from anywhere, settled by whoever runs it.
#[derive(Debug)]
pub(super) struct Fuel {
    on_exhausted: OnFuelExhausted,
    limit: AtomicU64,
    used: AtomicU64,
    /// Whether it was added to.
    refuelled: AtomicBool,
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
            refuelled: AtomicBool::new(false),
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
        self.refuelled.store(true, Relaxed);
    }

    /// What the store is to be set to, at the first look after the first
    /// refuelling: more than can ever be used.
    pub(super) fn claim(&self) -> Option<u64> {
        if !self.refuelled.load(Relaxed) || self.is_counted_here() {
            return None;
        }
        self.in_store.store(u64::MAX, Relaxed);
        Some(u64::MAX - self.used.load(Relaxed))
    }

    fn is_counted_here(&self) -> bool {
        self.in_store.load(Relaxed) == u64::MAX
    }

    /// Whether the guest is to end for want of fuel, which its store does not
    /// know. It never gets less than was added: what setting the store made of
    /// its count is at most an interval too much.
    pub(super) fn is_spent(&self) -> bool {
        let limit = self.limit.load(Relaxed).saturating_add(INTERVAL);
        self.on_exhausted == OnFuelExhausted::Exit
            && self.is_counted_here()
            && self.used.load(Relaxed) >= limit
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
        assert_eq!(pauses.claim(), None);
        assert!(!pauses.is_spent());
    }

    #[test]
    fn however_often_it_is_refuelled_what_comes_on_top_comes_once() {
        let fuel = Fuel::new(100, OnFuelExhausted::Exit);
        fuel.left(40);
        assert_eq!(fuel.claim(), None);
        fuel.add(7);
        assert_eq!(fuel.remaining(), 47);
        let set = fuel.claim().unwrap();
        for _ in 0..1000 {
            fuel.add(1);
            assert_eq!(fuel.claim(), None);
        }
        fuel.left(set);
        assert_eq!((fuel.used(), fuel.remaining()), (60, 1047));
        fuel.left(set - 1047);
        assert!(!fuel.is_spent(), "less than was added");
        fuel.left(set - 1047 - INTERVAL);
        assert!(fuel.is_spent());
        fuel.add(1);
        assert!(!fuel.is_spent());
    }

    #[test]
    fn sums_do_not_overflow() {
        let fuel = Fuel::new(u64::MAX, OnFuelExhausted::Exit);
        fuel.add(u64::MAX);
        assert_eq!((fuel.claim(), fuel.remaining()), (None, u64::MAX));
        assert!(!fuel.is_spent());
    }
}
