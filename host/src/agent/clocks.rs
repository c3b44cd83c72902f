//! The two clocks of an agent: the wall clock, which stands still while it is
//! paused, and the one that counts how long it is. Pure: whoever asks brings
//! the time.

use std::time::Duration;

use skep_protocol::Limits;
use tokio::time::Instant;

/// How much is left on each clock, and which one runs.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    wall: Duration,
    paused: Duration,
    runs: Runs,
    /// Since when the one that runs does.
    since: Instant,
}

/// Which clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Wall,
    Paused,
}

impl Clocks {
    /// Both whole, with the wall clock running.
    #[must_use]
    pub const fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            wall: Duration::from_millis(limits.wall_ms),
            paused: Duration::from_millis(limits.paused_ms),
            runs: Runs::Wall,
            since: now,
        }
    }

    /// Stops the one and lets the other run; nothing, if it runs already.
    pub fn let_run(&mut self, clock: Runs, now: Instant) {
        if self.runs == clock {
            return;
        }
        let gone = now.saturating_duration_since(self.since);
        let running = match self.runs {
            Runs::Wall => &mut self.wall,
            Runs::Paused => &mut self.paused,
        };
        *running = running.saturating_sub(gone);
        self.runs = clock;
        self.since = now;
    }

    /// When the one that runs will have run out.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.since
            + match self.runs {
                Runs::Wall => self.wall,
                Runs::Paused => self.paused,
            }
    }

    /// Which one runs.
    #[must_use]
    pub const fn runs(&self) -> Runs {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stands_still_while_the_other_runs() {
        let limits = Limits {
            wall_ms: 10_000,
            paused_ms: 5_000,
            ..Limits::default()
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clocks = Clocks::new(&limits, start);
        assert_eq!(clocks.due(), at(10));
        clocks.let_run(Runs::Wall, at(1));
        assert_eq!(clocks.due(), at(10));
        clocks.let_run(Runs::Paused, at(4));
        assert_eq!(clocks.due(), at(9));
        clocks.let_run(Runs::Wall, at(6));
        assert_eq!(clocks.due(), at(12));
        clocks.let_run(Runs::Paused, at(7));
        assert_eq!((clocks.due(), clocks.runs()), (at(10), Runs::Paused));
        // Late, as a busy host may be: what is over is over, and no more.
        clocks.let_run(Runs::Wall, at(20));
        assert_eq!(clocks.due(), at(25));
        clocks.let_run(Runs::Paused, at(30));
        assert_eq!(clocks.due(), at(30));
    }
}
