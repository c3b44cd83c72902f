//! How much memory a guest has: the sum over all of its linear memories and
//! tables, since wasmtime's own limiter counts each by itself and lets a guest
//! have thousands. An element of a table counts as the 8 bytes of the pointer
//! that it is. Costs a few additions a growth.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::usage::Meters;

/// Bytes of one element of a table.
pub(super) const ELEMENT_BYTES: u64 = 8;

/// A growth that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// The sum that it would have reached, in bytes.
    pub(super) asked_bytes: u64,
}

/// Watches the growth of one guest.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: u64,
    /// Instances, and by the same number memories and tables: each of these
    /// costs the host a reservation of address space even when it is empty.
    instances: usize,
    used: u64,
    /// The growth that was allowed last, in case the system cannot give it.
    last: u64,
    refused: Option<Refused>,
    meters: Arc<Meters>,
}

impl Limiter {
    pub(super) fn new(limit: u64, instances: u64, meters: Arc<Meters>) -> Self {
        let instances = usize::try_from(instances).unwrap_or(usize::MAX);
        Self {
            limit,
            instances,
            used: 0,
            last: 0,
            refused: None,
            meters,
        }
    }

    /// The last refusal, unless a growth succeeded since.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    fn grow(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> bool {
        // Beyond what the guest itself declared: its own affair, not a refusal.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let more = desired.saturating_sub(current);
        let asked_bytes = self.used.saturating_add(more);
        if asked_bytes > self.limit {
            self.refused = Some(Refused { asked_bytes });
            return false;
        }
        self.used = asked_bytes;
        self.last = more;
        // A growth by nothing is no sign that memory is to be had again.
        if more > 0 {
            self.refused = None;
        }
        self.meters.memory(self.used);
        true
    }

    fn undo(&mut self) {
        let asked_bytes = self.used;
        self.used = self.used.saturating_sub(std::mem::take(&mut self.last));
        self.refused = Some(Refused { asked_bytes });
        self.meters.memory(self.used);
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

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| (elements as u64).saturating_mul(ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
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

    fn meters() -> Arc<Meters> {
        Arc::new(Meters::new(Fuel::new(1, OnFuelExhausted::Exit)))
    }

    #[test]
    fn the_sum_counts_and_a_refusal_is_forgotten_once_growth_succeeds() {
        let meters = meters();
        let mut limiter = Limiter::new(100, 4, Arc::clone(&meters));
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap());
        assert_eq!(limiter.refused(), Some(Refused { asked_bytes: 101 }));
        assert!(limiter.memory_growing(60, 60, None).unwrap());
        assert_eq!(limiter.refused(), Some(Refused { asked_bytes: 101 }));
        assert!(limiter.table_growing(0, 5, None).unwrap());
        assert_eq!(limiter.refused(), None);
        assert!(!limiter.table_growing(5, 6, None).unwrap());
        assert_eq!(limiter.refused(), Some(Refused { asked_bytes: 108 }));
    }

    #[test]
    fn what_the_system_refuses_is_not_counted() {
        let mut limiter = Limiter::new(100, 4, meters());
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert_eq!(limiter.refused(), Some(Refused { asked_bytes: 60 }));
        assert!(limiter.memory_growing(0, 100, None).unwrap());
        assert!(!limiter.memory_growing(0, 10, Some(5)).unwrap());
        assert_eq!(limiter.refused(), None);
    }
}
