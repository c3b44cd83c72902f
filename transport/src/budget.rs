//! Counts what is held for somebody, in items and bytes, until it is released.
//! zeromq's own queues have no bound in bytes and tell nobody how long they are;
//! a payload made by [`Held::bind`] reports its own end, wherever it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

/// A bounded account of held items and bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    max_items: usize,
    max_bytes: usize,
    items: AtomicUsize,
    bytes: AtomicUsize,
    released: Notify,
}

/// A share of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_items: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            max_items,
            max_bytes,
            items: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            released: Notify::new(),
        })
    }

    /// A share of `bytes`, or nothing where the bound would be passed.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        // Added first and taken back: two takers may both be refused at the
        // bound, but never both pass it.
        let items = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if items > self.max_items || all > self.max_bytes {
            self.items.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Held {
            budget: Arc::clone(self),
            bytes,
        })
    }

    /// A share of `bytes`, also beyond the bound.
    pub(crate) fn take_anyway(self: &Arc<Self>, bytes: usize) -> Held {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held {
            budget: Arc::clone(self),
            bytes,
        }
    }

    pub(crate) fn items(&self) -> usize {
        self.items.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many items and bytes more there may be.
    pub(crate) fn left(&self) -> (usize, usize) {
        let items = self.max_items.saturating_sub(self.items());
        (items, self.max_bytes.saturating_sub(self.bytes()))
    }

    /// Whether more than half of either bound is held.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.items() > self.max_items / 2 || self.bytes() > self.max_bytes / 2
    }

    /// Whether either bound is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.items() >= self.max_items || self.bytes() >= self.max_bytes
    }

    /// Resolves after something was given back; one waiter at a time.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }
}

impl Held {
    /// The payload, which gives the share back, and drops what comes `with` it,
    /// when its last copy is dropped.
    pub(crate) fn bind(self, payload: Bytes, with: impl Send + 'static) -> Bytes {
        struct Bound<T> {
            payload: Bytes,
            _held: Held,
            _with: T,
        }
        impl<T> AsRef<[u8]> for Bound<T> {
            fn as_ref(&self) -> &[u8] {
                &self.payload
            }
        }
        Bytes::from_owner(Bound {
            payload,
            _held: self,
            _with: with,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.items.fetch_sub(1, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_a_share_returns_with_the_last_copy() {
        let budget = Budget::new(2, 10);
        let first = budget
            .take(4)
            .unwrap()
            .bind(Bytes::from_static(b"four"), ());
        assert!(budget.take(7).is_none(), "bytes");
        let second = budget.take(6).unwrap();
        assert!(budget.take(0).is_none(), "items");
        assert_eq!((budget.items(), budget.bytes()), (2, 10));
        drop(second);

        let copy = first.slice(1..3);
        drop(first);
        assert_eq!((budget.items(), budget.bytes()), (1, 4));
        assert_eq!(&copy[..], b"ou");
        drop(copy);
        assert_eq!((budget.items(), budget.bytes()), (0, 0));
    }
}
