//! How much memory a guest has: the sum over all of its linear memories and
//! tables, and what its instances are if that is much, since wasmtime's own limiter
//! counts each by itself and lets a guest have thousands. An element of a table counts as the 8 bytes of the pointer
//! that it is. What is allowed is taken from what all guests have together, and
//! given back when the guest is gone. Costs a few additions a growth.

use std::sync::Arc;

use skep_protocol::Limits;
use wasmtime::ResourceLimiter;

use super::census::Needs;
use super::memory::HostMemory;
use super::usage::Meters;

/// Bytes of one element of a table.
pub(super) const ELEMENT_BYTES: u64 = 8;

/// Elements of all tables: programs have some 200,000 at most. wasmtime makes them in
/// one call that nothing interrupts, some milliseconds for these. Of 4 GiB, which
/// one instruction could ask for, that were seconds, in which nobody else goes on
/// and no kill comes through. And a table that grows takes twice its bytes, and
/// leaves as many behind with the allocator.
pub(super) const TABLE_ELEMENTS: u64 = 1 << 20;

/// How wasmtime names failures of growths that it did not ask for before: of
/// memories with pages of a byte, and of tables with 64-bit indices. No guest of
/// this engine has either.
const UNASKED: [&str; 2] = [
    "exceeds memory type's limits",
    "overflow calculating new table size",
];

/// A growth that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// The sum that it would have reached, in bytes.
    pub(super) asked_bytes: u64,
    pub(super) by: Bound,
}

/// What a growth was refused by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// The guest's own limit, or the system.
    Limit,
    /// What all guests have together.
    Host,
}

/// Watches the growth of one guest.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: u64,
    /// Instances, and by the same number memories and tables: each of these
    /// costs the host a reservation of address space even when it is empty.
    instances: usize,
    /// Instances that wasmtime makes beside those of the guest.
    between: usize,
    used: u64,
    /// What of it was there at the start: its instances.
    begun_with: u64,
    /// Elements of its tables.
    elements: u64,
    /// The growth that was allowed last, in case the system cannot give it: then
    /// its failure is told before anything else is asked.
    pending: Option<u64>,
    refused: Option<Refused>,
    host: Arc<HostMemory>,
    meters: Arc<Meters>,
}

impl Limiter {
    pub(super) fn new(limits: &Limits, host: Arc<HostMemory>, meters: Arc<Meters>) -> Self {
        Self {
            limit: limits.memory_bytes,
            instances: usize::try_from(limits.instances).unwrap_or(usize::MAX),
            between: 0,
            used: 0,
            begun_with: 0,
            elements: 0,
            pending: None,
            refused: None,
            host,
            meters,
        }
    }

    /// Takes what is the guest's before it has any memory or table, if all guests
    /// together have that much.
    pub(super) fn begin_with(&mut self, needs: &Needs) -> bool {
        let taken = self.host.take(needs.instance_bytes);
        if taken {
            self.used = self.used.saturating_add(needs.instance_bytes);
            self.begun_with = needs.instance_bytes;
            self.meters.memory(self.used);
            self.meters.heap(self.begun_with);
        }
        self.between = usize::try_from(needs.between).unwrap_or(usize::MAX);
        taken
    }

    /// The last refusal, unless a growth succeeded since.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    fn grow(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> bool {
        self.pending = None;
        // Beyond what the guest itself declared: its own affair, not a refusal.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let more = desired.saturating_sub(current);
        let asked_bytes = self.used.saturating_add(more);
        let bound = if asked_bytes > self.limit {
            Some(Bound::Limit)
        } else if !self.host.take(more) {
            // A guest that goes on asking is told of once.
            if self.refused.is_none() {
                tracing::warn!(
                    more,
                    "the agents use all the memory that they may: a growth is refused"
                );
            }
            Some(Bound::Host)
        } else {
            None
        };
        if let Some(by) = bound {
            self.refused = Some(Refused { asked_bytes, by });
            return false;
        }
        self.used = asked_bytes;
        self.pending = Some(more);
        // A growth by nothing is no sign that memory is to be had again.
        if more > 0 {
            self.refused = None;
        }
        self.meters.memory(self.used);
        true
    }

    /// Takes off the growth that was allowed and could not be given. One that was
    /// never asked for has nothing to be taken off: that would be the one before,
    /// which succeeded, and a guest could repeat it.
    fn undo(&mut self, error: &wasmtime::Error) -> u64 {
        let text = error.to_string();
        if UNASKED.iter().any(|unasked| text.contains(unasked)) {
            return 0;
        }
        let Some(growth) = self.pending.take() else {
            return 0;
        };
        let asked_bytes = self.used;
        self.used = self.used.saturating_sub(growth);
        self.host.give_back(growth);
        let by = Bound::Limit;
        self.refused = Some(Refused { asked_bytes, by });
        self.meters.memory(self.used);
        growth
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.host.give_back(self.used);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(
            current as u64,
            desired as u64,
            maximum.map(|maximum| maximum as u64),
        ))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo(&error);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let elements = self.elements.saturating_add(more);
        // More than any guest has: not for want of memory.
        if elements > TABLE_ELEMENTS {
            self.pending = None;
            return Ok(false);
        }
        let bytes = |elements: usize| (elements as u64).saturating_mul(ELEMENT_BYTES);
        let grows = self.grow(bytes(current), bytes(desired), maximum.map(bytes));
        if grows {
            self.elements = elements;
            let bytes = elements.saturating_mul(ELEMENT_BYTES);
            self.meters.heap(self.begun_with.saturating_add(bytes));
        }
        Ok(grows)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.elements = (self.elements).saturating_sub(self.undo(&error) / ELEMENT_BYTES);
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances.saturating_add(self.between)
    }

    fn memories(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.instances
    }
}

#[cfg(test)]
mod tests {
    use skep_protocol::spec::OnFuelExhausted;

    use super::super::fuel::Fuel;
    use super::*;

    fn limiter(host: &Arc<HostMemory>) -> Limiter {
        let limits = Limits {
            memory_bytes: 100,
            instances: 4,
            ..Limits::default()
        };
        let meters = Meters::new(Fuel::new(1, OnFuelExhausted::Exit));
        Limiter::new(&limits, Arc::clone(host), Arc::new(meters))
    }

    fn refused(asked_bytes: u64, by: Bound) -> Option<Refused> {
        Some(Refused { asked_bytes, by })
    }

    #[test]
    fn the_sum_counts_and_a_refusal_is_forgotten_once_growth_succeeds() {
        let mut limiter = limiter(&HostMemory::new(u64::MAX));
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap());
        assert_eq!(limiter.refused(), refused(101, Bound::Limit));
        assert!(limiter.memory_growing(60, 60, None).unwrap());
        assert_eq!(limiter.refused(), refused(101, Bound::Limit));
        assert!(limiter.table_growing(0, 5, None).unwrap());
        assert_eq!(limiter.refused(), None);
        assert!(!limiter.table_growing(5, 6, None).unwrap());
        assert_eq!(limiter.refused(), refused(108, Bound::Limit));
    }

    #[test]
    fn tables_have_an_end_that_is_no_want_of_memory() {
        let host = HostMemory::new(u64::MAX);
        let mut limiter = limiter(&host);
        limiter.limit = u64::MAX;
        let most = usize::try_from(TABLE_ELEMENTS).unwrap();
        for declared in [None, Some(most + 1)] {
            assert!(!limiter.table_growing(0, most + 1, declared).unwrap());
            assert_eq!((limiter.refused(), host.used()), (None, 0));
        }
        assert!(limiter.table_growing(0, most - 1, None).unwrap());
        assert!(!limiter.table_growing(0, 2, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).unwrap());
        // What the system refused counts no more.
        let failed = || wasmtime::Error::msg("no memory");
        limiter.table_grow_failed(failed()).unwrap();
        limiter.table_grow_failed(failed()).unwrap();
        assert!(!limiter.table_growing(0, 2, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).unwrap());
        assert_eq!(host.used(), TABLE_ELEMENTS * ELEMENT_BYTES);
    }

    #[test]
    fn what_the_system_refuses_is_not_counted() {
        let host = HostMemory::new(u64::MAX);
        let mut limiter = limiter(&host);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert_eq!(limiter.refused(), refused(60, Bound::Limit));
        assert_eq!(host.used(), 0);
        assert!(limiter.memory_growing(0, 100, None).unwrap());
        assert!(!limiter.memory_growing(0, 10, Some(5)).unwrap());
        assert_eq!(limiter.refused(), None);
    }

    #[test]
    fn a_failure_takes_off_its_own_growth_and_no_other() {
        let host = HostMemory::new(u64::MAX);
        let mut limiter = limiter(&host);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        let overflow = || wasmtime::Error::msg("overflow calculating new table size");
        limiter.table_grow_failed(overflow()).unwrap();
        let limits = wasmtime::Error::msg("memory growth exceeds memory type's limits");
        limiter.memory_grow_failed(limits).unwrap();
        assert_eq!((host.used(), limiter.refused()), (60, None));
        // A growth that was refused has nothing to give back either.
        assert!(!limiter.memory_growing(60, 600, None).unwrap());
        let failed = || wasmtime::Error::msg("no memory");
        limiter.memory_grow_failed(failed()).unwrap();
        assert_eq!(host.used(), 60);
        // The twin: one that was allowed, once.
        assert!(limiter.memory_growing(60, 70, None).unwrap());
        limiter.memory_grow_failed(failed()).unwrap();
        limiter.memory_grow_failed(failed()).unwrap();
        assert_eq!(host.used(), 60);
    }

    #[test]
    fn all_guests_together_have_no_more_than_the_host_gives() {
        let host = HostMemory::new(150);
        let (mut one, mut other) = (limiter(&host), limiter(&host));
        assert!(one.memory_growing(0, 100, None).unwrap());
        assert!(other.memory_growing(0, 50, None).unwrap());
        assert!(!other.table_growing(0, 1, None).unwrap());
        assert_eq!(other.refused(), refused(58, Bound::Host));
        // The twin: its own limit is told as such.
        assert!(!other.memory_growing(50, 101, None).unwrap());
        assert_eq!(other.refused(), refused(101, Bound::Limit));
        drop(one);
        assert_eq!(host.used(), 50);
        assert!(other.memory_growing(50, 100, None).unwrap());
        drop(other);
        assert_eq!(host.used(), 0);
    }
}
