//! `skep ps`: agents, as a table.

use std::io::IsTerminal;

use skep_client::AgentFilter;
use skep_client::protocol::{AgentInfo, AgentState, Outcome as AgentOutcome};

use super::args::PsArgs;
use super::failure::Failure;
use super::{Context, Outcome, board, events, print, queue, restarts, text};

pub(super) async fn ps(context: &Context, args: &PsArgs) -> Outcome {
    if args.watch && context.json {
        return match args {
            PsArgs {
                all: false,
                name: None,
                label,
                ..
            } if label.is_empty() => events::tell(context, &[]).await,
            _ => Err(Failure::of_skep(
                "--watch --json prints the changes of all agents and knows no filters: leave them \
                 out, or name agents to `skep events`",
            )),
        };
    }
    if args.watch && !std::io::stdout().is_terminal() {
        return Err(Failure::of_skep(
            "--watch draws on a terminal, and stdout is none: use `skep events`",
        ));
    }
    let client = context.client().await?;
    let alive = AgentState::ALL
        .into_iter()
        .filter(|state| *state != AgentState::Exited);
    let filter = AgentFilter {
        states: (!args.all).then(|| alive.collect()),
        name: args.name.clone(),
        labels: args.label.iter().cloned().collect(),
    };
    if args.watch {
        return board::show(&client, &filter, args.all).await;
    }
    let mut agents = client.list_all(&filter).await?;
    agents.sort_by_key(|agent| agent.created_ms);
    if context.json {
        return print::json(&agents);
    }
    let mut table = print::table(["ID", "NAME", "STATE", "AGE", "FUEL", "MEMORY", "OUTPUT"]);
    let now = text::now_ms();
    for agent in &agents {
        table.add_row(row(agent, now));
    }
    print::print_table(table)
}

pub(super) fn row(agent: &AgentInfo, now_ms: u64) -> [String; 7] {
    let AgentInfo { usage, .. } = agent;
    let state = match &agent.outcome {
        Some(outcome) => match outcome {
            AgentOutcome::Exited { code } => format!("exited {code}"),
            other => other.kind().to_owned(),
        },
        None => match &agent.queue {
            Some(queue) => format!("queued, {}", queue::place(queue)),
            None => text::state(agent),
        },
    };
    let state = match restarts::so_far(agent, now_ms) {
        Some(restarts) => format!("{state}, {restarts}"),
        None => state,
    };
    // The beginning of an id is enough for people, and for other commands.
    let id: String = agent.id.to_string().chars().take(8).collect();
    let output = usage.stdout_bytes.saturating_add(usage.stderr_bytes);
    [
        id,
        agent.name.to_string(),
        state,
        text::age(agent.created_ms, now_ms),
        text::count(usage.fuel_used),
        text::size(usage.memory_bytes),
        text::size(output),
    ]
}
