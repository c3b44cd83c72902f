//! An agent's turns on the threads for files: one at a time, in the order in
//! which they were asked for. So no agent holds more than one of the threads,
//! however many streams it has open, and what it does to its files needs no
//! other order: nobody writes between the look at a file and the write to it.
//!
//! What the work computes is the agent's: it is told, and its guest waits for it as for
//! a long turn of its own.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use wasmtime_wasi::runtime::spawn_blocking;

use super::super::usage::{Meters, thread_time};

/// The turns of one agent.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    turn: Arc<Mutex<()>>,
    meters: Arc<Meters>,
}

/// Work with its turn, which ends after the work and all that it held, also
/// where it was never begun.
struct Job<F> {
    work: F,
    meters: Arc<Meters>,
    _turn: OwnedMutexGuard<()>,
}

impl<F: FnOnce() -> R, R> Job<F> {
    fn run(self) -> R {
        let begun = thread_time();
        let done = (self.work)();
        let took = thread_time().saturating_sub(begun);
        self.meters.ran_elsewhere(took);
        done
    }
}

impl Turns {
    pub(super) fn new(meters: Arc<Meters>) -> Self {
        let turn = Arc::default();
        Self { turn, meters }
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.turn.try_lock().is_ok()
    }

    /// Does what may block. If nobody waits for it any more, it is not begun;
    /// once begun, it is finished.
    pub(super) async fn take<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let job = Job {
            work,
            meters: Arc::clone(&self.meters),
            _turn: Arc::clone(&self.turn).lock_owned().await,
        };
        spawn_blocking(move || job.run()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use skep_protocol::spec::OnFuelExhausted;

    use super::super::super::fuel::Fuel;
    use super::*;

    fn turns() -> Turns {
        let fuel = Fuel::new(1, OnFuelExhausted::Exit);
        Turns::new(Arc::new(Meters::new(fuel)))
    }

    #[tokio::test]
    async fn what_the_work_computes_is_the_agents() {
        let turns = turns();
        let most = std::time::Duration::from_millis(20);
        let work = move || {
            let begun = thread_time();
            while thread_time() < begun + most {}
        };
        turns.take(work).await;
        assert!(turns.meters.read().cpu_ms >= 20);
        assert!(turns.meters.take_elsewhere() >= most);
        assert!(turns.meters.take_elsewhere().is_zero());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_at_a_time() {
        let (turns, inside) = (turns(), Arc::new(AtomicUsize::new(0)));
        let all: Vec<_> = (0..64)
            .map(|_| {
                let (turns, inside) = (turns.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    let work = move || {
                        let others = inside.fetch_add(1, SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        others
                    };
                    turns.take(work).await
                })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), 0);
        }
    }
}
