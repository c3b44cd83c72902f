//! `skep health`, `skep drain` and `skep stats`.

use std::time::Duration;

use serde_json::json;
use skep_client::protocol::op::Stats;
use skep_client::{ClientError, RequestError};

use super::args::DrainArgs;
use super::failure::Failure;
use super::{Context, Outcome, exit, print, text};

/// `skep health`
pub(super) async fn health(context: &Context) -> Outcome {
    let client = context.client().await?;
    let health = client.health().await?;
    if context.json {
        print::json(&health)?;
    } else {
        let agents = &health.agents;
        let mut line = format!(
            "{}, up for {}; agents: {} queued, {} starting, {} running, {} paused, {} stopping",
            if health.healthy {
                "healthy"
            } else {
                "not healthy"
            },
            text::duration(Duration::from_millis(health.uptime_ms)),
            agents.queued,
            agents.starting,
            agents.running,
            agents.paused,
            agents.stopping,
        );
        for reason in &health.reasons {
            line.push_str("\n  ");
            line.push_str(&text::clean(&reason.message));
        }
        print::line(&line)?;
    }
    Ok(if health.healthy { 0 } else { exit::NO })
}

/// `skep drain`
pub(super) async fn drain(context: &Context, args: &DrainArgs) -> Outcome {
    let client = context.client().await?;
    let remaining = client.drain(args.timeout).await.map_err(gone)?;
    if context.json {
        print::json(&json!({"remaining": remaining}))?;
    } else if remaining == 0 {
        print::line("all agents have ended")?;
    } else {
        let remaining = text::count(remaining);
        print::line(&format!(
            "{remaining} agents have not ended: wait on, or end the host"
        ))?;
    }
    Ok(if remaining == 0 { 0 } else { exit::NO })
}

fn gone(error: ClientError) -> Failure {
    match error {
        ClientError::Connection(RequestError::Lost) => Failure::of_skep(
            "the host went away before all agents had ended, and one that comes after it is not \
             drained: if only the connection was lost, drain it again",
        ),
        error => error.into(),
    }
}

/// `skep stats`
pub(super) async fn stats(context: &Context) -> Outcome {
    let client = context.client().await?;
    let stats = client.stats().await?;
    if context.json {
        return print::json(&stats);
    }
    let mut table = print::table(["COUNTER", "VALUE"]);
    for (name, value) in rows(&stats) {
        table.add_row([name, text::count(value)]);
    }
    print::print_table(table)
}

fn rows(stats: &Stats) -> Vec<(String, u64)> {
    let wire = &stats.transport;
    let mut rows: Vec<(String, u64)> = [
        ("agents spawned", stats.spawns),
        ("log records", stats.records),
        ("components compiled", stats.compile_misses),
        ("components found compiled", stats.compile_hits),
        ("messages in", wire.messages_in),
        ("messages out", wire.messages_out),
        ("bytes in", wire.bytes_in),
        ("bytes out", wire.bytes_out),
        ("events", wire.events),
        ("events dropped", wire.events_dropped),
        ("peers cut", wire.peers_cut),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let outcomes = stats.outcomes.iter();
    rows.extend(outcomes.map(|(kind, count)| (format!("outcome {}", text::clean(kind)), *count)));
    for (op, results) in &stats.requests {
        let name = |result: &String| format!("request {} {}", text::clean(op), text::clean(result));
        rows.extend(results.iter().map(|(result, count)| (name(result), *count)));
    }
    rows
}
