//! The clock that makes a guest look up: one plain thread for all engines,
//! asleep while no guest lives.
//!
//! Not a task: guests can occupy every worker of a runtime, and then nobody
//! would be left to interrupt them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// For how long a guest may compute before it lets another. 64 that spin on two
/// threads make a round of 64 ms.
pub(super) const TICK: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct State {
    guests: usize,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock. Dropping it joins its thread.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A guest lives, and the clock ticks.
#[derive(Debug)]
pub(super) struct Ticking {
    shared: Arc<Shared>,
}

impl Ticker {
    pub(super) fn new(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(move || run(&of_thread, &tick))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Ticks until the guard is dropped.
    pub(super) fn start(&self) -> Ticking {
        let mut state = self.shared.lock();
        state.guests += 1;
        if state.guests == 1 {
            self.shared.changed.notify_all();
        }
        drop(state);
        Ticking {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.shared.lock().guests -= 1;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics only if `tick` does, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, tick: &impl Fn()) {
    let mut state = shared.lock();
    while !state.stop {
        if state.guests == 0 {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        // Woken early at worst, by a stop or a new first guest: one tick more.
        let (next, _) = shared
            .changed
            .wait_timeout(state, TICK)
            .unwrap_or_else(PoisonError::into_inner);
        drop(next);
        tick();
        state = shared.lock();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn ticks_while_a_guest_lives() {
        let (sender, ticks) = mpsc::sync_channel(0);
        let ticker = Ticker::new(move || {
            let _ = sender.send(());
        })
        .unwrap();
        let generous = Duration::from_secs(10);
        assert!(ticks.recv_timeout(Duration::from_millis(50)).is_err());
        let first = ticker.start();
        let second = ticker.start();
        ticks.recv_timeout(generous).unwrap();
        drop(first);
        ticks.recv_timeout(generous).unwrap();
        drop(second);
        // The tick that is under way, and no more.
        while ticks.recv_timeout(Duration::from_millis(50)).is_ok() {}
        let _third = ticker.start();
        ticks.recv_timeout(generous).unwrap();
        drop(ticks);
        drop(ticker);
    }
}
