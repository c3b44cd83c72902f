//! An agent between two of its runs. Nothing of it runs; whoever ends it ends it
//! at once.

use skep_protocol::info::PausedReason;
use skep_protocol::{AgentState, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clocks::{self, Clocks};
use super::handle::{Command, Declined};
use super::publication::Publication;

/// How the wait for the next run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// It is time.
    Run,
    /// The host starts no more runs.
    NoMore,
    /// It ended meanwhile, and so.
    Ended(Outcome),
}

/// Waits until it is time for the next run. An agent that is paused meanwhile
/// waits until it is resumed, within its limit `paused_ms`.
pub(super) async fn between(
    until: Instant,
    publication: &Publication,
    commands: &mut mpsc::Receiver<Command>,
    no_more_runs: &CancellationToken,
) -> Between {
    let limits = &publication.agent.limits;
    let mut clocks = Clocks::new(limits, Instant::now());
    loop {
        let paused = clocks.runs() == clocks::Runs::Paused;
        let due = if paused { clocks.due() } else { until };
        // Who is to end must not run first: the time comes last.
        let command = tokio::select! {
            biased;
            () = no_more_runs.cancelled() => return Between::NoMore,
            command = commands.recv() => command,
            () = sleep_until(due) => return match paused {
                true => Between::Ended(Outcome::Deadline { limit_ms: limits.paused_ms }),
                false => Between::Run,
            },
        };
        // Whoever asked may have gone.
        match command {
            Some(Command::Pause(answer)) => {
                if !paused {
                    clocks.let_run(clocks::Runs::Paused, Instant::now());
                    publication.hold(PausedReason::Asked);
                }
                let _ = answer.send(Ok(()));
            }
            Some(Command::Resume(answer)) => {
                if paused {
                    clocks.let_run(clocks::Runs::Wall, Instant::now());
                    publication.go_on();
                }
                let _ = answer.send(Ok(()));
            }
            Some(Command::Refuel { answer, .. }) => {
                let _ = answer.send(Err(Declined::WrongState {
                    state: AgentState::Starting,
                    message: "it waits for its next run, which gets its fuel anew",
                }));
            }
            Some(Command::Stop { .. }) => {
                return Between::Ended(Outcome::Stopped { forced: false });
            }
            Some(Command::Kill) => return Between::Ended(Outcome::Killed),
            None => {
                let incident = crate::incident("an agent was forgotten between its runs");
                return Between::Ended(Outcome::HostFault { incident });
            }
        }
    }
}
