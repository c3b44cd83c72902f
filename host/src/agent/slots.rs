//! The places that agents run in, and the queue for them: [`admission`]'s policy
//! behind a lock that is held for microseconds.
//!
//! [`admission`]: super::admission

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use skep_protocol::Digest;
use skep_protocol::info::QueueInfo;
use tokio::sync::oneshot;

use super::admission::{Bounds, Full, Ledger, Need};
use super::pace::Pace;

#[derive(Debug)]
struct State {
    ledger: Ledger<oneshot::Sender<()>>,
    pace: Pace,
}

/// All places of a host.
#[derive(Debug)]
pub struct Slots(Mutex<State>);

/// Who asks for a place.
#[derive(Debug, Clone, Copy)]
pub struct Applicant {
    pub need: Need,
    /// What it is made of, by which its time is estimated.
    pub component: Option<Digest>,
}

impl Slots {
    #[must_use]
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            ledger: Ledger::new(bounds),
            pace: Pace::default(),
        })))
    }

    /// A place at once.
    ///
    /// # Errors
    /// [`Full`]
    pub fn take(self: &Arc<Self>, applicant: Applicant) -> Result<Slot, Full> {
        self.state().ledger.take(applicant.need)?;
        Ok(self.slot(applicant))
    }

    /// A place at once, or a turn to wait for.
    ///
    /// # Errors
    /// [`Full`], if the queue is too.
    pub fn take_or_wait(self: &Arc<Self>, applicant: Applicant) -> Result<Place, Full> {
        let mut state = self.state();
        if state.ledger.take(applicant.need).is_ok() {
            drop(state);
            return Ok(Place::Now(self.slot(applicant)));
        }
        let (call, called) = oneshot::channel();
        let ticket = state.ledger.join(applicant.need, call)?;
        drop(state);
        Ok(Place::Later(self.turn(applicant, ticket, called)))
    }

    /// A turn for who waited under a host before. It may come at once.
    ///
    /// # Errors
    /// [`Full`], if it would never come.
    pub fn wait_again(self: &Arc<Self>, applicant: Applicant) -> Result<Turn, Full> {
        let mut state = self.state();
        let (call, called) = oneshot::channel();
        let ticket = state.ledger.join_again(applicant.need, call)?;
        state.call();
        drop(state);
        Ok(self.turn(applicant, ticket, called))
    }

    /// From here on, tickets are higher than this one.
    pub fn go_on_after(&self, ticket: u64) {
        self.state().ledger.go_on_after(ticket);
    }

    fn turn(
        self: &Arc<Self>,
        applicant: Applicant,
        ticket: u64,
        called: oneshot::Receiver<()>,
    ) -> Turn {
        let standing = Standing {
            slots: Arc::clone(self),
            ticket,
            component: applicant.component,
        };
        Turn {
            standing,
            applicant,
            called,
            taken: false,
        }
    }

    /// Whether one more that would have to wait is refused.
    #[must_use]
    pub fn queue_is_full(&self) -> bool {
        self.state().ledger.queue_is_full()
    }

    /// Whether what specs hold leaves room for small ones alone.
    #[must_use]
    pub fn specs_are_full(&self) -> bool {
        self.state().ledger.specs_are_full()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, applicant: Applicant) -> Slot {
        Slot {
            slots: Arc::clone(self),
            applicant,
            since: Instant::now(),
        }
    }
}

impl State {
    /// Calls those for whom there is room now.
    fn call(&mut self) {
        while let Some(call) = self.ledger.admit() {
            // Who waits has the other end, and leaves the queue before it goes.
            let _ = call.send(());
        }
    }
}

/// What an applicant gets.
#[derive(Debug)]
pub enum Place {
    Now(Slot),
    Later(Turn),
}

/// A place for an agent to run in, with the memory that it may take. Given back
/// on drop, to who has waited longest.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    applicant: Applicant,
    since: Instant,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Applicant { need, component } = self.applicant;
        let mut state = self.slots.state();
        state.pace.note(component, self.since.elapsed());
        state.ledger.give_back(need);
        state.call();
    }
}

/// A turn that will come. Who drops it before leaves the queue.
#[derive(Debug)]
pub struct Turn {
    standing: Standing,
    applicant: Applicant,
    called: oneshot::Receiver<()>,
    taken: bool,
}

impl Turn {
    /// Where it stands, for others to read.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Waits for the turn. A call that is dropped has taken nothing.
    pub async fn come(&mut self) -> Slot {
        // The queue holds the other end until it calls.
        let _ = (&mut self.called).await;
        self.taken = true;
        self.standing.slots.slot(self.applicant)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.standing.slots.state();
        // Calls are made under the lock: either it waits still, or it was
        // called and did not answer.
        if !state.ledger.leave(self.standing.ticket) {
            state.ledger.give_back(self.applicant.need);
        }
        // Those behind may fit where this one did not.
        state.call();
    }
}

/// Where an agent stands in the queue, readable at any time.
#[derive(Debug, Clone)]
pub struct Standing {
    slots: Arc<Slots>,
    ticket: u64,
    component: Option<Digest>,
}

impl Standing {
    /// Who came later has a higher one.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The position and the time it may take; `None` once the turn has come.
    #[must_use]
    pub fn read(&self) -> Option<QueueInfo> {
        let state = self.slots.state();
        let position = state.ledger.position(self.ticket)?;
        let wait = state
            .pace
            .wait(self.component, position, state.ledger.running());
        Some(QueueInfo {
            position: position as u64,
            estimated_wait_ms: wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_ONE: Applicant = Applicant {
        need: Need {
            memory_bytes: 1,
            held_bytes: 1,
        },
        component: None,
    };

    fn slots(max_agents: usize) -> Arc<Slots> {
        Slots::new(Bounds {
            max_agents,
            max_queued: 100,
            memory_bytes: 1000,
        })
    }

    fn waits(slots: &Arc<Slots>) -> Turn {
        match slots.take_or_wait(BY_ONE).unwrap() {
            Place::Later(turn) => turn,
            Place::Now(slot) => panic!("{slot:?}"),
        }
    }

    fn position(turn: &Turn) -> Option<u64> {
        turn.standing().read().map(|queue| queue.position)
    }

    #[tokio::test]
    async fn a_slot_that_is_given_back_goes_to_who_waited_longest() {
        let slots = slots(1);
        let running = slots.take(BY_ONE).unwrap();
        let (mut first, mut second) = (waits(&slots), waits(&slots));
        assert_eq!((position(&first), position(&second)), (Some(1), Some(2)));
        assert_eq!(first.standing().read().unwrap().estimated_wait_ms, None);
        drop(running);
        assert_eq!((position(&first), position(&second)), (None, Some(1)));
        assert!(
            second
                .standing()
                .read()
                .unwrap()
                .estimated_wait_ms
                .is_some()
        );
        let slot = first.come().await;
        // The turn is taken: dropping it changes nothing.
        drop(first);
        assert!(slots.take(BY_ONE).is_err());
        drop(slot);
        drop(second.come().await);
        drop(second);
        assert!(slots.take(BY_ONE).is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_after_the_call_passes_it_on() {
        let slots = slots(1);
        let running = slots.take(BY_ONE).unwrap();
        let (first, mut second) = (waits(&slots), waits(&slots));
        drop(running);
        assert_eq!(position(&first), None);
        drop(first);
        drop(second.come().await);
        drop(second);
        assert_eq!(slots.state().ledger.running(), 0);
    }

    #[test]
    fn slots_come_back_however_many_threads_take_give_and_give_up() {
        let slots = slots(3);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let slots = &slots;
                scope.spawn(move || {
                    for n in 0..2000 {
                        match slots.take_or_wait(BY_ONE) {
                            Ok(Place::Now(slot)) if n % 2 == 0 => drop(slot),
                            Ok(Place::Now(slot)) => {
                                std::thread::yield_now();
                                drop(slot);
                            }
                            Ok(Place::Later(mut turn)) if (n + thread) % 3 == 0 => {
                                if turn.called.try_recv().is_ok() {
                                    turn.taken = true;
                                    drop(slots.slot(BY_ONE));
                                }
                            }
                            Ok(Place::Later(turn)) => drop(turn),
                            Err(full) => panic!("{full}"),
                        }
                    }
                });
            }
        });
        assert_eq!(slots.state().ledger.running(), 0);
        assert!(slots.take(BY_ONE).is_ok());
    }
}
