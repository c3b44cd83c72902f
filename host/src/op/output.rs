//! `agent.output`, `agent.subscribe`.

use skep_protocol::event::{Stream, Topic};
use skep_protocol::op::{AgentOutput, AgentSubscribe, OutputReply, SubscribeReply};

use super::Error;
use super::agents::find;
use crate::core::Core;

const BYTES: u64 = 256 * 1024;
const MAX_BYTES: u64 = 1024 * 1024;

pub async fn output(core: &Core, body: &AgentOutput) -> Result<OutputReply, Error> {
    let handle = find(core, body.agent).await?;
    let max_bytes = body.max_bytes.unwrap_or(BYTES);
    if !(1..=MAX_BYTES).contains(&max_bytes) {
        let message = format!("{max_bytes} is not within 1 to {MAX_BYTES}");
        return Err(Error::Invalid {
            field: "max_bytes",
            message,
        });
    }
    let streams = body.streams.as_deref().unwrap_or(&Stream::ALL);
    // Asked before the history is read: an agent that has ended adds nothing.
    let has_ended = handle.has_ended();
    let window = handle
        .history
        .window(body.from_seq.unwrap_or(0), streams, max_bytes)
        .await
        .map_err(|error| {
            tracing::error!(%error, agent = %handle.id, "a log was not read");
            Error::Log(error)
        })?;
    Ok(OutputReply {
        records: window.records,
        next_seq: window.next_seq,
        end: has_ended && window.caught_up,
        expired: window.expired,
    })
}

pub async fn subscribe(core: &Core, body: &AgentSubscribe) -> Result<SubscribeReply, Error> {
    let handle = find(core, body.agent).await?;
    let streams = body.streams.as_deref().unwrap_or(&Stream::ALL);
    let logs = Stream::ALL
        .into_iter()
        .filter(|stream| streams.contains(stream))
        .map(|stream| Topic::Log(handle.id, stream));
    let topics = logs.chain([Topic::Status(handle.id), Topic::Progress(handle.id)]);
    Ok(SubscribeReply {
        events: core.endpoints.events.clone(),
        topics: topics.map(|topic| topic.to_string()).collect(),
        next_seq: handle.history.next_seq(),
    })
}
