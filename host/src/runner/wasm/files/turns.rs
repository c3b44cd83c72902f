//! An agent's turns on the threads for files: one at a time, in the order in
//! which they were asked for. So no agent holds more than one of the threads,
//! however many streams it has open, and what it does to its files needs no
//! other order: nobody writes between the look at a file and the write to it.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use wasmtime_wasi::runtime::spawn_blocking;

/// The turns of one agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<()>>);

/// Work with its turn, which ends after the work and all that it held, also
/// where it was never begun.
struct Job<F> {
    work: F,
    _turn: OwnedMutexGuard<()>,
}

impl<F: FnOnce() -> R, R> Job<F> {
    fn run(self) -> R {
        (self.work)()
    }
}

impl Turns {
    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.0.try_lock().is_ok()
    }

    /// Does what may block. If nobody waits for it any more, it is not begun;
    /// once begun, it is finished.
    pub(super) async fn take<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let job = Job {
            work,
            _turn: Arc::clone(&self.0).lock_owned().await,
        };
        spawn_blocking(move || job.run()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_at_a_time() {
        let (turns, inside) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
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
