//! One run of an agent, from its start to its outcome: the only writer of its
//! state meanwhile. Whatever happens, it ends with an [`Outcome`]: a failed agent
//! is a result.

use std::sync::Arc;
use std::time::Duration;

use skep_protocol::event::{ProgressEvent, StatusEvent, Topic};
use skep_protocol::info::{GaveUp, PausedReason, RestartInfo};
use skep_protocol::{AgentState, Digest, Limits, Outcome, Receipt, codec};
use skep_transport::Publisher;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Step;
use super::clocks::{Clocks, Runs};
use super::handle::{Agent, Answer, Command, Declined, Status};
use super::outcome::{Intent, decide};
use crate::clock;
use crate::log::Written;
use crate::registry::StateCounts;
use crate::runner::{Able, Asked, End, Guest, GuestEvent, Launch, Pipes, Progress, Runner, Stand};
use crate::store::Change;

/// Reports of progress are published this often at most; the newest counts.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What an agent that is out of fuel gets when it is asked to stop: about half
/// a second.
const FUEL_TO_STOP: u64 = 1_000_000_000;

/// After a kill, a runner has this long to report the end. Its contract is
/// 100 ms; what takes longer than this is a bug and ends as `host_fault`.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

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

/// Everything that a driver owns.
pub struct Driver {
    pub publication: Arc<Publication>,
    pub commands: mpsc::Receiver<Command>,
    /// Set when the host shuts down: agents are asked to stop.
    pub shutdown: CancellationToken,
    /// How long they then have.
    pub shutdown_grace: Duration,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("agent", &self.publication.agent.id)
            .finish_non_exhaustive()
    }
}

/// What takes down the output of a run.
#[derive(Debug)]
pub struct Recording {
    /// The task that records the output; it ends once the guest has.
    pub recorder: JoinHandle<Written>,
    /// Tells the recorder that the guest has ended or is being killed, so that
    /// its rate counts no longer.
    pub unthrottle: CancellationToken,
}

/// How a run went.
#[derive(Debug)]
pub struct RunEnd {
    pub ending: Ending,
    /// Whether a client or the host had asked it to end.
    pub asked: bool,
}

/// What is wanted of the guest, and until when.
struct Wish {
    intent: Intent,
    /// When a stop becomes a kill, or a kill a fault.
    until: Option<Instant>,
    clocks: Clocks,
    /// Whether it got its fuel to stop with.
    spared: bool,
    /// Who waits until the guest stands still: as many as the host serves
    /// requests at a time, at most.
    pausing: Vec<Answer>,
    /// Whether a client or the host asked it to end, also where its time was over
    /// before or after that.
    asked: bool,
    unthrottle: CancellationToken,
}

impl Wish {
    fn want(&mut self, intent: Intent, until: Instant) {
        self.intent = intent;
        self.until = Some(until);
    }

    fn answer_pausing(&mut self, answer: &Result<(), Declined>) {
        for pausing in self.pausing.drain(..) {
            // Whoever asked may have gone.
            let _ = pausing.send(answer.clone());
        }
    }
}

impl Driver {
    /// Runs the agent once, until nothing of its guest is left and the last record
    /// of this run can be read. The end is published by who owns what the agent
    /// held.
    pub async fn run(
        &mut self,
        runner: &dyn Runner,
        launch: Launch,
        pipes: Pipes,
        recording: Recording,
    ) -> RunEnd {
        let publication = Arc::clone(&self.publication);
        let agent = &publication.agent;
        let Recording {
            recorder,
            unthrottle,
        } = recording;
        let mut wish = Wish {
            intent: Intent::Run,
            until: None,
            clocks: Clocks::new(&agent.limits, Instant::now()),
            spared: false,
            pausing: Vec::new(),
            asked: false,
            unthrottle,
        };
        let guest = runner.start(launch, pipes);
        agent.meter.runs_under(Arc::clone(&guest.control));

        let end = self.attend(guest, &mut wish).await;
        wish.unthrottle.cancel();
        let ending = match recorder.await {
            Ok(written) => Ending {
                outcome: decide(wish.intent, end, &publication.limits()),
                written: Some(written),
            },
            Err(error) => {
                tracing::error!(agent = %agent.id, %error, "the recorder of an agent ended early");
                Ending::unrecorded(crate::incident("a recorder panicked"))
            }
        };
        RunEnd {
            ending,
            asked: wish.asked,
        }
    }

    /// Selects over guest events first, then what time and clients want of it.
    async fn attend(&mut self, mut guest: Guest, wish: &mut Wish) -> End {
        let mut shutting_down = false;
        let mut progress_at = Instant::now();
        loop {
            let until = wish.until;
            let due = wish.clocks.due();
            let patience = async {
                match until {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let next_progress = async {
                sleep_until(progress_at).await;
                if guest.progress.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                event = guest.events.recv() => match event {
                    Some(GuestEvent::Running) => {
                        self.publication.step(Step::Run);
                    }
                    Some(GuestEvent::Ended(end)) => {
                        self.publication.publish_progress(&mut guest.progress);
                        return end;
                    }
                    None => {
                        let incident = crate::incident("a runner lost its guest");
                        return End::Fault { incident };
                    }
                },
                Ok(()) = guest.stand.changed() => {
                    let stand = *guest.stand.borrow_and_update();
                    self.stands(wish, stand);
                    spare(&guest, wish, stand);
                }
                command = self.commands.recv() => match command {
                    Some(Command::Pause(answer)) => self.pause(&guest, wish, answer),
                    Some(Command::Resume(answer)) => {
                        let _ = answer.send(self.resume(&guest, wish));
                    }
                    Some(Command::Refuel { fuel, ceiling, answer }) => {
                        let _ = answer.send(self.refuel(&guest, wish, fuel, ceiling));
                    }
                    Some(Command::Stop { grace }) => self.stop(&guest, wish, grace),
                    Some(Command::Kill) => {
                        wish.asked = true;
                        self.kill(&guest, wish, Intent::Kill);
                    }
                    // Every handle is gone: the host forgot a running agent.
                    None => {
                        guest.control.kill();
                        let incident = crate::incident("a running agent was forgotten");
                        return End::Fault { incident };
                    }
                },
                () = self.shutdown.cancelled(), if !shutting_down => {
                    shutting_down = true;
                    self.stop(&guest, wish, self.shutdown_grace);
                }
                () = sleep_until(due), if matches!(wish.intent, Intent::Run | Intent::Stop) => {
                    let intent = match wish.clocks.runs() {
                        Runs::Wall => Intent::Deadline,
                        Runs::Paused => Intent::PausedTooLong,
                    };
                    self.kill(&guest, wish, intent);
                }
                () = patience => match wish.intent {
                    Intent::Run | Intent::Stop => self.kill(&guest, wish, Intent::StopByForce),
                    Intent::StopByForce
                    | Intent::Kill
                    | Intent::Deadline
                    | Intent::PausedTooLong => {
                        let incident = crate::incident("a killed guest did not end");
                        return End::Fault { incident };
                    }
                },
                () = next_progress => {
                    progress_at = Instant::now() + PROGRESS_EVERY;
                    self.publication.publish_progress(&mut guest.progress);
                }
            }
        }
    }

    /// The guest has begun to stand still, or to go on.
    fn stands(&self, wish: &mut Wish, stand: Stand) {
        let publication = &self.publication;
        if wish.intent != Intent::Run {
            return;
        }
        let now = Instant::now();
        match stand {
            Stand::Held(reason) => {
                wish.clocks.let_run(Runs::Paused, now);
                publication.hold(reason);
                wish.answer_pausing(&Ok(()));
            }
            Stand::Goes => {
                wish.clocks.let_run(Runs::Wall, now);
                publication.go_on();
            }
        }
    }

    fn pause(&self, guest: &Guest, wish: &mut Wish, answer: Answer) {
        let state = self.publication.state();
        let refused = match wish.intent {
            Intent::Run if state == AgentState::Paused => Ok(()),
            Intent::Run => match guest.control.pause() {
                Able::Yes => return wish.pausing.push(answer),
                Able::No => Err(Declined::Unable("pause")),
            },
            _ => Err(ending(state)),
        };
        let _ = answer.send(refused);
    }

    fn resume(&self, guest: &Guest, wish: &mut Wish) -> Result<(), Declined> {
        let state = self.publication.state();
        if wish.intent != Intent::Run {
            return Err(ending(state));
        }
        let stand = *guest.stand.borrow();
        if stand == Stand::Held(PausedReason::OutOfFuel) {
            return Err(Declined::WrongState {
                state,
                message: "it is out of fuel: give it some with agent.refuel",
            });
        }
        guest.control.resume();
        self.stands(wish, Stand::Goes);
        // Whoever paused it in this very moment had it paused for no time.
        wish.answer_pausing(&Ok(()));
        Ok(())
    }

    fn refuel(
        &self,
        guest: &Guest,
        wish: &mut Wish,
        fuel: u64,
        ceiling: u64,
    ) -> Result<(), Declined> {
        if !matches!(wish.intent, Intent::Run | Intent::Stop) {
            return Err(ending(self.publication.state()));
        }
        let limit = self.publication.limits().fuel;
        let asked = limit.saturating_add(fuel);
        if asked > ceiling {
            return Err(Declined::OverCeiling { asked, ceiling });
        }
        match guest.control.refuel(fuel) {
            Able::Yes => {
                self.publication.refuelled(asked);
                let stand = *guest.stand.borrow();
                self.stands(wish, stand);
                Ok(())
            }
            Able::No => Err(Declined::Unable("fuel")),
        }
    }

    /// Lets a guest that is paused run for its grace. One that is out of fuel
    /// gets a little, once, or it could not even see that it should stop.
    fn stop(&mut self, guest: &Guest, wish: &mut Wish, grace: Duration) {
        let until = Instant::now() + grace;
        wish.asked = true;
        match wish.intent {
            Intent::Run => {
                self.publication.step(Step::Stop);
                wish.answer_pausing(&Err(ending(AgentState::Stopping)));
                wish.clocks.let_run(Runs::Wall, Instant::now());
                match guest.control.ask_stop() {
                    Asked::Yes => {
                        wish.want(Intent::Stop, until);
                        let stand = *guest.stand.borrow();
                        guest.control.resume();
                        spare(guest, wish, stand);
                    }
                    Asked::Deaf => self.kill(guest, wish, Intent::StopByForce),
                }
            }
            // A second stop may shorten the grace, never lengthen it.
            Intent::Stop => wish.until = Some(wish.until.map_or(until, |before| before.min(until))),
            Intent::StopByForce | Intent::Kill | Intent::Deadline | Intent::PausedTooLong => {}
        }
    }

    fn kill(&self, guest: &Guest, wish: &mut Wish, intent: Intent) {
        match wish.intent {
            Intent::Run | Intent::Stop => {
                // What it wrote before is recorded without regard to its rate,
                // or the end of a fast writer would be lost.
                wish.unthrottle.cancel();
                guest.control.kill();
                wish.want(intent, Instant::now() + KILL_PATIENCE);
            }
            // It is being ended already, and for a reason that came first.
            Intent::StopByForce | Intent::Kill | Intent::Deadline | Intent::PausedTooLong => {}
        }
    }
}

/// Gives a guest that is to stop a little fuel, once, if it is out of it.
fn spare(guest: &Guest, wish: &mut Wish, stand: Stand) {
    let out = stand == Stand::Held(PausedReason::OutOfFuel);
    if out && wish.intent == Intent::Stop && !wish.spared {
        wish.spared = true;
        // Only a runner that counts fuel is ever out of it.
        let _ = guest.control.refuel(FUEL_TO_STOP);
    }
}

/// Why something cannot be done with an agent that is being ended.
const fn ending(state: AgentState) -> Declined {
    Declined::WrongState {
        state,
        message: "it is being ended",
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
    pub(super) fn run_ended(&self, restart: RestartInfo) {
        self.agent.meter.end();
        let again = restart.next_run_ms.is_some();
        self.status.send_modify(|status| {
            status.restart = Some(restart);
            if again {
                status.begun = false;
                status.fuel = self.agent.limits.fuel;
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
    fn limits(&self) -> Limits {
        Limits {
            fuel: self.status.borrow().fuel,
            ..self.agent.limits
        }
    }

    fn refuelled(&self, limit: u64) {
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

    fn publish_progress(&self, progress: &mut watch::Receiver<Option<Progress>>) {
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
        publish(&self.publisher, &Topic::Progress(self.agent.id), &event);
    }
}

/// Publishes an event, or counts that it could not be.
pub(crate) fn publish<E: serde::Serialize>(publisher: &Publisher, topic: &Topic, event: &E) {
    match codec::encode(event) {
        Ok(payload) => {
            publisher.try_publish(topic.to_string(), payload);
        }
        Err(error) => tracing::error!(%error, %topic, "an event was not published"),
    }
}
