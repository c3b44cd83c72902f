//! What becomes of the agents that a host before has left: those that waited
//! wait again, those that ran have lost their host.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use skep_protocol::event::{StatusEvent, Topic};
use skep_protocol::{AgentState, Digest, Outcome, WireError};

use super::Error;
use super::agents::shown_bytes;
use super::component::settle;
use super::spawn::{Identity, applicant, assemble, consider, launch};
use crate::agent::driver::publish;
use crate::agent::handle::Handle;
use crate::agent::restart::Before;
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
    for agent in agents {
        match agent {
            Comeback::Ended(ended) => core.registry.had_ended(ended).await,
            Comeback::Queued(left) => {
                queued += 1;
                if let Some(ticket) = left.ticket {
                    core.slots.go_on_after(ticket);
                }
                wait_again(core, left, told).await;
            }
            Comeback::Lost(left) => {
                lost += 1;
                end(core, left, UNSEEN_STEPS, Outcome::HostLost).await;
            }
        }
    }
    if lost + queued > 0 {
        tracing::info!(lost, queued, "agents of a host before were taken up");
    }
    // Those that wait to be made of them have them.
    for digest in deleted {
        core.components.remove(digest);
    }
    settle(core).await;
}

/// Lets an agent wait for its turn as it did: with its id, in its place, and by
/// the operator's rules as they are now.
async fn wait_again(core: &Arc<Core>, left: Left, told: fn(&Error) -> WireError) {
    match assembled(core, &left).await {
        Ok((handle, life)) => launch(core, handle, life),
        Err(error) => {
            let WireError { code, message, .. } = told(&error);
            let outcome = Outcome::StartFailed { code, message };
            end(core, left, 1, outcome).await;
        }
    }
}

async fn assembled(
    core: &Arc<Core>,
    left: &Left,
) -> Result<(Handle, BoxFuture<'static, ()>), Error> {
    let mut admissible = consider(core, left.born.spec.clone()).await?;
    admissible.keep_limits(left.born.limits);
    let turn = core.slots.wait_again(applicant(&admissible))?;
    let identity = Identity {
        id: left.id,
        created_ms: left.born.created_ms,
        before: Before::default(),
    };
    assemble(core, admissible, Place::Later(turn), identity)
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
        known,
    }));
    // It has happened: if it cannot be written now, it is later.
    let _ = core.store.write(change).await;
    publish(&core.publisher, &Topic::Status(id), &event);
    core.registry.had_ended(ended).await;
}
