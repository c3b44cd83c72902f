//! `agent.pause`, `agent.resume`, `agent.refuel`, `agent.stop`, `agent.kill`,
//! `agent.wait`, `agent.stdin`.

use std::time::Duration;

use skep_protocol::info::StdinKind;
use skep_protocol::op::{
    AgentRefuel, AgentReply, AgentStdin, AgentStop, AgentWait, StdinReply, WaitReply,
};
use skep_protocol::{AgentId, AgentState};

use super::Error;
use super::agents::find;
use crate::agent::handle::{Answer, Command, Handle};
use crate::agent::outcome::DEFAULT_GRACE;
use crate::core::Core;

/// The longest time that a request may name, in milliseconds: an hour.
const MAX_WAIT_MS: u64 = 3_600_000;

pub(super) fn duration(field: &'static str, ms: u64) -> Result<Duration, Error> {
    if ms > MAX_WAIT_MS {
        let message = format!("{ms} ms is more than {MAX_WAIT_MS}: ask again when that is over");
        return Err(Error::Invalid { field, message });
    }
    Ok(Duration::from_millis(ms))
}

async fn ask(
    core: &Core,
    agent: AgentId,
    command: impl FnOnce(Answer) -> Command,
) -> Result<AgentReply, Error> {
    let handle = find(core, agent).await?;
    if let Err(declined) = handle.ask(command).await {
        refuse_left(&handle).await?;
        return Err(declined.into());
    }
    Ok(AgentReply {
        agent: handle.info(),
    })
}

/// An agent that is left to the next host takes nothing from anyone.
async fn refuse_left(handle: &Handle) -> Result<(), Error> {
    if handle.is_attended() {
        return Ok(());
    }
    handle.over().await;
    match handle.has_ended() {
        true => Ok(()),
        false => Err(Error::LeftBehind),
    }
}

/// Answers when the agent stands still.
pub async fn pause(core: &Core, agent: AgentId) -> Result<AgentReply, Error> {
    ask(core, agent, Command::Pause).await
}

pub async fn resume(core: &Core, agent: AgentId) -> Result<AgentReply, Error> {
    ask(core, agent, Command::Resume).await
}

pub async fn refuel(core: &Core, body: &AgentRefuel) -> Result<AgentReply, Error> {
    let fuel = body.fuel;
    if fuel == 0 {
        let message = "must be at least 1".to_owned();
        return Err(Error::Invalid {
            field: "fuel",
            message,
        });
    }
    let ceiling = core.rules.ceilings.fuel;
    ask(core, body.agent, |answer| Command::Refuel {
        fuel,
        ceiling,
        answer,
    })
    .await
}

/// Answers when the agent has ended.
pub async fn stop(core: &Core, body: &AgentStop) -> Result<AgentReply, Error> {
    let handle = find(core, body.agent).await?;
    let grace = body
        .grace_ms
        .map_or(Ok(DEFAULT_GRACE), |ms| duration("grace_ms", ms))?;
    handle.send(Command::Stop { grace }).await;
    ended(&handle).await
}

/// Answers when the agent has ended.
pub async fn kill(core: &Core, agent: AgentId) -> Result<AgentReply, Error> {
    let handle = find(core, agent).await?;
    handle.send(Command::Kill).await;
    ended(&handle).await
}

/// Waits for the end; or tells that the agent is left to the next host.
async fn ended(handle: &Handle) -> Result<AgentReply, Error> {
    handle.over().await;
    let agent = handle.info();
    match agent.state {
        AgentState::Exited => Ok(AgentReply { agent }),
        _ => Err(Error::LeftBehind),
    }
}

pub async fn wait(core: &Core, body: &AgentWait) -> Result<WaitReply, Error> {
    let handle = find(core, body.agent).await?;
    let timeout = duration("timeout_ms", body.timeout_ms)?;
    let (agent, timed_out) = match tokio::time::timeout(timeout, ended(&handle)).await {
        Ok(ended) => (ended?.agent, false),
        Err(_elapsed) => (handle.info(), true),
    };
    Ok(WaitReply { agent, timed_out })
}

pub async fn stdin(core: &Core, body: &AgentStdin) -> Result<StdinReply, Error> {
    let handle = find(core, body.agent).await?;
    let data = body.data.as_deref().map_or(&[][..], Vec::as_slice);
    let Some(stdin) = &handle.stdin else {
        return match handle.spec.stdin {
            // What is closed may be closed again.
            StdinKind::Closed if data.is_empty() => Ok(StdinReply { accepted: 0 }),
            // It ended under a host before.
            StdinKind::Open => Err(gone(&handle)),
            StdinKind::Closed | StdinKind::Data => Err(Error::WrongState {
                state: handle.state(),
                message: "it was spawned without an open stdin: spawn it with stdin: \"open\"",
            }),
        };
    };
    if handle.has_ended() {
        return Err(gone(&handle));
    }
    refuse_left(&handle).await?;
    // Ten thousand agents that wait might be given a full queue each.
    if handle.state() == AgentState::Queued && !data.is_empty() {
        return Ok(StdinReply { accepted: 0 });
    }
    if stdin.is_closed() && !data.is_empty() {
        return Err(Error::WrongState {
            state: handle.state(),
            message: "its stdin was closed before",
        });
    }
    let accepted = stdin.offer(data);
    if body.close && accepted == data.len() {
        stdin.close();
    }
    Ok(StdinReply {
        accepted: accepted as u64,
    })
}

fn gone(handle: &Handle) -> Error {
    Error::WrongState {
        state: handle.state(),
        message: "its stdin is gone with it",
    }
}
