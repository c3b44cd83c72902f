//! What the rest of the host holds of an agent: cheap to clone, reads its
//! state, sends to its driver.

use std::sync::Arc;
use std::time::Duration;

use skep_protocol::info::{PausedReason, RestartInfo, SpecInfo};
use skep_protocol::{
    AgentId, AgentInfo, AgentName, AgentState, Enforced, Limits, Outcome, Receipt, RunnerKind,
    Usage,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::meter::UsageMeter;
use super::slots::Standing;
use super::spec::shown;
use super::{Step, after};
use crate::clock;
use crate::log::History;
use crate::stdio::StdinWriter;
use crate::store::{Born, Known};

/// What the driver publishes of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: AgentState,
    pub paused_reason: Option<PausedReason>,
    pub generation: u64,
    /// The limit of fuel, with what was added.
    pub fuel: u64,
    /// When it began to run; of several runs the last that did.
    pub started_ms: Option<u64>,
    /// Whether this run has begun to.
    pub begun: bool,
    pub exited_ms: Option<u64>,
    pub outcome: Option<Outcome>,
    /// Whether a client asked it to end.
    pub asked_to_end: bool,
    pub restart: Option<RestartInfo>,
    /// When its runs failed of late, for a host that comes after.
    pub failed_ms: Vec<u64>,
    pub receipt: Option<Arc<Receipt>>,
}

impl Status {
    /// Takes a step, and says whether it can be taken.
    pub(super) fn advance(&mut self, step: Step) -> bool {
        let Some(state) = after(self.state, step) else {
            return false;
        };
        self.state = state;
        self.generation += 1;
        if state != AgentState::Paused {
            self.paused_reason = None;
        }
        match step {
            Step::Run => {
                self.begun = true;
                self.started_ms = Some(clock::now_ms());
            }
            Step::Again
            | Step::Start
            | Step::Pause
            | Step::Resume
            | Step::ResumeStart
            | Step::Stop => {}
            Step::End => {
                self.exited_ms = Some(clock::now_ms());
                if let Some(restart) = &mut self.restart {
                    restart.next_run_ms = None;
                }
            }
        }
        true
    }
}

/// What a driver is asked for.
#[derive(Debug)]
pub enum Command {
    /// Answered when the agent stands still.
    Pause(Answer),
    Resume(Answer),
    Refuel {
        fuel: u64,
        ceiling: u64,
        answer: Answer,
    },
    Stop {
        grace: Duration,
    },
    Kill,
}

/// Where a driver says that it did what it was asked for, or why not.
pub type Answer = oneshot::Sender<Result<(), Declined>>;

/// Why a driver did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    WrongState {
        state: AgentState,
        message: &'static str,
    },
    /// The agent's runner can't.
    Unable(&'static str),
    OverCeiling {
        asked: u64,
        ceiling: u64,
    },
}

/// What a driver's queue holds. More commands at once wait for their turn.
pub const COMMANDS: usize = 16;

/// What never changes of an agent, and what its driver shares.
#[derive(Debug)]
pub struct Agent {
    pub id: AgentId,
    pub name: AgentName,
    pub runner: RunnerKind,
    pub created_ms: u64,
    pub spec: SpecInfo,
    pub limits: Limits,
    pub enforced: Enforced,
    pub history: Arc<History>,
    /// Present where the spec asked for an open stdin.
    pub stdin: Option<StdinWriter>,
    /// Bytes of stdin that the spec brought.
    pub stdin_given: u64,
    pub meter: UsageMeter,
    /// Present where it had to wait for its turn.
    pub standing: Option<Standing>,
}

/// A cheap reference to an agent.
#[derive(Debug, Clone)]
pub struct Handle {
    agent: Arc<Agent>,
    status: watch::Receiver<Status>,
    commands: mpsc::Sender<Command>,
}

impl std::ops::Deref for Handle {
    type Target = Agent;
    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl Handle {
    #[must_use]
    pub fn new(
        agent: Arc<Agent>,
        status: watch::Receiver<Status>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            agent,
            status,
            commands,
        }
    }

    /// An agent that has ended under a host before, as its record tells.
    #[must_use]
    pub fn of_record(id: AgentId, born: &Born, known: Known, history: History) -> Self {
        let status = Status {
            state: AgentState::Exited,
            paused_reason: None,
            generation: known.generation,
            fuel: known.fuel,
            started_ms: known.started_ms,
            begun: known.started_ms.is_some(),
            exited_ms: known.exited_ms,
            outcome: known.outcome,
            asked_to_end: known.asked_to_end,
            restart: known.restart,
            failed_ms: known.failed_ms,
            receipt: known.receipt.map(Arc::from),
        };
        let agent = Agent {
            id,
            name: born.spec.name.clone(),
            runner: born.spec.runner,
            created_ms: born.created_ms,
            spec: shown(&born.spec),
            limits: born.limits,
            enforced: born.enforced,
            history: Arc::new(history),
            stdin: None,
            stdin_given: known.usage.stdin_bytes,
            meter: UsageMeter::from(known.usage),
            standing: None,
        };
        let (_, status) = watch::channel(status);
        let (commands, _) = mpsc::channel(1);
        Self::new(Arc::new(agent), status, commands)
    }

    /// How far it has come, to be written down.
    #[must_use]
    pub fn known(&self) -> Known {
        self.agent.known(&self.status.borrow())
    }

    #[must_use]
    pub fn state(&self) -> AgentState {
        self.status.borrow().state
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state() == AgentState::Exited
    }

    /// Waits until the agent has ended and its last record can be read, or until
    /// the host ends and leaves it to the next one.
    pub async fn over(&self) {
        // Whoever ends it says so before it drops the sender, unless it is left.
        let _ = self
            .status
            .clone()
            .wait_for(|status| status.state == AgentState::Exited)
            .await;
    }

    /// Hands a command to the driver. An agent that has ended takes none, and
    /// that is what was wanted of it.
    pub async fn send(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Asks the driver for something and waits for its answer.
    ///
    /// # Errors
    /// What the driver declines with. An agent that has ended, or does so
    /// meanwhile, is in the wrong state.
    pub async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), Declined> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer)).await;
        answered.await.unwrap_or_else(|_| {
            Err(if self.commands.is_closed() {
                Declined::WrongState {
                    state: AgentState::Exited,
                    message: "it has ended",
                }
            } else {
                Declined::WrongState {
                    state: self.state(),
                    message: "its run has ended",
                }
            })
        })
    }

    /// Whether anybody here still drives it.
    #[must_use]
    pub fn is_attended(&self) -> bool {
        !self.commands.is_closed()
    }

    #[must_use]
    pub fn info(&self) -> AgentInfo {
        let agent = &*self.agent;
        let status = self.status.borrow().clone();
        let queue = (status.state == AgentState::Queued)
            .then(|| agent.standing.as_ref().and_then(Standing::read));
        AgentInfo {
            id: agent.id,
            name: agent.name.clone(),
            runner: agent.runner,
            state: status.state,
            paused_reason: status.paused_reason,
            generation: status.generation,
            created_ms: agent.created_ms,
            started_ms: status.started_ms,
            exited_ms: status.exited_ms,
            spec: agent.spec.clone(),
            limits: Limits {
                fuel: status.fuel,
                ..agent.limits
            },
            usage: agent.usage(),
            enforced: agent.enforced,
            outcome: status.outcome,
            receipt: status.receipt.as_deref().cloned(),
            queue: queue.flatten(),
            restart: status.restart,
            next_seq: agent.history.next_seq(),
        }
    }
}

impl Agent {
    /// How far it has come, to be written down.
    #[must_use]
    pub fn known(&self, status: &Status) -> Known {
        Known {
            generation: status.generation,
            fuel: status.fuel,
            started_ms: status.started_ms,
            exited_ms: status.exited_ms,
            outcome: status.outcome.clone(),
            receipt: status.receipt.as_deref().cloned().map(Box::new),
            usage: self.usage(),
            next_seq: self.history.next_seq(),
            asked_to_end: status.asked_to_end,
            restart: status.restart.clone(),
            failed_ms: status.failed_ms.clone(),
        }
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            stdin_bytes: self
                .stdin
                .as_ref()
                .map_or(self.stdin_given, StdinWriter::taken),
            ..self.meter.read()
        }
    }
}
