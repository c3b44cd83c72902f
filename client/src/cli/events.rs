//! `skep events`: each change of state, a line each.

use std::collections::HashMap;

use skep_client::protocol::event::StatusEvent;
use skep_client::protocol::{AgentId, AgentState};
use skep_client::{Client, WatchEvent};

use super::args::EventsArgs;
use super::away::Away;
use super::{Context, Outcome, agent, ending, print, sink, text};

/// How many names are remembered; then they are asked for again.
const MAX_NAMES: usize = 10_000;

pub(super) async fn events(context: &Context, args: &EventsArgs) -> Outcome {
    tell(context, &args.agents).await
}

/// Tells the states of these agents, or of all, until all of them have ended.
pub(super) async fn tell(context: &Context, agents: &[String]) -> Outcome {
    let client = context.client().await?;
    let mut watch = if agents.is_empty() {
        client.watch_all().await?
    } else {
        let mut found = Vec::new();
        for text in agents {
            found.push(agent::find(&client, text).await?);
        }
        client.watch_some(found).await?
    };
    let mut names = HashMap::new();
    let mut away = Away::new(&client);
    loop {
        let event = tokio::select! {
            event = watch.next() => event?,
            told = away.next() => {
                print::tell(told);
                continue;
            }
        };
        match event {
            None => return Ok(0),
            Some(WatchEvent::Progress(_)) => {}
            Some(WatchEvent::Status(status)) if context.json => {
                print::json_line(&sink::to_json("status", &status))?;
            }
            Some(WatchEvent::Gone(agent)) if context.json => {
                print::json_line(&serde_json::json!({"kind": "gone", "agent": agent}))?;
            }
            Some(WatchEvent::Status(status)) => {
                let name = name(&client, status.agent, &mut names).await;
                let time = text::time(status.time_ms);
                print::line(&format!(
                    "{time} {} {name} {}",
                    status.agent,
                    state(&status)
                ))?;
            }
            Some(WatchEvent::Gone(agent)) => {
                let time = text::time(text::now_ms());
                let name = name(&client, agent, &mut names).await;
                print::line(&format!("{time} {agent} {name} is not known to the host"))?;
            }
        }
    }
}

fn state(status: &StatusEvent) -> String {
    match (&status.outcome, status.state) {
        (Some(outcome), AgentState::Exited) => ending::told(outcome),
        _ => status.state.to_string(),
    }
}

/// The agent's name, `-` where it cannot be learned.
async fn name(client: &Client, agent: AgentId, names: &mut HashMap<AgentId, String>) -> String {
    if let Some(name) = names.get(&agent) {
        return name.clone();
    }
    let Ok(info) = client.get(agent).await else {
        return "-".to_owned();
    };
    if names.len() >= MAX_NAMES {
        names.clear();
    }
    let name = info.name.to_string();
    names.insert(agent, name.clone());
    name
}
