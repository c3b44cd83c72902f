//! Whether an agent whose run has ended runs again, and when: pure policy. Whoever
//! asks brings the time and the dice.

use std::collections::VecDeque;
use std::time::Duration;

use skep_protocol::info::GaveUp;
use skep_protocol::spec::{Restart, RestartPolicy};
use skep_protocol::{ErrorCode, Outcome};
use tokio::time::Instant;

/// The wait before the first run that follows, if the spec does not say.
const BACKOFF_MS: u64 = 1_000;

/// The longest wait, if the spec does not say.
const MAX_BACKOFF_MS: u64 = 300_000;

/// A wait may not be shorter, or a thousand agents that end at once would have
/// the host do nothing but start them.
const LEAST_MS: u64 = 100;

/// Nor longer: what nobody waits for is spawned anew.
const MOST_MS: u64 = 3_600_000;

/// A run of this length was no failure to start: the waits begin anew.
const LASTING: Duration = Duration::from_secs(600);

/// Failed runs within [`WINDOW`] after which an agent is still run again. One
/// more is a crash loop.
const FAILURES: usize = 10;
const WINDOW: Duration = Duration::from_secs(3600);

/// How an agent's spec wants it to be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    policy: RestartPolicy,
    max: Option<u64>,
    backoff: Duration,
    max_backoff: Duration,
}

/// A field of the spec that makes no sense, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonsense {
    pub field: &'static str,
    pub message: &'static str,
}

impl Rule {
    /// # Errors
    /// [`Nonsense`]
    pub fn of(asked: &Restart) -> Result<Self, Nonsense> {
        let Restart {
            policy,
            max,
            backoff_ms,
            max_backoff_ms,
        } = *asked;
        let nonsense = |field, message| Err(Nonsense { field, message });
        let in_range = |ms: Option<u64>| ms.is_none_or(|ms| (LEAST_MS..=MOST_MS).contains(&ms));
        let first_ms =
            backoff_ms.unwrap_or_else(|| BACKOFF_MS.min(max_backoff_ms.unwrap_or(BACKOFF_MS)));
        let longest_ms = max_backoff_ms.unwrap_or_else(|| MAX_BACKOFF_MS.max(first_ms));
        if policy == RestartPolicy::Never && *asked != Restart::default() {
            return nonsense(
                "spec.restart.policy",
                "an agent that never runs again has no more to say of it: leave the rest out",
            );
        }
        if max == Some(0) {
            return nonsense(
                "spec.restart.max",
                "must be at least 1; or use the policy `never`",
            );
        }
        if !in_range(backoff_ms) {
            return nonsense("spec.restart.backoff_ms", "must be within 100 to 3600000");
        }
        if !in_range(max_backoff_ms) || longest_ms < first_ms {
            return nonsense(
                "spec.restart.max_backoff_ms",
                "must be within 100 to 3600000, and not below backoff_ms",
            );
        }
        Ok(Self {
            policy,
            max,
            backoff: Duration::from_millis(first_ms),
            max_backoff: Duration::from_millis(longest_ms),
        })
    }

    /// The longest wait for the next run.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.max_backoff
    }

    /// Whether it may ever come to a second run.
    #[must_use]
    pub fn allows_any(&self) -> bool {
        self.policy != RestartPolicy::Never
    }
}

/// What a run's end means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It did what it should.
    Done,
    /// Another run may fare better.
    Failed,
    /// Nobody wants another run, or it would end the same.
    Final,
}

fn judge(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Exited { code: 0 } => Verdict::Done,
        Outcome::Exited { .. }
        | Outcome::Trapped { .. }
        | Outcome::OutOfFuel { .. }
        | Outcome::OutOfMemory { .. }
        | Outcome::Deadline { .. }
        | Outcome::Signaled { .. }
        | Outcome::HostLost => Verdict::Failed,
        Outcome::StartFailed { code, .. } if passes(*code) => Verdict::Failed,
        Outcome::StartFailed { .. } | Outcome::Stopped { .. } | Outcome::Killed => Verdict::Final,
        // Something of the guest may be left, beside which no other may run.
        Outcome::HostFault { .. } => Verdict::Final,
    }
}

/// Whether the cause of a start that failed may pass by itself. What is wrong
/// with a component or a program does not.
const fn passes(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Capacity
            | ErrorCode::RateLimited
            | ErrorCode::StorageUnavailable
            | ErrorCode::Internal
    )
}

/// The end of a run, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub outcome: &'a Outcome,
    /// Whether somebody had asked it to end, whatever it then ended of.
    pub asked: bool,
    pub lasted: Duration,
}

/// What comes after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    End,
    /// Nothing, though the policy would have it.
    GiveUp(GaveUp),
    /// Another run, after this time.
    After(Duration),
}

/// What happened to an agent before this host had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// How often it was run again: the number of the run that comes.
    pub restarts: u64,
    /// How long ago its runs have failed, of late, oldest first.
    pub failed: Vec<Duration>,
}

/// How an agent's runs went so far. Of failures it remembers as many as make a
/// crash loop.
#[derive(Debug, Clone)]
pub struct Restarts {
    rule: Rule,
    restarts: u64,
    /// Runs in a row that were short: as often the wait has doubled.
    short: u32,
    failures: VecDeque<Instant>,
}

impl Restarts {
    #[must_use]
    pub fn new(rule: Rule, before: &Before, now: Instant) -> Self {
        let of_late = (before.failed.iter()).filter(|ago| **ago < WINDOW);
        // A machine that has run for less time knows no such moment.
        let at = |ago: &Duration| now.checked_sub(*ago).unwrap_or(now);
        let mut failures: VecDeque<_> = of_late.map(at).collect();
        while failures.len() > FAILURES + 1 {
            failures.pop_front();
        }
        Self {
            rule,
            restarts: before.restarts,
            short: u32::try_from(failures.len()).unwrap_or(u32::MAX),
            failures,
        }
    }

    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How often it was run again: the number of its run.
    #[must_use]
    pub const fn made(&self) -> u64 {
        self.restarts
    }

    /// How many of its runs have failed of late.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.len() as u64
    }

    /// Notes that a run was ended by the end of its host, which is no fault of its:
    /// the next one comes at once, under whatever policy.
    pub fn at_once(&mut self) -> Next {
        self.restarts = self.restarts.saturating_add(1);
        Next::After(Duration::ZERO)
    }

    /// How long ago they failed, oldest first.
    #[must_use]
    pub fn failed(&self, now: Instant) -> Vec<Duration> {
        let ago = |at: &Instant| now.saturating_duration_since(*at);
        self.failures.iter().map(ago).collect()
    }

    /// Notes that a run has ended, and decides what comes next. `dice` is within
    /// 0 to 1: with it the wait is between half and all of what the rule says, so
    /// that agents which failed together do not come back together.
    pub fn after(&mut self, ended: Ended<'_>, now: Instant, dice: f64) -> Next {
        let verdict = judge(ended.outcome);
        if verdict == Verdict::Failed {
            self.failures.push_back(now);
        }
        self.failures
            .retain(|&at| now.saturating_duration_since(at) < WINDOW);
        let wanted = match (self.rule.policy, verdict) {
            (RestartPolicy::Never, _) | (_, Verdict::Final) => false,
            (RestartPolicy::OnFailure, verdict) => verdict == Verdict::Failed,
            (RestartPolicy::Always, Verdict::Done | Verdict::Failed) => true,
        };
        if !wanted || ended.asked {
            return Next::End;
        }
        if self.rule.max.is_some_and(|max| self.restarts >= max) {
            return Next::GiveUp(GaveUp::Max);
        }
        if self.failures.len() > FAILURES {
            return Next::GiveUp(GaveUp::CrashLoop);
        }
        if ended.lasted >= LASTING {
            self.short = 0;
        }
        let doubled = 2_u32.saturating_pow(self.short);
        let wait = self
            .rule
            .backoff
            .saturating_mul(doubled)
            .min(self.rule.max_backoff);
        self.short = self.short.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        Next::After(wait.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests;
