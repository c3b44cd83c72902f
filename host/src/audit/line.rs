//! The lines: an object each, with its `kind`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use skep_protocol::{RequestId, WireError};

use super::asked::{About, Asked, told};
use crate::clock;

/// Bytes that are told of the name of a field, which may be the client's.
const FIELD_BYTES: usize = 128;

/// Whoever can reach the endpoints: there are no keys that would tell clients
/// apart.
const EVERYONE: &str = "local";

#[derive(Serialize)]
struct Line<T> {
    time: String,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
struct Request<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RequestId>,
    principal: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    #[serde(flatten)]
    about: &'a About,
    /// `ok`, `begun` or an error code.
    result: &'static str,
    /// What the refusal says of itself, but for its message: that may repeat
    /// what the client has sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<String>,
    duration_us: u64,
}

/// What is no request.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// A host begins to take requests.
    Started { server_id: &'a str },
    /// Refused requests that are not told singly.
    Refusals {
        count: u64,
        codes: &'a BTreeMap<&'static str, u64>,
        over_ms: u64,
    },
    /// Lines that are gone, since the disk took none for too long.
    Lost { count: u64 },
    /// A host has answered its last request.
    Ended,
}

/// The line of a request that was answered.
pub(super) fn of_request(asked: &Asked, refusal: Option<&WireError>) -> Vec<u8> {
    let result = refusal.map_or("ok", |refusal| refusal.code.as_str());
    of_result(asked, result, refusal)
}

/// The line of a request that is under way; the other follows.
pub(super) fn of_begun(asked: &Asked) -> Vec<u8> {
    of_result(asked, "begun", None)
}

fn of_result(asked: &Asked, result: &'static str, refusal: Option<&WireError>) -> Vec<u8> {
    let details = refusal.map(|refusal| &refusal.details);
    let text = |text: Option<&String>| text.map(|text| told(text, FIELD_BYTES));
    write(&Request {
        kind: "request",
        id: asked.id(),
        principal: EVERYONE,
        op: asked.op().map(skep_protocol::op::Op::as_str),
        about: &asked.about,
        result,
        field: text(details.and_then(|details| details.field.as_ref())),
        limit: text(details.and_then(|details| details.limit.as_ref())),
        asked: details.and_then(|details| details.asked),
        incident: text(details.and_then(|details| details.incident.as_ref())),
        duration_us: micros(asked.took()),
    })
}

/// The line of anything else.
pub(super) fn of_event(event: &Event<'_>) -> Vec<u8> {
    write(event)
}

fn write(what: impl Serialize) -> Vec<u8> {
    let time = clock::rfc3339(clock::now_ms());
    let mut line = Vec::with_capacity(512);
    match serde_json::to_writer(&mut line, &Line { time, what }) {
        Ok(()) => line.push(b'\n'),
        // Nothing in it can fail to be written.
        Err(error) => {
            tracing::error!(%error, "a line of the audit record could not be put together");
            line.clear();
        }
    }
    line
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
