//! What is done to a native guest from outside. It leaves word for the guest's
//! task and never waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::memory;
use super::tree::{Snapshot, Snapshots};
use crate::runner::{Able, Asked, GuestControl, GuestUsage, Stand};

/// How many times as long as a look at its memory took an agent is left alone then:
/// one that makes them slow gets no more than a fifth of a processor of the host's.
const REST: u32 = 4;

/// Shared by whoever drives the guest and the guest's task.
#[derive(Debug)]
pub(super) struct Control {
    asked: AtomicBool,
    killed: AtomicBool,
    paused: AtomicBool,
    stand: watch::Sender<Stand>,
    /// For the one task that waits.
    changed: Notify,
    usage: Mutex<Usage>,
    snapshots: Arc<Snapshots>,
}

#[derive(Debug, Default)]
struct Usage {
    /// The root of the tree, as long as it may be looked at.
    root: Option<i32>,
    /// Since when it is the root: before, its number may have been another's.
    since: Option<Instant>,
    seen: GuestUsage,
}

impl Control {
    pub(super) fn new(snapshots: Arc<Snapshots>) -> Self {
        Self {
            asked: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            stand: watch::Sender::new(Stand::Goes),
            changed: Notify::new(),
            usage: Mutex::default(),
            snapshots,
        }
    }

    /// Waits until something was asked since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the guest is to be killed. For one waiter at a time, like
    /// [`Self::changed`].
    pub(super) async fn killed(&self) {
        while !self.is_killed() {
            self.changed.notified().await;
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Whether it stands still, for the guest's task to say.
    pub(super) fn stands(&self, stand: Stand) {
        self.stand.send_replace(stand);
    }

    /// Whether all of the tree has stopped. Looks at `/proc`.
    pub(super) fn has_stopped(&self) -> bool {
        let root = self.usage_mut().root;
        root.is_some_and(|root| Snapshot::take().stands_still(root))
    }

    /// From now on usage is that of the tree below this process.
    pub(super) fn lives(&self, root: Option<i32>) {
        let mut usage = self.usage_mut();
        usage.root = root;
        usage.since = Some(Instant::now());
    }

    /// How much memory the tree has, if that is over `limit`. Waits for its turn,
    /// and afterwards longer than it looked: an agent decides how long that takes.
    pub(super) async fn outgrows(self: Arc<Self>, limit: u64) -> Option<u64> {
        let turn = self.snapshots.turn().await;
        let look = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let begun = Instant::now();
            (self.has_outgrown(limit), begun.elapsed())
        });
        let (outgrown, took) = look.await.unwrap_or_default();
        if outgrown.is_none() {
            tokio::time::sleep(took * REST).await;
        }
        outgrown
    }

    fn has_outgrown(&self, limit: u64) -> Option<u64> {
        let root = self.usage_mut().root?;
        let wanted = || !self.is_killed() && self.usage_mut().root == Some(root);
        memory::over(limit, &self.snapshots, root, wanted)
    }

    /// Whether it stands still, for others to watch.
    pub(super) fn stand(&self) -> watch::Receiver<Stand> {
        self.stand.subscribe()
    }

    /// The process is about to be waited for, and its number may then be
    /// another's; what it used in all is known now, or is what was last seen.
    pub(super) fn ends(&self, cpu_ms: u64, peak_bytes: u64) {
        let mut usage = self.usage_mut();
        usage.root = None;
        usage.seen.memory_bytes = 0;
        usage.seen.cpu_ms = usage.seen.cpu_ms.max(cpu_ms);
        usage.seen.memory_peak_bytes = usage.seen.memory_peak_bytes.max(peak_bytes);
    }

    fn usage_mut(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GuestControl for Control {
    /// What of it wakes another is held again.
    fn pause(&self) -> Able {
        self.paused.store(true, Ordering::Release);
        self.changed.notify_one();
        Able::Yes
    }

    /// What had stopped itself goes on too, unless a cgroup held it.
    fn resume(&self) {
        self.paused.store(false, Ordering::Release);
        self.changed.notify_one();
    }

    /// Nobody counts what a process computes.
    fn refuel(&self, _: u64) -> Able {
        Able::No
    }

    fn ask_stop(&self) -> Asked {
        // It is to hear it, and has its grace to run in.
        self.paused.store(false, Ordering::Release);
        self.asked.store(true, Ordering::Release);
        self.changed.notify_one();
        Asked::Yes
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// As it was when the host last looked; where that is more than 250 ms ago, it
    /// looks again for who asks next. A look takes as long as the machine has
    /// processes, and here others wait. Memory that processes share counts once for each, and computing is lost of a process whose parent ignores its end, until
    /// all has ended and the kernel's own sums are there.
    fn usage(&self) -> GuestUsage {
        let mut usage = self.usage_mut();
        let Some(root) = usage.root else {
            return usage.seen;
        };
        self.snapshots.renew();
        let last = self.snapshots.last();
        if let Some((_, snapshot)) = last.filter(|(taken, _)| Some(*taken) > usage.since) {
            let now = snapshot.usage(root);
            let seen = &mut usage.seen;
            seen.memory_bytes = now.resident_bytes;
            seen.memory_peak_bytes = seen.memory_peak_bytes.max(now.resident_bytes);
            seen.cpu_ms = seen.cpu_ms.max(now.cpu_ms);
        }
        usage.seen
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn usage_waits_for_no_look_and_is_what_the_last_one_saw() {
        let snapshots = Arc::new(Snapshots::default());
        let control = Arc::new(Control::new(Arc::clone(&snapshots)));
        control.lives(Some(nix::unistd::getppid().as_raw()));
        let asked = Arc::clone(&control);
        let ask = move || asked.usage().memory_bytes;
        // While somebody looks, which takes for ever.
        let looks = snapshots.looks();
        let (told, answer) = std::sync::mpsc::channel();
        let first = ask.clone();
        std::thread::spawn(move || told.send(first()));
        assert_eq!(answer.recv_timeout(Duration::from_secs(60)), Ok(0));
        drop(looks);
        snapshots.renewed().await;
        // This process is one of those.
        assert!(ask() > 0);
    }
}
