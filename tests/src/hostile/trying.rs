//! Trying a case.

use std::time::{Duration, Instant};

use skep_client::protocol::event::Stream;
use skep_client::protocol::info::PausedReason;
use skep_client::protocol::{AgentId, AgentInfo, AgentState, ErrorCode, Outcome, RunnerKind};
use skep_client::{Client, ClientError};

use super::{Act, Case, Ends};
use crate::output::end_of;
use crate::resources::processes_marked;
use crate::wait::eventually;

/// How long the end of a case took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// By how much it outlived its wall clock, by the host's clock, if that
    /// ended it.
    pub overdue: Option<Duration>,
    /// How long the kill took, if it was killed.
    pub kill: Option<Duration>,
}

/// By which its processes are found.
const MARK: &str = "HOSTILE";

impl Case {
    /// What it is called in reports.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}: {}", self.row, self.what)
    }

    /// Tries it, and forgets it.
    ///
    /// # Panics
    /// If it ends in any other way, or writes anything else, or leaves a
    /// process behind.
    pub async fn try_on(&self, client: &Client) -> Timing {
        let name = self.name();
        let mut spec = self.spec.clone();
        let mark = uuid::Uuid::new_v4().to_string();
        let native = spec.runner == RunnerKind::Native;
        if native {
            spec.env.insert(MARK.to_owned(), mark.clone());
        }
        let agent = match (client.spawn(spec, None).await, self.ends) {
            (Err(ClientError::Refused(refusal)), ends) if self.is_refusal(refusal.code, ends) => {
                return Timing::default();
            }
            (Ok(agent), Ends::Refused(code)) => {
                let _ = client.kill(agent.id).await;
                panic!("{name}: taken instead of refused with {code}")
            }
            (Ok(agent), _) => agent.id,
            (Err(error), ends) => panic!("{name}: {error} instead of {ends:?}"),
        };
        let mut kill = None;
        for act in &self.acts {
            let start = Instant::now();
            if let Err(error) = act.on(client, agent).await {
                let ended = client.kill(agent).await.expect("a kill");
                panic!("{name}: {act:?}: {error}; {:?}", ended.outcome)
            }
            if *act == Act::Kill {
                kill = Some(start.elapsed());
            }
        }
        let ended = end_of(client, agent).await;
        if native {
            let left = processes_marked(MARK, &mark);
            assert!(left.is_empty(), "{name}: processes {left:?} are left");
        }
        let right = self.is_end(&ended.info);
        assert!(
            right,
            "{name}: {} instead of {:?}",
            ended.outcome, self.ends
        );
        if let Some(expected) = &self.writes {
            let written = ended.output.bytes(Stream::Stdout);
            assert!(
                written == *expected,
                "{name}: wrote {} bytes instead of {}, or others",
                written.len(),
                expected.len()
            );
        }
        client.forget(agent).await.expect("an agent that has ended");
        Timing {
            overdue: (self.ends == Ends::Deadline)
                .then(|| overdue(&ended.info))
                .flatten(),
            kill,
        }
    }

    fn is_refusal(&self, code: ErrorCode, ends: Ends) -> bool {
        let not_held = self.where_held && code == ErrorCode::UnsupportedFeature;
        ends == Ends::Refused(code) || not_held
    }

    fn is_end(&self, info: &AgentInfo) -> bool {
        let limits = &info.limits;
        match (self.ends, &info.outcome) {
            (Ends::StartFailed(expected), Some(Outcome::StartFailed { code, .. })) => {
                *code == expected
            }
            (Ends::Exited(expected), Some(Outcome::Exited { code })) => *code == expected,
            (Ends::Trapped(expected), Some(Outcome::Trapped { trap, .. })) => *trap == expected,
            (Ends::OutOfFuel, Some(Outcome::OutOfFuel { limit })) => *limit == limits.fuel,
            (
                Ends::OutOfMemory,
                Some(Outcome::OutOfMemory {
                    limit_bytes,
                    asked_bytes,
                }),
            ) => *limit_bytes == limits.memory_bytes && asked_bytes > limit_bytes,
            (Ends::Deadline, Some(Outcome::Deadline { limit_ms })) => *limit_ms == limits.wall_ms,
            (Ends::PausedTooLong, Some(Outcome::Deadline { limit_ms })) => {
                *limit_ms == limits.paused_ms
            }
            (Ends::Stopped { forced: expected }, Some(Outcome::Stopped { forced })) => {
                *forced == expected
            }
            (Ends::Signaled(expected), Some(Outcome::Signaled { signal })) => *signal == expected,
            (Ends::Killed, Some(Outcome::Killed)) => true,
            _ => false,
        }
    }
}

impl Act {
    async fn on(self, client: &Client, agent: AgentId) -> Result<(), ClientError> {
        match self {
            Self::Begun => {
                until(client, agent, |info| info.state == AgentState::Running).await;
            }
            Self::Written(records) => {
                until(client, agent, |info| info.next_seq >= records).await;
            }
            Self::OutOfFuel => {
                until(client, agent, |info| {
                    info.paused_reason == Some(PausedReason::OutOfFuel)
                        && info.usage.fuel_used >= info.limits.fuel
                })
                .await;
            }
            Self::Pause => {
                let held = client.pause(agent).await?;
                assert_eq!(held.state, AgentState::Paused);
            }
            Self::Resume => {
                let on = client.resume(agent).await?;
                assert_ne!(on.state, AgentState::Paused);
            }
            Self::Refuel(fuel) => drop(client.refuel(agent, fuel).await?),
            Self::Stop(grace) => drop(client.stop(agent, Some(grace)).await?),
            Self::Kill => drop(client.kill(agent).await?),
        }
        Ok(())
    }
}

/// Waits until it is so of an agent, or that has ended before it was seen.
async fn until(client: &Client, agent: AgentId, is: impl Fn(&AgentInfo) -> bool) {
    eventually("an agent that is so far", || async {
        let info = client.get(agent).await.expect("an agent");
        (is(&info) || info.state == AgentState::Exited).then_some(())
    })
    .await;
}

fn overdue(info: &AgentInfo) -> Option<Duration> {
    let Some(Outcome::Deadline { limit_ms }) = info.outcome else {
        return None;
    };
    let took_ms = info.exited_ms?.saturating_sub(info.created_ms);
    Some(Duration::from_millis(took_ms.saturating_sub(limit_ms)))
}
