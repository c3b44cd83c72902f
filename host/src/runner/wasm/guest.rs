//! One guest, and the hand that ends it.
//!
//! A guest is a future that is polled on a guest thread. It can be suspended
//! while all of those threads are busy with others, so whoever kills it doesn't
//! wait for its turn: the future is taken out of its slot and dropped on a
//! thread kept for that. If it is being polled at that moment, the next tick of
//! the clock brings it there.
//!
//! A guest is held by not polling it. It gives its thread back at every tick,
//! so it then stands between two instructions, or in the call to the host that
//! it waits for, and nothing of its store is looked at until it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use skep_protocol::info::PausedReason;
use tokio::sync::{mpsc, watch};

use super::fuel::INTERVALS_PER_TURN;
use super::store::Orders;
use super::usage::{Meters, thread_time};
use super::workers::Workers;
use crate::runner::{Able, Asked, End, GuestControl, GuestEvent, GuestUsage, Stand};

/// The whole of a guest, from the wait for its compiled form to its end.
pub(super) type Life = Pin<Box<dyn Future<Output = End> + Send>>;

enum Stage {
    /// Nobody polls it.
    Still(Life),
    /// A guest thread polls it.
    Turning,
    /// The same, and it is to be dropped when that is over: by these, or here.
    Doomed(Option<Arc<Workers>>),
    /// It is dropped, or about to be.
    Gone,
}

/// What happens to a guest's future.
struct Place {
    stage: Stage,
    /// Whether it is to be held, as somebody asked.
    pause: bool,
    /// To be called when it is held no more.
    waker: Option<Waker>,
}

impl Place {
    /// Takes what is to be called now that the guest may go on.
    fn let_go(&mut self, slot: &Slot) -> Option<Waker> {
        slot.tell(self);
        match slot.held_for(self) {
            Some(_) => None,
            None => self.waker.take(),
        }
    }
}

/// Where a guest's future lives. The lock is held for a few instructions.
pub(super) struct Slot {
    place: Mutex<Place>,
    stand: watch::Sender<Stand>,
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
    pub(super) fn new(
        life: Life,
        events: mpsc::Sender<GuestEvent>,
        stand: watch::Sender<Stand>,
        meters: Arc<Meters>,
    ) -> Self {
        let place = Place {
            stage: Stage::Still(life),
            pause: false,
            waker: None,
        };
        Self {
            place: Mutex::new(place),
            stand,
            events: Mutex::new(Some(events)),
            meters,
        }
    }

    /// Takes the future if nobody polls it, and otherwise dooms it.
    fn condemn(&self, reapers: Option<&Arc<Workers>>) -> Option<Life> {
        let stage = &mut lock(&self.place).stage;
        match std::mem::replace(stage, Stage::Gone) {
            Stage::Still(life) => return Some(life),
            Stage::Turning => *stage = Stage::Doomed(reapers.cloned()),
            Stage::Doomed(before) => *stage = Stage::Doomed(before),
            Stage::Gone => {}
        }
        None
    }

    fn held_for(&self, place: &Place) -> Option<PausedReason> {
        if self.meters.fuel.is_out() {
            Some(PausedReason::OutOfFuel)
        } else {
            place.pause.then_some(PausedReason::Asked)
        }
    }

    /// Tells whether the guest stands still; while it is polled, whoever does
    /// that tells it afterwards.
    fn tell(&self, place: &Place) {
        let stand = match (&place.stage, self.held_for(place)) {
            (_, None) => Stand::Goes,
            (Stage::Still(_), Some(reason)) => Stand::Held(reason),
            (Stage::Turning | Stage::Doomed(_) | Stage::Gone, Some(_)) => return,
        };
        self.stand.send_if_modified(|told| {
            let news = *told != stand;
            *told = stand;
            news
        });
    }

    /// Puts the future back, and says whether it is to be polled again when
    /// something has happened; not if it is doomed.
    fn put_back(&self, life: Life, waker: &Waker) -> Result<(), Life> {
        let mut place = lock(&self.place);
        if !matches!(place.stage, Stage::Turning) {
            return Err(life);
        }
        place.stage = Stage::Still(life);
        self.tell(&place);
        if self.held_for(&place).is_some() {
            // What happens meanwhile wakes this task in vain.
            place.waker = Some(waker.clone());
        }
        Ok(())
    }

    /// Lets the guest go on until it waits, has used up its turn, or has ended;
    /// with the processor time that it took, here and elsewhere. `is_woken` says whether
    /// it was woken since it was last asked.
    pub(super) fn turn(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        is_woken: impl Fn() -> bool,
    ) -> (Poll<()>, Duration) {
        let mut life = {
            let mut place = lock(&self.place);
            if matches!(place.stage, Stage::Still(_)) && self.held_for(&place).is_some() {
                place.waker = Some(cx.waker().clone());
                return (Poll::Pending, Duration::ZERO);
            }
            match std::mem::replace(&mut place.stage, Stage::Turning) {
                Stage::Still(life) => life,
                other => {
                    place.stage = other;
                    return (Poll::Ready(()), Duration::ZERO);
                }
            }
        };
        let begun = thread_time();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // It also comes back to have its fuel read, and goes on at once.
            for _ in 1..INTERVALS_PER_TURN {
                let polled = life.as_mut().poll(cx);
                if polled.is_ready() || self.meters.has_ticked() || !is_woken() {
                    return polled;
                }
            }
            life.as_mut().poll(cx)
        }));
        let took = thread_time().saturating_sub(begun);
        self.meters.ran(took);
        let took = took.saturating_add(self.meters.take_elsewhere());
        let end = match polled {
            Ok(Poll::Ready(end)) => end,
            Ok(Poll::Pending) => match self.put_back(life, cx.waker()) {
                Ok(()) => return (Poll::Pending, took),
                Err(doomed) => {
                    self.reap(doomed);
                    return (Poll::Ready(()), took);
                }
            },
            Err(panic) => fault(&*panic),
        };
        lock(&self.place).stage = Stage::Gone;
        self.bury(life, end);
        (Poll::Ready(()), took)
    }

    /// Sees to a guest that was doomed in its turn. Giving back what it has takes its
    /// time, in which this thread has others to go on with.
    fn reap(self: &Arc<Self>, life: Life) {
        let stage = std::mem::replace(&mut lock(&self.place).stage, Stage::Gone);
        let grave = Grave::of(self, life);
        if let Stage::Doomed(Some(reapers)) = stage {
            grave.left_to(&reapers);
        }
    }

    /// Ends the guest here and now, or with its turn if it has one.
    pub(super) fn abandon(&self) {
        if let Some(life) = self.condemn(None) {
            self.bury(life, End::Killed);
        }
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

/// The hand on a guest.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) slot: Arc<Slot>,
    pub(super) orders: Arc<Orders>,
    pub(super) meters: Arc<Meters>,
    /// Whether it can be asked to stop. One that is still being compiled will
    /// see it when it begins.
    pub(super) listens: bool,
    /// Has the guest's seat looked at.
    pub(super) seat: Waker,
    pub(super) reapers: Arc<Workers>,
}

impl Control {
    /// Changes what holds the guest, and lets it go if nothing does any more.
    fn change(&self, change: impl FnOnce(&mut Place)) {
        let waker = {
            let mut place = lock(&self.slot.place);
            change(&mut place);
            place.let_go(&self.slot)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl GuestControl for Control {
    fn pause(&self) -> Able {
        self.change(|place| place.pause = true);
        Able::Yes
    }

    fn resume(&self) {
        self.change(|place| place.pause = false);
    }

    fn refuel(&self, fuel: u64) -> Able {
        self.change(|_| self.meters.fuel.add(fuel));
        Able::Yes
    }

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
        let Some(life) = self.slot.condemn(Some(&self.reapers)) else {
            return;
        };
        // Giving memory back takes its time, and the caller has none.
        Grave::of(&self.slot, life).left_to(&self.reapers);
        // Nobody else would find out that it is empty.
        self.seat.wake_by_ref();
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
    fn of(slot: &Arc<Slot>, life: Life) -> Self {
        Self {
            slot: Arc::clone(slot),
            life: Some(life),
        }
    }

    fn left_to(mut self, reapers: &Workers) {
        if let Err(here) = reapers.push(move || self.close()) {
            here();
        }
    }

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
    use skep_protocol::spec::OnFuelExhausted;

    use super::super::crew::Crew;
    use super::super::fuel::Fuel;
    use super::*;
    use crate::runner::GUEST_EVENTS;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    fn slot(life: Life, events: mpsc::Sender<GuestEvent>) -> Slot {
        let fuel = Fuel::new(1, OnFuelExhausted::Exit);
        let stand = watch::Sender::new(Stand::Goes);
        Slot::new(life, events, stand, Arc::new(Meters::new(fuel)))
    }

    async fn end_of(life: impl Future<Output = End> + Send + 'static) -> End {
        let (events, mut ended) = mpsc::channel(GUEST_EVENTS);
        let crew = Crew::new(1, || ()).unwrap();
        crew.seat(Arc::new(slot(Box::pin(life), events)));
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

    /// The processor time that is told of a life.
    async fn cpu_ms(life: impl Future<Output = End> + Send + 'static) -> u64 {
        let (events, mut ended) = mpsc::channel(GUEST_EVENTS);
        let crew = Crew::new(1, || ()).unwrap();
        let slot = Arc::new(slot(Box::pin(life), events));
        crew.seat(Arc::clone(&slot));
        ended.recv().await.unwrap();
        slot.meters.read().cpu_ms
    }

    #[tokio::test]
    async fn what_counts_is_that_it_computes() {
        let stands_still = cpu_ms(async {
            let (_never, nothing) = std::sync::mpsc::channel::<()>();
            let _late = nothing.recv_timeout(Duration::from_millis(500));
            End::Exited(0)
        });
        assert!(stands_still.await < 250);
        let computes = cpu_ms(async {
            let begun = thread_time();
            while thread_time() < begun + Duration::from_millis(20) {}
            End::Exited(0)
        });
        assert!(computes.await >= 20);
    }

    #[tokio::test]
    async fn a_crew_that_is_dropped_ends_its_guests() {
        let (events, mut ended) = mpsc::channel(GUEST_EVENTS);
        let never = Box::pin(std::future::pending());
        let slot = Arc::new(slot(never, events));
        let crew = Crew::new(1, || ()).unwrap();
        crew.seat(slot);
        drop(crew);
        assert_eq!(ended.recv().await, Some(GuestEvent::Ended(End::Killed)));
        assert_eq!(ended.recv().await, None);
    }
}
