//! The threads that guests run on, and whose turn it is.
//!
//! Each guest has a clock that runs while it computes, and of those that can go
//! on, the one with the earliest clock goes next. So the processors are shared
//! equally among all who want them, and whoever wants little is not kept
//! waiting behind those who want all. A turn ends at the next tick. What takes
//! longer than that, such as a call of the host, is paid for by waiting as long. Who sleeps saves nothing up.
//!
//! Beside these threads there is one for the guests' clocks and timers, which
//! never waits behind a guest, and some for their files; what is computed there for
//! a guest is on its clock too.
//!
//! Costs: one lock, a few steps in a heap and two looks at the thread's clock
//! for each turn.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::guest::Slot;
use super::usage::nanos;

/// How far ahead of those that computed meanwhile a sleeper comes back: a few
/// turns, so that it goes first.
const AHEAD: Duration = Duration::from_millis(10);

/// What is put on account of all newcomers for each of them: what its start takes. Until
/// it has computed as much, an agent is new.
const START: Duration = Duration::from_micros(200);

/// Threads for files that guests read and write.
const FILE_THREADS: usize = 32;

/// One guest among the others.
struct Seat {
    number: u64,
    slot: Arc<Slot>,
    line: Arc<Line>,
    phase: AtomicU8,
    /// Nanoseconds on its clock. Written by whoever moved it to [`WAITING`].
    clock: AtomicU64,
    /// Nanoseconds that it has computed.
    computed: AtomicU64,
}

/// Nothing can go on with it until it is woken.
const IDLE: u8 = 0;
/// It stands in line.
const WAITING: u8 = 1;
/// It has its turn.
const TURNING: u8 = 2;
/// The same, and it was woken meanwhile.
const AGAIN: u8 = 3;

/// Who waits for a turn: the earliest clock first, and of two the one that came
/// first.
type Place = Reverse<(u64, u64, u64)>;

#[derive(Default)]
struct Standing {
    waiting: BinaryHeap<Place>,
    seats: HashMap<u64, Arc<Seat>>,
    /// The clock of whoever had its turn last: nobody who waits is far behind.
    now: u64,
    /// The clock that newcomers have together.
    newcomers: u64,
    seated: u64,
    queued: u64,
    stop: bool,
}

#[derive(Default)]
struct Line {
    standing: Mutex<Standing>,
    ready: Condvar,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// A sleeper comes back ahead of those that computed meanwhile. Who is new comes
    /// behind the newcomers before it, as far as a sleeper comes ahead: or hundreds of
    /// them, each with a long turn to come, would go before whoever computes a little.
    fn join(&mut self, seat: &Seat) {
        let ahead = nanos(AHEAD);
        let start = nanos(START).saturating_sub(seat.computed.load(Ordering::Relaxed));
        let earliest = if start > 0 {
            let latest = self.now.saturating_add(ahead);
            let clock = self.newcomers.clamp(self.now, latest);
            self.newcomers = clock.saturating_add(start);
            clock
        } else {
            self.now.saturating_sub(ahead)
        };
        let clock = seat.clock.fetch_max(earliest, Ordering::Relaxed);
        let clock = clock.max(earliest);
        self.queued += 1;
        self.waiting
            .push(Reverse((clock, self.queued, seat.number)));
    }

    fn next(&mut self) -> Option<Arc<Seat>> {
        let Reverse((clock, _, number)) = self.waiting.pop()?;
        self.now = self.now.max(clock);
        // A seat is given up in its turn, or with all others.
        self.seats.get(&number).cloned()
    }
}

impl Wake for Seat {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = |phase| match phase {
            IDLE | WAITING => Some(WAITING),
            // Written even where it stays: what happened before is to be seen
            // by the turn that is about to begin.
            _ => Some(AGAIN),
        };
        let before = self
            .phase
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, woken);
        if before == Ok(IDLE) {
            self.line.lock().join(self);
            self.line.ready.notify_one();
        }
    }
}

/// The threads. Dropping them ends every guest, and does not wait for it: a
/// guest may be in the middle of reading a file that never comes.
pub(super) struct Crew {
    line: Arc<Line>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}

impl Crew {
    /// So many threads for guests, each of which begins with `on_start`.
    pub(super) fn new(threads: usize, on_start: fn()) -> std::io::Result<Self> {
        // Held by each thread: a guest that has its turn needs its clocks.
        let (clocks, dropped) = oneshot::channel();
        let clocks = Arc::new(clocks);
        let handle = run_clocks(on_start, dropped)?;
        let crew = Self {
            line: Arc::default(),
        };
        for _ in 0..threads.max(1) {
            let (line, handle) = (Arc::clone(&crew.line), handle.clone());
            let clocks = Arc::clone(&clocks);
            std::thread::Builder::new()
                .name("guest".to_owned())
                .spawn(move || {
                    on_start();
                    let _within = handle.enter();
                    run(&line);
                    drop(clocks);
                })?;
        }
        Ok(crew)
    }

    /// Gives a guest its turns until it has ended. What is returned wakes it.
    pub(super) fn seat(&self, slot: Arc<Slot>) -> Waker {
        let mut standing = self.line.lock();
        standing.seated += 1;
        let seat = Arc::new(Seat {
            number: standing.seated,
            slot,
            line: Arc::clone(&self.line),
            phase: AtomicU8::new(WAITING),
            clock: AtomicU64::new(0),
            computed: AtomicU64::new(0),
        });
        standing.seats.insert(seat.number, Arc::clone(&seat));
        standing.join(&seat);
        drop(standing);
        self.line.ready.notify_one();
        seat.into()
    }

    /// What wakes all threads if somebody still waits for a turn, to be called at every
    /// tick: the one that was woken first may not come for long, on a processor that
    /// hundreds of native processes want too.
    pub(super) fn nudge(&self) -> impl Fn() + Send + use<> {
        let line = Arc::clone(&self.line);
        move || {
            // Whoever has it goes on to the next in line anyway.
            let waits = (line.standing.try_lock()).is_ok_and(|it| !it.waiting.is_empty());
            if waits {
                line.ready.notify_all();
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let seats = {
            let mut standing = self.line.lock();
            standing.stop = true;
            std::mem::take(&mut standing.seats)
        };
        self.line.ready.notify_all();
        for seat in seats.into_values() {
            seat.slot.abandon();
        }
    }
}

/// Starts the thread for timers and whatever else guests leave to run beside
/// them, until the other end is dropped. Blocking calls have threads of their own, which `on_start` begins.
fn run_clocks(on_start: fn(), dropped: oneshot::Receiver<()>) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(FILE_THREADS)
        .thread_name("guest-files")
        .on_thread_start(on_start)
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("guest-clocks".to_owned())
        .spawn(move || {
            // Never sent, only dropped.
            let _ = runtime.block_on(dropped);
            runtime.shutdown_background();
        })?;
    Ok(handle)
}

fn run(line: &Line) {
    let mut standing = line.lock();
    while !standing.stop {
        let Some(seat) = standing.next() else {
            standing = line
                .ready
                .wait(standing)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(standing);
        let goes_on = turn(&seat);
        standing = line.lock();
        match goes_on {
            // This thread looks for the next at once: nobody needs to be woken.
            GoesOn::Now => standing.join(&seat),
            GoesOn::WhenWoken => {}
            GoesOn::Never => {
                standing.seats.remove(&seat.number);
            }
        }
    }
}

enum GoesOn {
    Now,
    WhenWoken,
    Never,
}

fn turn(seat: &Arc<Seat>) -> GoesOn {
    // Swapped, so that what came before each wake is seen in this turn.
    seat.phase.swap(TURNING, Ordering::AcqRel);
    let waker = Waker::from(Arc::clone(seat));
    let is_woken = || seat.phase.swap(TURNING, Ordering::AcqRel) == AGAIN;
    let (polled, took) = (seat.slot).turn(&mut Context::from_waker(&waker), is_woken);
    seat.clock.fetch_add(nanos(took), Ordering::Relaxed);
    seat.computed.fetch_add(nanos(took), Ordering::Relaxed);
    if polled == Poll::Ready(()) {
        return GoesOn::Never;
    }
    let idle = seat
        .phase
        .compare_exchange(TURNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
    if idle.is_ok() {
        return GoesOn::WhenWoken;
    }
    seat.phase.swap(WAITING, Ordering::AcqRel);
    GoesOn::Now
}

#[cfg(test)]
mod tests;
