//! An agent before its guest is started: while it waits for its turn, and while
//! what it needs is made. It holds nothing that would take long to give back, so
//! that whoever ends it ends it at once. When the host ends, `at_shutdown` says
//! what becomes of it.

use skep_protocol::{AgentId, AgentState, Outcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handle::{Command, Declined};
use super::publication::Ending;
use super::runs::Over;
use super::slots::{Slot, Turn};
use crate::inputs::{self, Input};
use crate::scratch::{Root, Scratch};

/// Waits for the turn; or, if that is over before, tells how.
pub async fn turn(
    mut turn: Turn,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
    at_shutdown: impl Fn() -> Over,
) -> Result<Slot, Over> {
    let declined = || Declined::WrongState {
        state: AgentState::Queued,
        message: "it waits for its turn, and nothing of it runs yet",
    };
    until(turn.come(), declined, commands, shutdown, at_shutdown).await
}

/// Writes the agent's inputs to the disk; or, if that is over before, tells how.
pub async fn lay_inputs(
    root: Root,
    agent: AgentId,
    inputs: Vec<Input>,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
    at_shutdown: impl Fn() -> Over,
) -> Result<Option<Scratch>, Over> {
    if inputs.is_empty() {
        return Ok(None);
    }
    let unwanted = CancellationToken::new();
    let laying = tokio::task::spawn_blocking({
        let unwanted = unwanted.clone();
        move || inputs::lay(root.ready()?, agent, &inputs, &unwanted)
    });
    tokio::pin!(laying);
    let declined = || Declined::WrongState {
        state: AgentState::Starting,
        message: "its inputs are being written, and nothing of it runs yet",
    };
    let laid = until(laying.as_mut(), declined, commands, shutdown, at_shutdown);
    match laid.await {
        Ok(Ok(Ok(dir))) => Ok(Some(dir)),
        Ok(Ok(Err(error))) => {
            tracing::error!(%error, %agent, "the inputs of an agent were not written");
            Err(ended(error.outcome()))
        }
        Ok(Err(_panicked)) => Err(ended(Outcome::HostFault {
            incident: crate::incident("the inputs of an agent were not written"),
        })),
        Err(over) => {
            // What was written is gone before the end is told.
            unwanted.cancel();
            let laid = laying.await;
            let _ = tokio::task::spawn_blocking(move || drop(laid)).await;
            Err(over)
        }
    }
}

/// Waits for something, and meanwhile does as the agent is told.
async fn until<T>(
    ready: impl Future<Output = T>,
    declined: impl Fn() -> Declined,
    commands: &mut mpsc::Receiver<Command>,
    shutdown: &CancellationToken,
    at_shutdown: impl Fn() -> Over,
) -> Result<T, Over> {
    tokio::pin!(ready);
    loop {
        // Who is to end must not start first: what is waited for comes last.
        let command = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(at_shutdown()),
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
            Some(Command::Stop { .. }) => return Err(ended(Outcome::Stopped { forced: false })),
            Some(Command::Kill) => return Err(ended(Outcome::Killed)),
            None => {
                let incident = crate::incident("a waiting agent was forgotten");
                return Err(ended(Outcome::HostFault { incident }));
            }
        }
    }
}

fn ended(outcome: Outcome) -> Over {
    Over::Ended(Ending::before_start(outcome))
}
