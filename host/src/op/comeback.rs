//! What becomes of the agents that a host before has left: those that waited
//! wait again, those that ran have lost their host, and run again where their
//! spec says so.

use std::sync::Arc;
use std::time::Duration;

use skep_protocol::event::{StatusEvent, Topic};
use skep_protocol::info::RestartInfo;
use skep_protocol::{AgentId, AgentState, Digest, ErrorCode, Outcome, Usage, WireError};
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
use crate::components::Component;
use crate::core::Core;
use crate::log::History;
use crate::store::{Born, Change, Comeback, Ended, EndedBefore, Known, Left};

/// An agent moves less often than this between two times that it is written how
/// far it has come. Generations go on beyond what anyone may have seen.
const UNSEEN_STEPS: u64 = 1_000_000;

/// How long an agent that cannot be taken up now waits for the next attempt, at
/// first; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What becomes of an agent that a host before has left.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It has ended, and can be read again.
    Past(EndedBefore),
    /// It waits for its turn as it did.
    Waits(Left),
    /// Its run was lost, and the next one comes.
    Returns {
        left: Left,
        before: Before,
        again: Again,
    },
    /// Its run was lost, and there is no other.
    Lost(Left),
}

impl Fate {
    /// `has_log` says of which agents there is output. One that waited for its
    /// turn, as far as was written, and has some has had its turn.
    pub(crate) fn of(agent: Comeback, has_log: impl Fn(&AgentId) -> bool) -> Self {
        match agent {
            Comeback::Ended(ended) => Self::Past(ended),
            // It is answered for, and grows old.
            Comeback::Unreadable(id) => Self::Past(EndedBefore {
                id,
                ended_ms: clock::now_ms(),
                bytes: 0,
            }),
            Comeback::Queued(left) if !has_log(&left.id) => Self::Waits(left),
            Comeback::Queued(mut left) | Comeback::Lost(mut left) => match after_loss(&mut left) {
                Some((before, again)) => Self::Returns {
                    left,
                    before,
                    again,
                },
                None => Self::Lost(left),
            },
        }
    }

    pub(crate) fn id(&self) -> AgentId {
        match self {
            Self::Past(ended) => ended.id,
            Self::Waits(left) | Self::Returns { left, .. } | Self::Lost(left) => left.id,
        }
    }

    /// Whether nothing more of it will run.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Past(_) | Self::Lost(_) => true,
            Self::Waits(_) | Self::Returns { .. } => false,
        }
    }
}

/// Takes up all of them, before the first request is answered, and then lets go
/// of the components that were deleted. `told` is how the refusal of a spawn is
/// told on the wire.
pub(crate) async fn come_back(
    core: &Arc<Core>,
    fates: Vec<Fate>,
    deleted: &[Digest],
    told: fn(&Error) -> WireError,
) {
    let mut lost = 0_usize;
    let mut queued = 0_usize;
    let mut resumed = 0_usize;
    let mut postponed = Vec::new();
    let is_past = |fate: &Fate| match fate {
        Fate::Past(ended) => Some(*ended),
        Fate::Waits(_) | Fate::Returns { .. } | Fate::Lost(_) => None,
    };
    let past = fates.iter().filter_map(is_past).collect();
    core.registry.had_ended(past).await;
    for fate in fates {
        match &fate {
            Fate::Past(_) => continue,
            Fate::Waits(left) => {
                queued += 1;
                if let Some(ticket) = left.ticket {
                    core.slots.go_on_after(ticket);
                }
            }
            Fate::Returns { .. } => resumed += 1,
            Fate::Lost(_) => lost += 1,
        }
        let later = take_up(core, fate, &[], told).await;
        postponed.extend(later.map(|fate| Postponed::new(core, fate)));
    }
    if lost + queued + resumed > 0 {
        tracing::info!(
            lost,
            queued,
            resumed,
            "agents of a host before were taken up"
        );
    }
    if postponed.is_empty() {
        took_up(core, deleted).await;
    } else {
        let deleted = deleted.to_vec();
        tokio::spawn(take_up_later(Arc::clone(core), postponed, deleted, told));
    }
}

/// All agents were taken up: those that wait to be made of a component that was
/// deleted have it.
async fn took_up(core: &Core, deleted: &[Digest]) {
    for digest in deleted {
        core.components.remove(digest);
    }
    settle(core).await;
    core.logs.took_up();
}

/// One that is to be taken up later, with what it is made of.
struct Postponed {
    fate: Fate,
    held: Vec<Arc<Component>>,
}

impl Postponed {
    fn new(core: &Core, fate: Fate) -> Self {
        let born = match &fate {
            Fate::Waits(left) | Fate::Returns { left, .. } | Fate::Lost(left) => Some(&left.born),
            Fate::Past(_) => None,
        };
        let digests = born.into_iter().flat_map(Born::components);
        let components = digests.filter_map(|digest| core.components.get(digest));
        Self {
            held: components.collect(),
            fate,
        }
    }
}

/// Tries again with those that could not be taken up, until the host ends; the
/// next one finds those that are left.
async fn take_up_later(
    core: Arc<Core>,
    mut postponed: Vec<Postponed>,
    deleted: Vec<Digest>,
    told: fn(&Error) -> WireError,
) {
    let mut wait = FIRST_WAIT;
    while !postponed.is_empty() {
        tokio::select! {
            () = core.draining.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
        // Whoever waits for all agents to end waits for these as well.
        let _coming = core.drivers.token();
        for Postponed { fate, held } in std::mem::take(&mut postponed) {
            if core.draining.is_cancelled() {
                return;
            }
            let later = take_up(&core, fate, &held, told).await;
            postponed.extend(later.map(|fate| Postponed { fate, held }));
        }
    }
    took_up(&core, &deleted).await;
}

/// Takes up an agent, or gives it back where that may be possible later: for want
/// of room on the disk, an agent that should be running is not given up.
/// `held` is what it has of components already.
async fn take_up(
    core: &Arc<Core>,
    fate: Fate,
    held: &[Arc<Component>],
    told: fn(&Error) -> WireError,
) -> Option<Fate> {
    let (assembled, unseen_steps, fate) = match fate {
        Fate::Past(ended) => {
            core.registry.had_ended(vec![ended]).await;
            return None;
        }
        Fate::Lost(left) => {
            let ended = end(core, &left, UNSEEN_STEPS, Outcome::HostLost).await;
            return match ended {
                Ok(()) => {
                    core.registry.is_taken_up(&left.id);
                    None
                }
                Err(error) => {
                    postpone(core, left.id, &told(&error).message);
                    Some(Fate::Lost(left))
                }
            };
        }
        Fate::Waits(left) => {
            let assembled = waiting_again(core, &left, held).await;
            (assembled, UNSEEN_STEPS, Fate::Waits(left))
        }
        Fate::Returns {
            left,
            before,
            again,
        } => {
            let assembled = running_again(core, &left, held, before.clone(), again.clone()).await;
            let fate = Fate::Returns {
                left,
                before,
                again,
            };
            (assembled, UNSEEN_STEPS, fate)
        }
    };
    let refusal = match assembled {
        Ok((handle, life)) => {
            let id = handle.id;
            launch(core, handle, life);
            core.registry.is_taken_up(&id);
            return None;
        }
        Err(error) => told(&error),
    };
    let WireError { code, message, .. } = refusal;
    match fate {
        fate if code == ErrorCode::StorageUnavailable => {
            postpone(core, fate.id(), &message);
            Some(fate)
        }
        Fate::Waits(ref left) | Fate::Returns { ref left, .. } => {
            let outcome = Outcome::StartFailed { code, message };
            match end(core, left, unseen_steps, outcome).await {
                Ok(()) => {
                    core.registry.is_taken_up(&left.id);
                    None
                }
                Err(error) => {
                    postpone(core, left.id, &told(&error).message);
                    Some(fate)
                }
            }
        }
        Fate::Past(_) | Fate::Lost(_) => None,
    }
}

fn postpone(core: &Core, agent: AgentId, message: &str) {
    if core.registry.postpone(agent) {
        tracing::error!(%agent, message, "an agent of a host before cannot be taken up now");
    }
}

/// An agent that waits for its turn as it did: with its id, in its place, and by
/// the operator's rules as they are now.
async fn waiting_again(
    core: &Arc<Core>,
    left: &Left,
    held: &[Arc<Component>],
) -> Result<(Handle, Life), Error> {
    let mut admissible = consider(core, left.born.spec.clone(), held).await?;
    admissible.keep_limits(left.born.limits);
    let turn = core.slots.wait_again(admissible.applicant())?;
    let identity = Identity {
        id: left.id,
        created_ms: left.born.created_ms,
        past: Past {
            // It may have run, where the store could not be told.
            generation: left.known.generation + UNSEEN_STEPS,
            history: recover(core, left).await?,
            ..Past::default()
        },
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
    let ago = |at_ms: &u64| Duration::from_millis(now.saturating_sub(*at_ms));
    let before = Before {
        restarts: known.usage.restarts,
        failed: known.failed_ms.iter().map(ago).collect(),
    };
    // It did not run: it waited for its next run, and does so again.
    if let Some(next_run_ms) = told.next_run_ms {
        // Whatever the calendar was set to meanwhile.
        let wait = Duration::from_millis(next_run_ms.saturating_sub(now)).min(rule.longest());
        let before = Before {
            restarts: before.restarts + 1,
            ..before
        };
        return Some((before, Again { told, wait }));
    }
    let mut restarts = Restarts::new(rule, &before, Instant::now());
    let began_ms = known.started_ms.unwrap_or(now);
    let ended = restart::Ended {
        outcome: &Outcome::HostLost,
        asked: known.asked_to_end,
        lasted: Duration::from_millis(now.saturating_sub(began_ms)),
    };
    let next = restarts.after(ended, Instant::now(), fastrand::f64());
    told.last_outcome = Outcome::HostLost;
    told.failures = restarts.failures();
    let before = Before {
        restarts: restarts.made(),
        failed: restarts.failed(Instant::now()),
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
    held: &[Arc<Component>],
    before: Before,
    again: Again,
) -> Result<(Handle, Life), Error> {
    let mut admissible = consider(core, left.born.spec.clone(), held).await?;
    admissible.keep_limits(left.born.limits);
    // It was there before: it is not turned away where the queue is full.
    let applicant = admissible.applicant();
    let place = match core.slots.take(applicant) {
        Ok(slot) => Place::Now(slot),
        Err(_full) => Place::Later(core.slots.wait_again(applicant)?),
    };
    let history = recover(core, left).await?;
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

/// The log of an agent that goes on with it, if it has any.
async fn recover(core: &Arc<Core>, left: &Left) -> Result<Option<History>, Error> {
    let (logs, id) = (core.logs.clone(), left.id);
    let (bound, seen) = (left.born.limits.output_history_bytes, left.known.next_seq);
    tokio::task::spawn_blocking(move || logs.recover(id, bound, seen))
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(Error::Log)
}

/// Ends an agent that is not run again, as far as its log goes. Fails where that
/// cannot be read now: an end would leave out what it wrote last.
async fn end(core: &Arc<Core>, left: &Left, steps: u64, outcome: Outcome) -> Result<(), Error> {
    let history = recover(core, left).await?;
    core.tally.ended(&outcome);
    let Left {
        id, born, known, ..
    } = left.clone();
    let bound = born.limits.output_history_bytes;
    let next_seq = history.as_ref().map_or(0, History::next_seq);
    let log_bytes = history.as_ref().map_or(0, History::bytes);
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
        known: known.clone(),
    }));
    let is_whole = history.as_ref().is_none_or(History::is_whole);
    if core.store.write_what_happened(change).await && is_whole {
        drop(history);
        core.registry.had_ended(vec![ended]).await;
    } else {
        // It has happened, and is written later: until then what the disk has of it
        // is not how it ended.
        let is_open = history.is_some();
        let history = history
            .unwrap_or_else(|| core.logs.recall(id, bound, known.next_seq))
            .charged(bytes);
        let handle = Handle::of_record(id, &born, known, history);
        if is_open {
            handle.history.heal_in_time();
        }
        core.registry.insert(handle);
        core.registry.has_ended(id).await;
    }
    publish(&core.publisher, &Topic::Status(id), &event);
    Ok(())
}
