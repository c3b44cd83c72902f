//! What an agent has used, over all of its runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::Usage;

use crate::runner::{GuestControl, GuestUsage};
use crate::stdio::OutputCounter;

/// The meter of one agent. Each guest brings its counters; when it has ended,
/// what they say is added up and they are let go. Costs one short lock.
#[derive(Debug)]
pub struct UsageMeter(Mutex<State>);

struct State {
    /// Of the runs that are over.
    past: Usage,
    run: Option<Run>,
    /// Of the last run that is over.
    last: GuestUsage,
    restarts: u64,
}

/// The counters of the run under way.
struct Run {
    output: OutputCounter,
    /// Absent until its guest is there.
    control: Option<Arc<dyn GuestControl>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("past", &self.past)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

impl UsageMeter {
    /// Of an agent of a host before: it has ended, or goes on from there.
    #[must_use]
    pub fn from(usage: Usage) -> Self {
        Self(Mutex::new(State {
            past: usage,
            run: None,
            last: GuestUsage::default(),
            restarts: usage.restarts,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next run is the agent's `number`th after the first.
    pub(super) fn is_run(&self, number: u64) {
        self.state().restarts = number;
    }

    /// A run begins, the agent's `number`th after the first.
    pub(super) fn begin(&self, number: u64, output: OutputCounter) {
        let mut state = self.state();
        state.restarts = number;
        state.run = Some(Run {
            output,
            control: None,
        });
    }

    /// The run has its guest.
    pub(super) fn runs_under(&self, control: Arc<dyn GuestControl>) {
        if let Some(run) = &mut self.state().run {
            run.control = Some(control);
        }
    }

    /// The run is over, and nothing of its guest is left.
    pub(super) fn end(&self) {
        let mut state = self.state();
        let usage = state.read();
        state.past = Usage {
            memory_bytes: 0,
            ..usage
        };
        if let Some(Run { control, .. }) = state.run.take() {
            state.last = control.map(|control| control.usage()).unwrap_or_default();
        }
    }

    /// What the last run that is over used, without those before it.
    #[must_use]
    pub(super) fn last_run(&self) -> GuestUsage {
        self.state().last
    }

    /// Ends the guest where no driver is left to do it.
    pub fn kill_guest(&self) {
        let control = self
            .state()
            .run
            .as_ref()
            .and_then(|run| run.control.clone());
        if let Some(control) = control {
            control.kill();
        }
    }

    /// What was used so far; `stdin_bytes` is not counted here.
    #[must_use]
    pub fn read(&self) -> Usage {
        self.state().read()
    }
}

impl State {
    fn read(&self) -> Usage {
        let Self {
            past,
            run,
            restarts,
            ..
        } = self;
        let mut usage = Usage {
            restarts: *restarts,
            ..*past
        };
        let Some(Run { output, control }) = run else {
            return usage;
        };
        let [stdout_bytes, stderr_bytes] = output.written();
        usage.stdout_bytes = past.stdout_bytes.saturating_add(stdout_bytes);
        usage.stderr_bytes = past.stderr_bytes.saturating_add(stderr_bytes);
        let Some(control) = control else { return usage };
        let guest = control.usage();
        Usage {
            fuel_used: past.fuel_used.saturating_add(guest.fuel_used),
            // What is left is this run's.
            fuel_left: guest.fuel_left,
            memory_bytes: guest.memory_bytes,
            memory_peak_bytes: past.memory_peak_bytes.max(guest.memory_peak_bytes),
            cpu_ms: past.cpu_ms.saturating_add(guest.cpu_ms),
            // The guest counts what the runs before it left, too.
            disk_bytes: guest.disk_bytes,
            ..usage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::{Able, Asked};
    use crate::stdio::output;

    struct Counts(u64);

    impl GuestControl for Counts {
        fn pause(&self) -> Able {
            Able::No
        }
        fn resume(&self) {}
        fn refuel(&self, _: u64) -> Able {
            Able::No
        }
        fn ask_stop(&self) -> Asked {
            Asked::Deaf
        }
        fn kill(&self) {}
        fn usage(&self) -> GuestUsage {
            GuestUsage {
                fuel_used: self.0,
                fuel_left: Some(100 - self.0),
                memory_bytes: self.0,
                memory_peak_bytes: 2 * self.0,
                cpu_ms: self.0,
                disk_bytes: Some(self.0),
            }
        }
    }

    #[test]
    fn runs_add_up() {
        let meter = UsageMeter::from(Usage::default());
        assert_eq!(meter.read(), Usage::default());
        for (number, count) in [(0, 7), (1, 3)] {
            let (stdout, stderr, reader) = output();
            meter.begin(number, reader.counter());
            meter.runs_under(Arc::new(Counts(count)));
            stdout.write(b"abc");
            stderr.write(b"d");
            if number == 0 {
                assert_eq!(meter.read().memory_bytes, 7);
                meter.end();
                // Twice is once.
                meter.end();
                assert_eq!((meter.read().memory_bytes, meter.read().fuel_used), (0, 7));
                assert_eq!(meter.last_run().fuel_used, 7);
            }
        }
        let expected = Usage {
            fuel_used: 10,
            fuel_left: Some(97),
            memory_bytes: 3,
            memory_peak_bytes: 14,
            cpu_ms: 10,
            stdin_bytes: 0,
            stdout_bytes: 6,
            stderr_bytes: 2,
            disk_bytes: Some(3),
            restarts: 1,
        };
        assert_eq!(meter.read(), expected);
    }
}
