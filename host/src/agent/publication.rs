//! What is told of an agent: its state to who asks, and each change to who listens.

use std::sync::Arc;

use skep_protocol::event::{ProgressEvent, StatusEvent, Topic};
use skep_protocol::info::{GaveUp, PausedReason, RestartInfo};
use skep_protocol::{AgentState, Digest, Limits, Outcome, Receipt, codec};
use skep_transport::Publisher;
use tokio::sync::watch;

use super::Step;
use super::handle::{Agent, Status};
use crate::clock;
use crate::log::Written;
use crate::registry::StateCounts;
use crate::runner::Progress;
use crate::store::Change;

/// An agent's state, on its way to everyone who looks. It outlives the driver,
/// so that the end is told even if the driver panics.
#[derive(Debug)]
pub struct Publication {
    pub agent: Arc<Agent>,
    /// Of all that was asked for, what is never shown included.
    pub spec_digest: Digest,
    pub status: watch::Sender<Status>,
    pub publisher: Publisher,
    pub counts: Arc<StateCounts>,
}

/// How an agent ended, and what its last run wrote.
#[derive(Debug)]
pub struct Ending {
    pub outcome: Outcome,
    /// Absent where nobody knows, and then there is no receipt.
    pub written: Option<Written>,
}

impl Ending {
    /// Of an agent that never ran.
    #[must_use]
    pub fn before_start(outcome: Outcome) -> Self {
        Self {
            outcome,
            written: Some(Written::default()),
        }
    }

    /// Of an agent whose output was lost from sight with its driver.
    #[must_use]
    pub const fn unrecorded(incident: String) -> Self {
        Self {
            outcome: Outcome::HostFault { incident },
            written: None,
        }
    }
}

impl Publication {
    /// The end as it will be told: nothing moves the agent before.
    #[must_use]
    pub fn last(&self, ending: Ending) -> Status {
        self.agent.meter.end();
        let mut status = self.status.borrow().clone();
        status.advance(Step::End);
        status.receipt = self.receipt(&status, &ending);
        status.outcome = Some(ending.outcome);
        status
    }

    /// Tells that the agent has ended, after all it held was given back, and
    /// that was written down.
    pub fn end(&self, last: Status) {
        self.counts.moved(Some(self.state()), last.state);
        self.status.send_replace(last);
        self.publish_status();
    }

    /// Tells that a run has ended, and whether and when the next begins.
    pub(super) fn run_ended(&self, restart: RestartInfo, failed_ms: Vec<u64>) {
        self.agent.meter.end();
        let again = restart.next_run_ms.is_some();
        self.status.send_modify(|status| {
            status.restart = Some(restart);
            status.failed_ms = failed_ms;
            if again {
                status.begun = false;
            }
        });
        if again {
            self.step(Step::Again);
        }
    }

    /// How far the agent has come, to be written down.
    pub(super) fn progress(&self) -> Change {
        let known = self.agent.known(&self.status.borrow());
        Change::Seen(self.agent.id, Box::new(known))
    }

    /// Notes that a client asked it to end; what is to be written down, if it would run
    /// again.
    pub(super) fn asked_to_end(&self) -> Option<Change> {
        self.status.send_modify(|status| status.asked_to_end = true);
        let runs_again = self.agent.spec.restart != skep_protocol::spec::Restart::default();
        runs_again.then(|| self.progress())
    }

    /// Notes that there will be no next run, though one was to come. It is told
    /// with the end.
    pub(super) fn gives_up(&self, why: GaveUp) {
        self.status.send_modify(|status| {
            if let Some(restart) = &mut status.restart {
                restart.gave_up = Some(why);
            }
        });
    }

    /// Tells that the next run begins.
    pub(super) fn next_run(&self) {
        self.status.send_modify(|status| {
            if let Some(restart) = &mut status.restart {
                restart.next_run_ms = None;
            }
            status.fuel = self.agent.limits.fuel;
        });
        self.step(Step::Start);
    }

    /// The record of the last run.
    fn receipt(&self, status: &Status, ending: &Ending) -> Option<Arc<Receipt>> {
        let (agent, written) = (&self.agent, ending.written?);
        let usage = agent.meter.last_run();
        Some(Arc::new(Receipt {
            agent: agent.id,
            run: written.run,
            component: agent.spec.component,
            command: agent.spec.command.clone(),
            spec_digest: self.spec_digest,
            limits: Limits {
                fuel: status.fuel,
                ..agent.limits
            },
            fuel_used: usage.fuel_used,
            memory_peak_bytes: usage.memory_peak_bytes,
            created_ms: agent.created_ms,
            started_ms: status.started_ms,
            exited_ms: status.exited_ms.unwrap_or_default(),
            outcome: ending.outcome.clone(),
            stdout: written.stdout,
            stderr: written.stderr,
        }))
    }

    pub(super) fn state(&self) -> AgentState {
        self.status.borrow().state
    }

    /// The limits as they are now.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            fuel: self.status.borrow().fuel,
            ..self.agent.limits
        }
    }

    pub(super) fn refuelled(&self, limit: u64) {
        self.status.send_modify(|status| status.fuel = limit);
    }

    pub(super) fn hold(&self, reason: PausedReason) {
        self.status
            .send_modify(|status| status.paused_reason = Some(reason));
        self.step(Step::Pause);
    }

    pub(super) fn go_on(&self) {
        let begun = self.status.borrow().begun;
        self.step(if begun {
            Step::Resume
        } else {
            Step::ResumeStart
        });
    }

    pub fn step(&self, step: Step) {
        let moved = self.status.send_if_modified(|status| {
            let before = status.state;
            let moved = status.advance(step);
            if moved {
                self.counts.moved(Some(before), status.state);
            }
            moved
        });
        if moved {
            self.publish_status();
        }
    }

    pub fn publish_status(&self) {
        let status = self.status.borrow().clone();
        let event = StatusEvent {
            agent: self.agent.id,
            generation: status.generation,
            state: status.state,
            outcome: status.outcome,
            restart: status.restart,
            receipt: status.receipt.as_deref().cloned().map(Box::new),
            usage: self.agent.usage(),
            last_seq: self.agent.history.next_seq().checked_sub(1),
            time_ms: clock::now_ms(),
        };
        publish(&self.publisher, &Topic::Status(self.agent.id), &event);
    }

    pub(super) fn publish_progress(&self, progress: &mut watch::Receiver<Option<Progress>>) {
        let Some(progress) = progress.borrow_and_update().clone() else {
            return;
        };
        let event = ProgressEvent {
            agent: self.agent.id,
            stage: progress.stage,
            step: progress.step,
            total: progress.total,
            fraction: progress.fraction,
            eta_ms: progress.eta_ms,
            note: progress.note,
            preview: progress.preview,
            time_ms: clock::now_ms(),
        };
        let topic = Topic::Progress(self.agent.id);
        if let Some(payload) = encoded(&topic, &event) {
            self.publisher.try_publish(topic.to_string(), payload);
        }
    }
}

/// Publishes what an agent or the host has come to, or counts that it could not be.
pub(crate) fn publish<E: serde::Serialize>(publisher: &Publisher, topic: &Topic, event: &E) {
    if let Some(payload) = encoded(topic, event) {
        publisher.try_publish_beyond_share(topic.to_string(), payload);
    }
}

fn encoded<E: serde::Serialize>(topic: &Topic, event: &E) -> Option<Vec<u8>> {
    codec::encode(event)
        .inspect_err(|error| tracing::error!(%error, %topic, "an event was not published"))
        .ok()
}
