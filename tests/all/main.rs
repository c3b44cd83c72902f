//! Clients against real hosts with real guests, as people use them: over
//! sockets, through the library, the command and the bare protocol.
//!
//! Nothing sleeps to wait: states, records and sequence numbers are awaited,
//! each with a deadline of more than ten times what it should take.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod attach;
mod audit;
mod check;
mod churn;
mod cli;
mod comeback;
mod command;
mod compiling;
mod disk;
mod documents;
mod events;
mod fields;
mod files;
mod files_out;
mod fuzz;
mod hanging;
mod hostile;
mod kept;
mod killed;
mod left;
mod logs;
mod native;
mod outcomes;
mod pausing;
mod protocol;
mod queue;
mod reading;
mod receipts;
mod refused;
mod registry;
mod remote;
mod repeated;
mod restart;
mod retention;
mod soak;
mod spawn;
mod stdin;
mod store;
mod streams;
mod subscribers;
mod supervision;
mod unheard;
mod unsaved;
mod watching;

use std::time::Duration;

use skep_client::protocol::op::HealthCode;
use skep_client::protocol::{AgentId, AgentInfo, AgentState};
use skep_client::{Client, ClientError};
use skep_protocol::{ErrorCode, WireError};
use skep_tests::{eventually, raw, soon};

/// What Skep promises to do within 100 ms, with the factor that a test on a
/// busy machine is given.
const PROMPTLY: Duration = Duration::from_secs(1);

/// The refusal that a call ended with.
fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> WireError {
    match result {
        Err(ClientError::Refused(refusal)) => *refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Asserts that a call was refused with this code.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, code: ErrorCode) {
    let refusal = refusal(result);
    assert_eq!(refusal.code, code, "{refusal}");
}

/// Waits until an agent runs.
async fn running(client: &Client, agent: AgentId) -> AgentInfo {
    eventually("an agent that runs", || async {
        let info = client.get(agent).await.unwrap();
        assert_eq!(info.outcome, None, "it has ended instead of running");
        (info.state == AgentState::Running).then_some(info)
    })
    .await
}

/// Waits until an agent has ended.
async fn ended(client: &Client, agent: AgentId) -> AgentInfo {
    soon("the end of an agent", client.wait(agent, None))
        .await
        .unwrap()
}

/// Waits until a host is about to end.
async fn shuts_down(client: &Client) {
    eventually("a host that shuts down", || async {
        let reasons = client.health().await.unwrap().reasons;
        let mut codes = reasons.iter().map(|reason| reason.code);
        codes
            .any(|code| code == HealthCode::ShuttingDown)
            .then_some(())
    })
    .await;
}

/// Waits until an agent has written so many records.
async fn written(client: &Client, agent: AgentId, records: u64) {
    eventually("records of an agent", || async {
        (client.get(agent).await.unwrap().next_seq >= records).then_some(())
    })
    .await;
}

/// Waits until no agent of a host is there that has not ended.
async fn quiet(client: &Client) {
    eventually("a host without agents", || async {
        let agents = client.health().await.unwrap().agents;
        let live =
            agents.queued + agents.starting + agents.running + agents.paused + agents.stopping;
        (live == 0).then_some(())
    })
    .await;
}
