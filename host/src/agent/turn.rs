//! An agent before its turn. It holds what its spec brought and nothing else, so
//! that whoever ends it ends it at once.

use skep_protocol::{AgentState, Outcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handle::{Command, Declined};
use super::slots::{Slot, Turn};

/// Waits for the turn; or, if the agent is to end before, tells how it did.
pub async fn turn(
    mut turn: Turn,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
) -> Result<Slot, Outcome> {
    loop {
        // Who is to end must not start first: the call comes last.
        let command = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(Outcome::Stopped { forced: false }),
            command = commands.recv() => command,
            slot = turn.come() => return Ok(slot),
        };
        match command {
            Some(
                Command::Pause(answer) | Command::Resume(answer) | Command::Refuel { answer, .. },
            ) => {
                // Whoever asked may have gone.
                let _ = answer.send(Err(Declined::WrongState {
                    state: AgentState::Queued,
                    message: "it waits for its turn, and nothing of it runs yet",
                }));
            }
            Some(Command::Stop { .. }) => return Err(Outcome::Stopped { forced: false }),
            Some(Command::Kill) => return Err(Outcome::Killed),
            None => {
                let incident = crate::incident("a queued agent was forgotten");
                return Err(Outcome::HostFault { incident });
            }
        }
    }
}
