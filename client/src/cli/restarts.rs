//! Agents that run again, as people are told. Pure.

use std::time::Duration;

use skep_client::protocol::AgentInfo;
use skep_client::protocol::event::StatusEvent;
use skep_client::protocol::info::{GaveUp, RestartInfo};
use skep_client::protocol::spec::{Restart, RestartPolicy};

use super::{ending, text};

/// What a spec wants, if it wants anything.
pub(super) fn policy(restart: &Restart) -> Option<String> {
    let policy = match restart.policy {
        RestartPolicy::Never => return None,
        RestartPolicy::OnFailure => "on failure",
        RestartPolicy::Always => "always",
    };
    Some(match restart.max {
        Some(max) => format!("{policy}, at most {}", times(max)),
        None => policy.to_owned(),
    })
}

/// How often an agent was run again and what comes, if there is anything to tell.
pub(super) fn so_far(agent: &AgentInfo, now_ms: u64) -> Option<String> {
    let restarts = agent.usage.restarts;
    let restart = agent.restart.as_ref();
    let next = restart.and_then(|restart| {
        let in_ms = restart.next_run_ms?.saturating_sub(now_ms);
        Some(format!(
            "run {restarts} in {}",
            text::duration(Duration::from_millis(in_ms))
        ))
    });
    let gave_up = restart.and_then(|restart| {
        restart
            .gave_up
            .map(|why| format!("gave up: {}", because(why)))
    });
    let again = (restarts > 0).then(|| format!("run again {}", times(restarts)));
    next.or(gave_up).or(again)
}

/// What is said at the end of an agent that would have run again.
pub(super) fn ended(agent: &AgentInfo) -> Option<String> {
    let RestartInfo {
        gave_up, failures, ..
    } = agent.restart.as_ref()?;
    let why = (*gave_up)?;
    let advice = match why {
        GaveUp::Max => "allow more with --restart",
        GaveUp::CrashLoop => "look at what it printed",
        GaveUp::Draining => "spawn it on another host",
    };
    let failed = match why {
        GaveUp::CrashLoop => format!(", {} within an hour", times(*failures)),
        GaveUp::Max | GaveUp::Draining => String::new(),
    };
    Some(format!(
        "{} is not run again, {}{failed}: {advice} ({})",
        agent.name,
        because(why),
        why.as_str()
    ))
}

/// What is said while an agent goes from run to run, each of it once.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// How far was told: a run, and whether that it is over.
    told: (u64, bool),
}

impl From<&AgentInfo> for Notes {
    /// For who comes later.
    fn from(agent: &AgentInfo) -> Self {
        Self {
            told: (agent.usage.restarts, false),
        }
    }
}

impl Notes {
    pub(super) fn of(&mut self, status: &StatusEvent, now_ms: u64) -> Option<String> {
        let restart = status.restart.as_ref()?;
        let run = status.usage.restarts;
        let is_now = (run, restart.next_run_ms.is_some());
        if status.outcome.is_some() || is_now <= self.told {
            return None;
        }
        self.told = is_now;
        Some(match restart.next_run_ms {
            Some(next_ms) => {
                let wait = Duration::from_millis(next_ms.saturating_sub(now_ms));
                format!(
                    "the agent {}; it is run again in {}",
                    ending::told(&restart.last_outcome),
                    text::duration(wait)
                )
            }
            None => begins(run),
        })
    }

    /// Whether a run that has printed was not told of yet.
    pub(super) fn lacks(&self, run: u64) -> bool {
        (run, false) > self.told
    }

    /// The same as of its status, which may be late or lost, as from a host that was
    /// away.
    pub(super) fn of_output(&mut self, run: u64) -> Option<String> {
        self.lacks(run).then(|| {
            self.told = (run, false);
            begins(run)
        })
    }
}

fn begins(run: u64) -> String {
    format!("run {run} of the agent begins")
}

const fn because(why: GaveUp) -> &'static str {
    match why {
        GaveUp::Max => "since it was run again as often as it may be",
        GaveUp::CrashLoop => "since it failed again and again",
        GaveUp::Draining => "since its host takes no more agents",
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{} times", text::count(count)),
    }
}

#[cfg(test)]
mod tests {
    use skep_client::protocol::{AgentId, AgentState, Outcome, Usage};

    use super::*;

    fn status(restarts: u64, next_run_ms: Option<u64>, outcome: Option<Outcome>) -> StatusEvent {
        StatusEvent {
            agent: AgentId::random(),
            generation: 0,
            state: AgentState::Starting,
            outcome,
            receipt: None,
            restart: Some(RestartInfo {
                last_outcome: Outcome::Exited { code: 1 },
                failures: 1,
                next_run_ms,
                gave_up: None,
            }),
            usage: Usage {
                restarts,
                ..Usage::default()
            },
            last_seq: None,
            time_ms: 1_000,
        }
    }

    #[test]
    fn each_run_is_told_of_once() {
        let mut notes = Notes::default();
        let waits = notes.of(&status(0, Some(2_500), None), 2_000).unwrap();
        assert_eq!(waits, "the agent exited 1; it is run again in 0.500 s");
        assert_eq!(notes.of(&status(0, Some(2_500), None), 2_000), None);
        assert_eq!(
            notes.of(&status(1, None, None), 2_000).unwrap(),
            "run 1 of the agent begins"
        );
        assert_eq!(notes.of(&status(1, None, None), 2_000), None);
        let end = Some(Outcome::Exited { code: 1 });
        assert_eq!(notes.of(&status(2, None, end), 2_000), None);
        // What it prints may be here before its status is.
        assert_eq!(notes.of_output(1), None);
        assert_eq!(notes.of_output(2).unwrap(), "run 2 of the agent begins");
        assert_eq!(notes.of_output(2), None);
        assert_eq!(notes.of(&status(1, Some(2_500), None), 2_000), None);
        assert_eq!(notes.of(&status(2, None, None), 2_000), None);
    }

    #[test]
    fn policies() {
        let told = |policy, max| {
            super::policy(&Restart {
                policy,
                max,
                ..Restart::default()
            })
        };
        assert_eq!(told(RestartPolicy::Never, None), None);
        assert_eq!(told(RestartPolicy::Always, None).as_deref(), Some("always"));
        assert_eq!(
            told(RestartPolicy::OnFailure, Some(1)).as_deref(),
            Some("on failure, at most once")
        );
    }
}
