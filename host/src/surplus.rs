//! Memory that is free, and that the allocator keeps from the system.
//!
//! glibc gives back only what lies behind everything that is still used. After
//! sixteen agents with a million lines each, all forgotten, a host stayed almost
//! a gigabyte larger for good; after two hundred that read and wrote files, 30
//! MiB.

/// So many bytes of histories that were freed are worth looking through all
/// that is free at once.
const WORTH_IT: u64 = 16 * 1024 * 1024;

/// Otherwise that waits until no agents are started any more, but no longer than
/// this many looks.
const PATIENCE: u32 = 12;

/// Gives back what is no longer needed.
#[derive(Debug, Default)]
pub(crate) struct Surplus {
    /// When memory was given back.
    then: Seen,
    /// The last time it was looked.
    before: Seen,
    /// How often since then.
    looks: u32,
}

/// What was counted since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes of histories that were freed.
    pub(crate) freed: u64,
    /// Agents that were started.
    pub(crate) spawns: u64,
}

impl Surplus {
    /// To be called every few seconds: gives memory back once it is worth it, on
    /// a thread of its own, for it may take a while.
    pub(crate) fn look(&mut self, now: Seen) {
        if self.is_worth_it(now) {
            tokio::task::spawn_blocking(trim);
        }
    }

    fn is_worth_it(&mut self, now: Seen) -> bool {
        self.looks = self.looks.saturating_add(1);
        let quiet = now.spawns == self.before.spawns;
        self.before = now;
        let much = now.freed.saturating_sub(self.then.freed) >= WORTH_IT;
        let some = now != self.then && (quiet || self.looks >= PATIENCE);
        if much || some {
            self.then = now;
            self.looks = 0;
        }
        much || some
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_in_a_pause_or_when_it_is_much() {
        let mut surplus = Surplus::default();
        let mut look = |freed, spawns| surplus.is_worth_it(Seen { freed, spawns });
        assert!(!look(0, 0), "nothing happened yet");
        assert!(!look(10, 5), "agents are being started");
        assert!(look(10, 5), "none were since");
        assert!(!look(10, 5), "nothing happened since");
        assert!(look(10 + WORTH_IT, 6), "it is much");
        for spawns in 7..18 {
            assert!(!look(10 + WORTH_IT, spawns));
        }
        assert!(look(10 + WORTH_IT, 18), "they never end");
    }
}
