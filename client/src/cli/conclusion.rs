//! What is left to say once all output of an agent is there.

use std::time::Duration;

use skep_client::protocol::event::StatusEvent;
use skep_client::protocol::{AgentInfo, ErrorCode};
use skep_client::{Client, Follow};

use super::failure::Failure;
use super::sink::Sink;
use super::{ending, exit, restarts};

/// How long the final state may take to be told once all output is there.
const LAST_WORD: Duration = Duration::from_secs(30);
/// The same, by one that was published and is on its way.
const LAST_EVENT: Duration = Duration::from_secs(2);

/// Tells how an agent ended, all output of which was read from `log`; gives it, and
/// the exit code of a command that ends with it.
pub(super) async fn conclude(
    client: &Client,
    agent: &AgentInfo,
    log: &mut Follow,
    sink: &mut Sink,
) -> Result<(AgentInfo, u8), Failure> {
    let ended = match client.wait(agent.id, Some(LAST_WORD)).await {
        // Where others end all the time, it may be forgotten as soon as it has ended.
        Err(error) if error.code() == Some(ErrorCode::NotFound) => {
            let status = log.final_status(LAST_EVENT).await;
            as_published(agent.clone(), status.ok_or(error)?)
        }
        ended => ended?,
    };
    sink.ended(&ended)?;
    sink.flush()?;
    let Some(outcome) = &ended.outcome else {
        return Err(Failure::of_skep(
            "the agent has ended without an outcome: report this bug",
        ));
    };
    if let Some(explanation) = ending::explain(&ended, outcome) {
        sink.note(&explanation)?;
    }
    if let Some(note) = restarts::ended(&ended) {
        sink.note(&note)?;
    }
    let code = exit::of_outcome(outcome);
    Ok((ended, code))
}

/// An agent of which this is the final status.
fn as_published(agent: AgentInfo, status: StatusEvent) -> AgentInfo {
    AgentInfo {
        state: status.state,
        paused_reason: None,
        generation: status.generation,
        started_ms: (status.receipt.as_ref()).map_or(agent.started_ms, |ran| ran.started_ms),
        exited_ms: Some(status.time_ms),
        usage: status.usage,
        outcome: status.outcome,
        receipt: status.receipt.map(|receipt| *receipt),
        queue: None,
        restart: status.restart,
        next_seq: status.last_seq.map_or(0, |last| last + 1),
        ..agent
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_client::FollowOptions;
    use skep_client::protocol::codec::{Envelope, encode, encode_error, encode_reply};
    use skep_client::protocol::event::Topic;
    use skep_client::protocol::op::{Request, SubscribeReply};
    use skep_client::protocol::{
        AgentId, AgentState, Enforced, Enforcement, Limits, Outcome, RunnerKind, Usage, WireError,
    };

    use super::*;
    use crate::cli::sink::Form;

    fn running() -> AgentInfo {
        AgentInfo {
            id: AgentId::random(),
            name: "a".parse().unwrap(),
            runner: RunnerKind::Wasm,
            state: AgentState::Running,
            paused_reason: None,
            generation: 2,
            created_ms: 0,
            started_ms: Some(1),
            exited_ms: None,
            spec: serde_json::from_value(json!({})).unwrap(),
            limits: Limits::default(),
            usage: Usage::default(),
            enforced: Enforced::all(Enforcement::None),
            outcome: None,
            receipt: None,
            queue: None,
            restart: None,
            next_seq: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_one_that_was_forgotten_is_told_as_it_was_published() {
        let (mut wire, connection) = skep_transport::local();
        let publisher = wire.publisher;
        // It knows where events are published, and the agent no more.
        tokio::spawn(async move {
            while let Some(message) = wire.inbox.recv().await {
                let payload = message.payload.unwrap();
                let envelope = Envelope::parse(&payload).unwrap();
                let here = SubscribeReply {
                    events: Some("tcp://127.0.0.1:1".to_owned()),
                    topics: Vec::new(),
                    next_seq: 0,
                };
                message.peer.reply(match envelope.decode().unwrap() {
                    Request::AgentSubscribe(_) => encode_reply(envelope.id, &here).unwrap(),
                    _ => {
                        let gone = WireError::new(ErrorCode::NotFound, "gone");
                        encode_error(Some(envelope.id), &gone).unwrap()
                    }
                });
            }
        });
        let client = Client::over(connection);
        let agent = running();
        let status = StatusEvent {
            agent: agent.id,
            generation: 3,
            state: AgentState::Exited,
            outcome: Some(Outcome::Exited { code: 7 }),
            receipt: None,
            restart: None,
            usage: Usage::default(),
            last_seq: None,
            time_ms: 5,
        };
        let mut log = client.follow(agent.id, FollowOptions::default());
        tokio::spawn(async move {
            tokio::time::sleep(LAST_EVENT / 2).await;
            let topic = Topic::Status(status.agent).to_string();
            publisher.try_publish(topic, encode(&status).unwrap());
        });
        assert_eq!(log.next().await.unwrap(), None);
        let mut sink = Sink::new(Form::Raw);
        let (ended, code) = conclude(&client, &agent, &mut log, &mut sink)
            .await
            .unwrap();
        assert_eq!(
            (ended.exited_ms, ended.name, code),
            (Some(5), agent.name, 7)
        );
    }
}
