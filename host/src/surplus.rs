//! Memory that is free, and that the allocator keeps from the system.
//!
//! glibc gives back only what lies behind everything that is still used. After
//! sixteen agents with a million lines each, all forgotten, a host stayed almost
//! a gigabyte larger for good.

/// Less than this is not worth looking through all that is free.
const WORTH_IT: u64 = 16 * 1024 * 1024;

/// Gives back what histories no longer need.
#[derive(Debug, Default)]
pub(crate) struct Surplus {
    given_back: u64,
}

impl Surplus {
    /// Looks how many bytes were freed since the start, and gives memory back
    /// once it is worth it: on a thread of its own, for it may take a while.
    pub(crate) fn give_back(&mut self, freed: u64) {
        if freed.saturating_sub(self.given_back) >= WORTH_IT {
            self.given_back = freed;
            tokio::task::spawn_blocking(trim);
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "a call without arguments that matter, safe from any thread; nothing wraps it"
)]
fn trim() {
    // SAFETY: malloc_trim has no preconditions and locks what it touches.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give memory back by themselves, or not at all.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
