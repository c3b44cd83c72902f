//! A few plain threads for work that must not hold up guests or control:
//! waiting for processes that compile, loading what they made, and giving back
//! what ended guests held.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Whether these threads go before those of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Control,
    Guests,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads and their queue. Dropping them drops the jobs that wait and lets
/// each thread end after the job at hand. It doesn't wait for that: the end of a
/// host must not hang on a stranger's component.
pub(super) struct Workers {
    shared: Arc<Shared>,
    bound: usize,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// `bound` jobs may wait.
    pub(super) fn new(
        name: &str,
        threads: usize,
        bound: usize,
        priority: Priority,
    ) -> std::io::Result<Self> {
        let workers = Self {
            shared: Arc::default(),
            bound,
        };
        for _ in 0..threads.max(1) {
            let shared = Arc::clone(&workers.shared);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&shared, priority))?;
        }
        Ok(workers)
    }

    /// Does the job later, or gives it back where too many wait.
    pub(super) fn push<J: FnOnce() + Send + 'static>(&self, job: J) -> Result<(), J> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= self.bound {
            return Err(job);
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.shared.ready.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.stop = true;
            std::mem::take(&mut state.jobs)
        };
        self.shared.ready.notify_all();
        drop(waiting);
    }
}

fn run(shared: &Shared, priority: Priority) {
    if priority == Priority::Guests {
        super::yield_to_control();
    }
    loop {
        let job = {
            let mut state = shared.lock();
            loop {
                if state.stop {
                    return;
                }
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                state = shared
                    .ready
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        // Jobs answer for their own panics; this keeps the thread for the next.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn refuses_at_the_bound_and_outlives_a_panic() {
        let workers = Workers::new("test", 1, 1, Priority::Guests).unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let blocked = workers.push(move || {
            begun.send(()).unwrap();
            gate.recv().unwrap();
            panic!("a job that goes wrong");
        });
        assert!(blocked.is_ok());
        has_begun.recv_timeout(Duration::from_secs(10)).unwrap();
        let (done, is_done) = mpsc::channel();
        let job = move || done.send(()).unwrap();
        assert!(workers.push(job).is_ok());
        assert!(workers.push(|| ()).is_err());
        go.send(()).unwrap();
        is_done.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
