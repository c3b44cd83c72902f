//! What becomes of the agents that a host before has left: those that waited
//! wait again, those that ran have lost their host, and run again where their
//! spec says so.

use std::sync::Arc;
use std::time::Duration;

use skep_protocol::event::{StatusEvent, Topic};
use skep_protocol::info::RestartInfo;
use skep_protocol::{AgentState, Digest, Outcome, Usage, WireError};
use tokio::time::Instant;

use super::Error;
use super::admissible::consider;
use super::agents::shown_bytes;
use super::assemble::{Identity, Past, assemble};
use super::component::settle;
use super::life::Life;
use super::spawn::launch;
use crate::agent::handle::Handle;
use crate::agent::publication::publish;
use crate::agent::restart::{self, Before, Next, Restarts, Rule};
use crate::agent::runs::Again;
use crate::agent::slots::Place;
use crate::agent::spec::shown;
use crate::clock;
use crate::core::Core;
use crate::log::History;
use crate::store::{Change, Comeback, Ended, EndedBefore, Known, Left};

/// An agent moves less often than this between two times that it is written how
/// far it has come. Generations go on beyond what anyone may have seen.
const UNSEEN_STEPS: u64 = 1_000_000;

/// Takes up all of them, before the first request is answered, and then lets go
/// of the components that were deleted. `told` is how the refusal of a spawn is
/// told on the wire.
pub(crate) async fn come_back(
    core: &Arc<Core>,
    agents: Vec<Comeback>,
    deleted: &[Digest],
    told: fn(&Error) -> WireError,
) {
    let mut lost = 0_usize;
    let mut queued = 0_usize;
    let mut resumed = 0_usize;
    for agent in agents {
        match agent {
            Comeback::Ended(ended) => core.registry.had_ended(ended).await,
            Comeback::Queued(left) => {
                queued += 1;
                if let Some(ticket) = left.ticket {
                    core.slots.go_on_after(ticket);
                }
                let assembled = waiting_again(core, &left).await;
                take_up(core, left, 1, assembled, told).await;
            }
            Comeback::Lost(mut left) => match after_loss(&mut left) {
                Some((before, again)) => {
                    resumed += 1;
                    let assembled = running_again(core, &left, before, again).await;
                    take_up(core, left, UNSEEN_STEPS, assembled, told).await;
                }
                None => {
                    lost += 1;
                    end(core, left, UNSEEN_STEPS, Outcome::HostLost).await;
                }
            },
        }
    }
    if lost + queued + resumed > 0 {
        tracing::info!(
            lost,
            queued,
            resumed,
            "agents of a host before were taken up"
        );
    }
    // Those that wait to be made of them have them.
    for digest in deleted {
        core.components.remove(digest);
    }
    settle(core).await;
}

/// Lets an agent live that could be put together, or tells why it could not.
async fn take_up(
    core: &Arc<Core>,
    left: Left,
    unseen_steps: u64,
    assembled: Result<(Handle, Life), Error>,
    told: fn(&Error) -> WireError,
) {
    match assembled {
        Ok((handle, life)) => launch(core, handle, life),
        Err(error) => {
            let WireError { code, message, .. } = told(&error);
            let outcome = Outcome::StartFailed { code, message };
            end(core, left, unseen_steps, outcome).await;
        }
    }
}

/// An agent that waits for its turn as it did: with its id, in its place, and by
/// the operator's rules as they are now.
async fn waiting_again(core: &Arc<Core>, left: &Left) -> Result<(Handle, Life), Error> {
    let mut admissible = consider(core, left.born.spec.clone()).await?;
    admissible.keep_limits(left.born.limits);
    let turn = core.slots.wait_again(admissible.applicant())?;
    let identity = Identity {
        id: left.id,
        created_ms: left.born.created_ms,
        past: Past::default(),
    };
    assemble(core, admissible, Place::Later(turn), identity)
}

/// What comes after the loss of its host, by an agent's restart policy: its next
/// run, or nothing, and then it is noted why.
fn after_loss(left: &mut Left) -> Option<(Before, Again)> {
    let rule = Rule::of(&left.born.spec.restart).ok()?;
    let known = &mut left.known;
    let mut told = known.restart.clone().unwrap_or(RestartInfo {
        last_outcome: Outcome::HostLost,
        failures: 0,
        next_run_ms: None,
        gave_up: None,
    });
    let now = clock::now_ms();
    let before = Before {
        restarts: known.usage.restarts,
        failures: told.failures,
    };
    // It did not run: it waited for its next run, and does so again.
    if let Some(next_run_ms) = told.next_run_ms {
        let wait = Duration::from_millis(next_run_ms.saturating_sub(now));
        let before = Before {
            restarts: before.restarts + 1,
            ..before
        };
        return Some((before, Again { told, wait }));
    }
    let mut restarts = Restarts::new(rule, before, Instant::now());
    let began_ms = known.started_ms.unwrap_or(now);
    let ended = restart::Ended {
        outcome: &Outcome::HostLost,
        asked: false,
        lasted: Duration::from_millis(now.saturating_sub(began_ms)),
    };
    let next = restarts.after(ended, Instant::now(), fastrand::f64());
    told.last_outcome = Outcome::HostLost;
    told.failures = restarts.failures();
    let before = Before {
        restarts: restarts.made(),
        failures: restarts.failures(),
    };
    match next {
        Next::After(wait) => Some((before, Again { told, wait })),
        Next::GiveUp(why) => {
            told.gave_up = Some(why);
            known.restart = Some(told);
            None
        }
        Next::End => None,
    }
}

/// An agent whose run was lost, as it is run again: its output goes on in the same
/// sequence. What its scratch held is gone.
async fn running_again(
    core: &Arc<Core>,
    left: &Left,
    before: Before,
    again: Again,
) -> Result<(Handle, Life), Error> {
    let mut admissible = consider(core, left.born.spec.clone()).await?;
    admissible.keep_limits(left.born.limits);
    let place = core.slots.take_or_wait(admissible.applicant())?;
    let (logs, id, bound) = (
        core.logs.clone(),
        left.id,
        left.born.limits.output_history_bytes,
    );
    let history = tokio::task::spawn_blocking(move || logs.recover(id, bound)).await;
    let history = history
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(Error::Log)?;
    let identity = Identity {
        id: left.id,
        created_ms: left.born.created_ms,
        past: Past {
            generation: left.known.generation + UNSEEN_STEPS,
            started_ms: left.known.started_ms,
            usage: Usage {
                memory_bytes: 0,
                ..left.known.usage
            },
            history,
            before,
            again: Some(again),
        },
    };
    assemble(core, admissible, place, identity)
}

/// Ends an agent that is not run again, as far as its log goes.
async fn end(core: &Arc<Core>, left: Left, steps: u64, outcome: Outcome) {
    core.tally.ended(&outcome);
    let Left {
        id, born, known, ..
    } = left;
    let logs = core.logs.clone();
    let bound = born.limits.output_history_bytes;
    let log = tokio::task::spawn_blocking(move || {
        let history = logs.recover(id, bound)?;
        Ok::<_, std::io::Error>(
            history.map(|history: History| (history.next_seq(), history.bytes())),
        )
    });
    let (next_seq, log_bytes) = match log.await.map_err(std::io::Error::other) {
        Ok(Ok(log)) => log.unwrap_or_default(),
        Ok(Err(error)) | Err(error) => {
            tracing::error!(%error, agent = %id, "the log of an agent cannot be read");
            (0, 0)
        }
    };
    let now = clock::now_ms();
    let known = Known {
        generation: known.generation + steps,
        exited_ms: Some(now),
        outcome: Some(outcome),
        next_seq: known.next_seq.max(next_seq),
        ..known
    };
    let bytes = shown_bytes(&shown(&born.spec)) as u64;
    let ended = EndedBefore {
        id,
        ended_ms: now,
        bytes: bytes + log_bytes,
    };
    let event = StatusEvent {
        agent: id,
        generation: known.generation,
        state: AgentState::Exited,
        outcome: known.outcome.clone(),
        restart: known.restart.clone(),
        // What it wrote last, only the host before could have told.
        receipt: None,
        usage: known.usage,
        last_seq: known.next_seq.checked_sub(1),
        time_ms: now,
    };
    let change = Change::Ended(Box::new(Ended {
        id,
        bytes: ended.bytes,
        has_secrets: true,
        known,
    }));
    // It has happened: if it cannot be written now, it is later.
    let _ = core.store.write(change).await;
    publish(&core.publisher, &Topic::Status(id), &event);
    core.registry.had_ended(ended).await;
}
