//! One run of an agent, from its start to its outcome: the only writer of its
//! state meanwhile. Whatever happens, it ends with an
//! [`Outcome`](skep_protocol::Outcome): a failed agent is a result.

use std::sync::Arc;
use std::time::Duration;

use skep_protocol::AgentState;
use skep_protocol::info::PausedReason;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Step;
use super::clocks::{Clocks, Runs};
use super::handle::{Answer, Command, Declined};
use super::outcome::{Intent, decide};
use super::publication::{Ending, Publication};
use crate::log::Written;
use crate::runner::{Able, Asked, End, Guest, GuestEvent, Launch, Pipes, Runner, Stand};
use crate::stdio::OutputCut;
use crate::store::Store;

/// Reports of progress are published this often at most; the newest counts.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What an agent that is out of fuel gets when it is asked to stop: about half
/// a second.
const FUEL_TO_STOP: u64 = 1_000_000_000;

/// After a kill, a runner has this long to report the end. Its contract is
/// 100 ms; what takes longer than this is a bug and ends as `host_fault`.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a driver owns.
pub struct Driver {
    pub publication: Arc<Publication>,
    pub commands: mpsc::Receiver<Command>,
    /// Set when the host shuts down: agents are asked to stop.
    pub shutdown: CancellationToken,
    /// How long they then have.
    pub shutdown_grace: Duration,
    /// Where a host that comes after finds which run it was, and whether there is to
    /// be another.
    pub store: Store,
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
    /// Ends the recorder of a guest that may never let go of its output.
    pub cut: OutputCut,
}

/// How a run went.
#[derive(Debug)]
pub struct RunEnd {
    pub ending: Ending,
    /// Who had asked it to end, if anybody had.
    pub asked_by: Option<Asker>,
}

/// Who asked a run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Client,
    /// Since it ends itself.
    Host,
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
    /// Who asked it to end, also where its time was over before or after that. A
    /// client, if both did.
    asked_by: Option<Asker>,
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
            cut,
        } = recording;
        let mut wish = Wish {
            intent: Intent::Run,
            until: None,
            clocks: Clocks::new(&agent.limits, Instant::now()),
            spared: false,
            pausing: Vec::new(),
            asked_by: None,
            unthrottle,
        };
        let guest = runner.start(launch, pipes);
        agent.meter.runs_under(Arc::clone(&guest.control));

        let end = self.attend(guest, &mut wish).await;
        wish.unthrottle.cancel();
        let end = end.unwrap_or_else(|incident| {
            // Its runner may hold its output for good, and who waits for that never
            // learns of the fault.
            cut.cut();
            End::Fault { incident }
        });
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
            asked_by: wish.asked_by,
        }
    }

    /// Selects over guest events first, then what time and clients want of it. Tells
    /// how the guest ended; or that it is given up, which is an incident.
    async fn attend(&mut self, mut guest: Guest, wish: &mut Wish) -> Result<End, String> {
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
                        if guest.progress.borrow().has_changed() {
                            self.publication.publish_progress(&mut guest.progress);
                        }
                        return Ok(end);
                    }
                    None => return Err(crate::incident("a runner lost its guest")),
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
                    Some(Command::Stop { grace }) => {
                        self.asked_to_end(wish);
                        self.stop(&guest, wish, grace);
                    }
                    Some(Command::Kill) => {
                        self.asked_to_end(wish);
                        self.kill(&guest, wish, Intent::Kill);
                    }
                    // Every handle is gone: the host forgot a running agent.
                    None => {
                        guest.control.kill();
                        return Err(crate::incident("a running agent was forgotten"));
                    }
                },
                () = self.shutdown.cancelled(), if !shutting_down => {
                    shutting_down = true;
                    wish.asked_by = wish.asked_by.or(Some(Asker::Host));
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
                        return Err(crate::incident("a killed guest did not end"));
                    }
                },
                () = next_progress => {
                    progress_at = Instant::now() + PROGRESS_EVERY;
                    self.publication.publish_progress(&mut guest.progress);
                }
            }
        }
    }

    /// Notes that a client asked the agent to end, for a host that comes after: it may
    /// have to see to that before the agent has ended. Nobody waits for the disk.
    fn asked_to_end(&self, wish: &mut Wish) {
        if wish.asked_by.replace(Asker::Client) == Some(Asker::Client) {
            return;
        }
        if let Some(change) = self.publication.asked_to_end() {
            let store = self.store.clone();
            tokio::spawn(async move { store.note(change).await });
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

#[cfg(test)]
mod tests;
