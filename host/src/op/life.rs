//! An agent's whole life, as one task: it waits for its turn, its inputs are laid,
//! it has its runs, and all that it held is given back before its end is told.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use skep_protocol::Outcome;
use skep_protocol::info::StdinKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::Step;
use crate::agent::driver::Driver;
use crate::agent::handle::Command;
use crate::agent::publication::{Ending, Publication};
use crate::agent::restart::{Before, Restarts, Rule};
use crate::agent::runs::{Again, Over, Runs, StdinSource};
use crate::agent::slots::{Place, Slot};
use crate::agent::turn::{lay_inputs, turn};
use crate::components::Component;
use crate::core::Core;
use crate::inputs::Input;
use crate::log::Recorder;
use crate::runner::{Launch, Runner};
use crate::scratch::Scratch;
use crate::store::{Change, Ended};

/// From its place to its end.
pub(super) struct Life {
    pub(super) core: Arc<Core>,
    pub(super) publication: Arc<Publication>,
    pub(super) course: Course,
    pub(super) held: Holdings,
}

/// What it takes until its last run is over.
pub(super) struct Course {
    pub(super) place: Place,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) inputs: Vec<Input>,
    pub(super) runner: Arc<dyn Runner>,
    pub(super) launch: Launch,
    pub(super) stdin: StdinSource,
    pub(super) recorder: Recorder,
    pub(super) rule: Rule,
    pub(super) before: Before,
    /// Where its last run was lost with its host.
    pub(super) again: Option<Again>,
}

/// What it holds from the beginning, whether or not its turn comes.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(super) scratch: Option<Scratch>,
    /// Of a wasm agent. What is held is not deleted.
    pub(super) component: Option<Arc<Component>>,
    pub(super) inputs: Vec<Input>,
}

/// What it held when that was over.
struct Rest {
    over: Over,
    slot: Option<Slot>,
    laid: Option<Scratch>,
}

impl From<Over> for Rest {
    fn from(over: Over) -> Self {
        Self {
            over,
            slot: None,
            laid: None,
        }
    }
}

impl Life {
    pub(super) async fn live(self) {
        let Self {
            core,
            publication,
            course,
            mut held,
        } = self;
        let course = course.take(Arc::clone(&core), Arc::clone(&publication));
        let rest = match AssertUnwindSafe(course).catch_unwind().await {
            Ok(Ok(rest)) => rest,
            Ok(Err(over)) => over.into(),
            Err(_) => {
                publication.agent.meter.kill_guest();
                let incident = crate::incident("a driver panicked");
                Over::Ended(Ending::unrecorded(incident)).into()
            }
        };
        let Rest { over, slot, laid } = rest;
        match over {
            Over::Ended(ending) => end(&core, &publication, held, laid, slot, ending).await,
            // The next host removes what it does not need.
            Over::Left => {
                for dir in [held.scratch.take(), laid].into_iter().flatten() {
                    dir.leave();
                }
                // Nor does this one, while it ends.
                let mut left = core.left.lock().unwrap_or_else(PoisonError::into_inner);
                left.push(held);
            }
        }
    }
}

impl Course {
    /// Fails where it never ran.
    async fn take(mut self, core: Arc<Core>, publication: Arc<Publication>) -> Result<Rest, Over> {
        publication.publish_status();
        let id = publication.agent.id;
        let stopped = || Over::Ended(Ending::before_start(Outcome::Stopped { forced: false }));
        let left_if = |comes_back| match comes_back && core.store.keeps() {
            true => Over::Left,
            false => stopped(),
        };
        let slot = match self.place {
            Place::Now(slot) => slot,
            Place::Later(later) => {
                let commands = &mut self.commands;
                let slot = turn(later, commands, &core.shutdown, || left_if(true)).await?;
                // Or a host that comes after might run it again: then the numbers of
                // what it writes are seen by nobody before the disk has them.
                let started = core.store.write_what_happened(Change::Started(id));
                self.recorder.may_run_again |= !started.await;
                publication.step(Step::Start);
                slot
            }
        };
        let root = core.inputs_root.clone();
        let (inputs, commands) = (self.inputs, &mut self.commands);
        let comes_back = self.rule.allows_any();
        let laid = lay_inputs(root, id, inputs, commands, &core.shutdown, || {
            left_if(comes_back)
        })
        .await?;
        let runs = Runs {
            driver: Driver {
                publication,
                commands: self.commands,
                shutdown: core.shutdown.clone(),
                shutdown_grace: core.grace,
                store: core.store.clone(),
            },
            restarts: Restarts::new(self.rule, &self.before, Instant::now()),
            no_more_runs: core.draining.clone(),
            stdin: self.stdin,
            recorder: self.recorder,
        };
        Ok(Rest {
            over: runs.run(self.runner, self.launch, self.again).await,
            slot: Some(slot),
            laid,
        })
    }
}

/// Gives back all that the agent held, and tells its end then: who sees the end
/// finds the slot free, the directories gone, and what it left kept.
async fn end(
    core: &Core,
    publication: &Publication,
    held: Holdings,
    laid: Option<Scratch>,
    slot: Option<Slot>,
    ending: Ending,
) {
    let agent = &publication.agent;
    let id = agent.id;
    let Holdings {
        scratch,
        component,
        inputs,
    } = held;
    if scratch.is_some() || laid.is_some() {
        let kept = Arc::clone(&core.kept);
        let tidy = move || {
            drop(laid);
            if let Some(scratch) = scratch {
                kept.keep(id, scratch);
            }
        };
        let _ = tokio::task::spawn_blocking(tidy).await;
    }
    drop((component, inputs));
    drop(slot);
    core.tally.ended(&ending.outcome);
    let last = publication.last(ending);
    let ended = Ended {
        id,
        bytes: agent.history.bytes(),
        has_secrets: !agent.spec.env.is_empty() || agent.spec.stdin == StdinKind::Data,
        known: agent.known(&last),
    };
    // Nobody sees an end that a host after this one does not know. If it
    // cannot be written now, the agent has ended all the same.
    let ended = Change::Ended(Box::new(ended));
    core.store.write_what_happened(ended).await;
    publication.end(last);
    core.registry.has_ended(id).await;
}
