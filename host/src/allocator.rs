//! The allocator of this process, which is the binary's choice and not this library's.

use std::sync::OnceLock;

static PURGE: OnceLock<fn()> = OnceLock::new();

/// Tells how the allocator gives what is free back to the system at once. Called after
/// guests for which it held much; without it, that stays resident for as long as the
/// allocator likes. The first call counts.
pub fn purges_with(purge: fn()) {
    PURGE.get_or_init(|| purge);
}

/// Has it give back what is free.
pub(crate) fn purge() {
    if let Some(purge) = PURGE.get() {
        purge();
    }
}
