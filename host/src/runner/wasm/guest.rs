//! One guest as a task, and the hand that ends it.
//!
//! A guest is a future that is polled on a guest thread. It can be suspended
//! while all of those threads are busy with others, so whoever kills it doesn't
//! wait for its turn: the future is taken out of its slot and dropped on a
//! thread kept for that. If it is being polled at that moment, the next tick of
//! the clock ends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::store::Orders;
use super::usage::Meters;
use super::workers::Workers;
use crate::runner::{Asked, End, GuestControl, GuestEvent, GuestUsage};

/// The whole of a guest, from the wait for its compiled form to its end.
pub(super) type Life = Pin<Box<dyn Future<Output = End> + Send>>;

enum Stage {
    /// Nobody polls it.
    Still(Life),
    /// A guest thread polls it.
    Turning,
    /// The same, and it is to be dropped when that is over.
    Doomed,
    /// It is dropped, or about to be.
    Gone,
}

/// Where a guest's future lives. The lock is held for a few instructions.
pub(super) struct Slot {
    stage: Mutex<Stage>,
    events: Mutex<Option<mpsc::Sender<GuestEvent>>>,
    meters: Arc<Meters>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub(super) fn new(life: Life, events: mpsc::Sender<GuestEvent>, meters: Arc<Meters>) -> Self {
        Self {
            stage: Mutex::new(Stage::Still(life)),
            events: Mutex::new(Some(events)),
            meters,
        }
    }

    /// Takes the future if nobody polls it, and otherwise dooms it.
    fn condemn(&self) -> Option<Life> {
        let mut stage = lock(&self.stage);
        match std::mem::replace(&mut *stage, Stage::Gone) {
            Stage::Still(life) => return Some(life),
            Stage::Turning | Stage::Doomed => *stage = Stage::Doomed,
            Stage::Gone => {}
        }
        None
    }

    /// Drops what is left of the guest, and then tells its end.
    fn bury(&self, life: Life, end: End) {
        let end = match catch_unwind(AssertUnwindSafe(|| drop(life))) {
            Ok(()) => end,
            Err(panic) => fault(&*panic),
        };
        self.meters.memory_returned();
        if let Some(events) = lock(&self.events).take() {
            // There is room for both events; only the driver may be gone.
            let _ = events.try_send(GuestEvent::Ended(end));
        }
    }
}

fn fault(panic: &(dyn std::any::Any + Send)) -> End {
    let cause = format!("a guest's host code panicked: {}", super::panic_text(panic));
    End::Fault {
        incident: crate::incident(&cause),
    }
}

/// The task of a guest. Dropping it ends the guest.
#[derive(Debug)]
pub(super) struct Turns(pub(super) Arc<Slot>);

impl Future for Turns {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &self.0;
        let mut life = {
            let mut stage = lock(&slot.stage);
            match std::mem::replace(&mut *stage, Stage::Turning) {
                Stage::Still(life) => life,
                other => {
                    *stage = other;
                    return Poll::Ready(());
                }
            }
        };
        let begun = Instant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(cx)));
        slot.meters.ran(begun.elapsed());
        let end = match polled {
            Ok(Poll::Ready(end)) => end,
            Ok(Poll::Pending) => {
                let mut stage = lock(&slot.stage);
                if matches!(*stage, Stage::Turning) {
                    *stage = Stage::Still(life);
                    return Poll::Pending;
                }
                End::Killed
            }
            Err(panic) => fault(&*panic),
        };
        *lock(&slot.stage) = Stage::Gone;
        slot.bury(life, end);
        Poll::Ready(())
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Some(life) = self.0.condemn() {
            self.0.bury(life, End::Killed);
        }
    }
}

/// The hand on a guest.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) slot: Arc<Slot>,
    pub(super) orders: Arc<Orders>,
    pub(super) meters: Arc<Meters>,
    /// Whether it can be asked to stop. One that is still being compiled will
    /// see it when it begins.
    pub(super) listens: bool,
    pub(super) task: AbortHandle,
    pub(super) reapers: Arc<Workers>,
}

impl GuestControl for Control {
    fn ask_stop(&self) -> Asked {
        self.orders.ask_stop();
        if self.listens {
            Asked::Yes
        } else {
            Asked::Deaf
        }
    }

    fn kill(&self) {
        self.orders.kill();
        let Some(life) = self.slot.condemn() else {
            return;
        };
        let slot = Arc::clone(&self.slot);
        // Giving memory back takes its time, and the caller has none.
        let mut grave = Grave {
            slot,
            life: Some(life),
        };
        if let Err(here) = self.reapers.push(move || grave.close()) {
            here();
        }
        self.task.abort();
    }

    fn usage(&self) -> GuestUsage {
        self.meters.read()
    }
}

/// A future on its way to be dropped: even if the thread for it is gone.
struct Grave {
    slot: Arc<Slot>,
    life: Option<Life>,
}

impl Grave {
    fn close(&mut self) {
        if let Some(life) = self.life.take() {
            self.slot.bury(life, End::Killed);
        }
    }
}

impl Drop for Grave {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runner::GUEST_EVENTS;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    async fn end_of(life: impl Future<Output = End> + Send + 'static) -> End {
        let (events, mut ended) = mpsc::channel(GUEST_EVENTS);
        let slot = Slot::new(Box::pin(life), events, Arc::new(Meters::new(0)));
        tokio::spawn(Turns(Arc::new(slot))).await.unwrap();
        match tokio::time::timeout(Duration::from_secs(10), ended.recv())
            .await
            .unwrap()
        {
            Some(GuestEvent::Ended(end)) => end,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_panic_of_ours_is_a_fault_of_that_guest_alone() {
        let panics = end_of(async {
            tokio::task::yield_now().await;
            panic!("a bug")
        });
        assert!(matches!(panics.await, End::Fault { .. }));
        let panics = end_of(async {
            let _held = PanicsOnDrop;
            End::Exited(0)
        });
        assert!(matches!(panics.await, End::Fault { .. }));
        assert_eq!(end_of(async { End::Exited(7) }).await, End::Exited(7));
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_ends_its_guest() {
        let (events, mut ended) = mpsc::channel(GUEST_EVENTS);
        let never = Box::pin(std::future::pending());
        let slot = Arc::new(Slot::new(never, events, Arc::new(Meters::new(0))));
        drop(Turns(slot));
        assert_eq!(ended.recv().await, Some(GuestEvent::Ended(End::Killed)));
        assert_eq!(ended.recv().await, None);
    }
}
