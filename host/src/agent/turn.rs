//! An agent before its guest is started: while it waits for its turn, and while
//! what it needs is made. It holds nothing that would take long to give back, so
//! that whoever ends it ends it at once.

use std::path::PathBuf;

use skep_protocol::{AgentId, AgentState, Outcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handle::{Command, Declined};
use super::slots::{Slot, Turn};
use crate::inputs::{self, Input};
use crate::scratch::Scratch;

/// Waits for the turn; or, if the agent is to end before, tells how it did.
pub async fn turn(
    mut turn: Turn,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
) -> Result<Slot, Outcome> {
    let declined = || Declined::WrongState {
        state: AgentState::Queued,
        message: "it waits for its turn, and nothing of it runs yet",
    };
    until(turn.come(), declined, commands, shutdown).await
}

/// Writes the agent's inputs to the disk; or, if the agent is to end before,
/// tells how it did.
pub async fn lay_inputs(
    root: PathBuf,
    agent: AgentId,
    inputs: Vec<Input>,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
) -> Result<Option<Scratch>, Outcome> {
    if inputs.is_empty() {
        return Ok(None);
    }
    let unwanted = CancellationToken::new();
    let laying = tokio::task::spawn_blocking({
        let unwanted = unwanted.clone();
        move || inputs::lay(&root, agent, &inputs, &unwanted)
    });
    tokio::pin!(laying);
    let declined = || Declined::WrongState {
        state: AgentState::Starting,
        message: "its inputs are being written, and nothing of it runs yet",
    };
    match until(laying.as_mut(), declined, commands, shutdown).await {
        Ok(Ok(Ok(dir))) => Ok(Some(dir)),
        Ok(Ok(Err(error))) => {
            tracing::error!(%error, %agent, "the inputs of an agent were not written");
            Err(error.outcome())
        }
        Ok(Err(_panicked)) => Err(Outcome::HostFault {
            incident: crate::incident("the inputs of an agent were not written"),
        }),
        Err(outcome) => {
            // What was written is gone before the end is told.
            unwanted.cancel();
            let _ = laying.await;
            Err(outcome)
        }
    }
}

/// Waits for something, and meanwhile does as the agent is told.
async fn until<T>(
    ready: impl Future<Output = T>,
    declined: impl Fn() -> Declined,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
) -> Result<T, Outcome> {
    tokio::pin!(ready);
    loop {
        // Who is to end must not start first: what is waited for comes last.
        let command = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(Outcome::Stopped { forced: false }),
            command = commands.recv() => command,
            done = ready.as_mut() => return Ok(done),
        };
        match command {
            Some(
                Command::Pause(answer) | Command::Resume(answer) | Command::Refuel { answer, .. },
            ) => {
                // Whoever asked may have gone.
                let _ = answer.send(Err(declined()));
            }
            Some(Command::Stop { .. }) => return Err(Outcome::Stopped { forced: false }),
            Some(Command::Kill) => return Err(Outcome::Killed),
            None => {
                let incident = crate::incident("a waiting agent was forgotten");
                return Err(Outcome::HostFault { incident });
            }
        }
    }
}
