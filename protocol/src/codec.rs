//! Bytes to envelopes and back.
//!
//! A payload from a stranger is scanned once before anything is decoded:
//! lengths against the bytes that are there, nesting against [`MAX_NESTING`],
//! the count of values against [`MAX_VALUES`] (in what a host says against
//! [`MAX_REPLY_VALUES`]), and nothing may trail. Only then does serde see it, so
//! that no length that a peer claims is ever allocated. The scan copies nothing.
//!
//! [`MAX_NESTING`]: crate::MAX_NESTING
//! [`MAX_VALUES`]: crate::MAX_VALUES

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::WireError;
use crate::id::RequestId;
use crate::op::Operation;
use crate::{MAX_PAYLOAD, MAX_REPLY_VALUES, VERSION};

mod decode;
mod envelope;
mod fault;
mod scan;

pub use envelope::{Envelope, Rejection, peek_id, too_large};
use fault::FieldError;
use scan::{Head, Malformed, Scanner};

/// What a body that was left out stands for.
const EMPTY_MAP: &[u8] = &[0x80];

#[derive(Serialize)]
struct RequestOut<'a, B> {
    v: u64,
    id: RequestId,
    op: &'static str,
    body: &'a B,
}

#[derive(Serialize)]
struct ReplyOut<'a, B> {
    v: u64,
    id: Option<RequestId>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a B>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a WireError>,
}

/// Why something of ours could not be written down. It takes a bug.
#[derive(Debug, thiserror::Error)]
#[error("a message could not be encoded: {0}")]
pub struct EncodeError(#[from] rmp_serde::encode::Error);

/// The payload of a request.
///
/// # Errors
/// Only if the body cannot be written down, which takes a bug.
pub fn encode_request<O: Operation>(id: RequestId, body: &O) -> Result<Vec<u8>, EncodeError> {
    encode(&RequestOut {
        v: VERSION,
        id,
        op: O::OP.as_str(),
        body,
    })
}

/// The payload of a reply that grants.
///
/// # Errors
/// Only if the body cannot be written down, which takes a bug.
pub fn encode_reply<R: Serialize>(id: RequestId, body: &R) -> Result<Vec<u8>, EncodeError> {
    encode(&ReplyOut {
        v: VERSION,
        id: Some(id),
        ok: true,
        body: Some(body),
        error: None,
    })
}

/// The payload of a reply that refuses; without an id, `id` is the empty string.
///
/// # Errors
/// Only if the error cannot be written down, which takes a bug.
pub fn encode_error(id: Option<RequestId>, error: &WireError) -> Result<Vec<u8>, EncodeError> {
    #[derive(Serialize)]
    struct Anonymous<'a> {
        v: u64,
        id: &'static str,
        ok: bool,
        error: &'a WireError,
    }
    match id {
        Some(_) => encode(&ReplyOut::<()> {
            v: VERSION,
            id,
            ok: false,
            body: None,
            error: Some(error),
        }),
        None => encode(&Anonymous {
            v: VERSION,
            id: "",
            ok: false,
            error,
        }),
    }
}

/// The payload of an event, or any other value in the protocol's form.
///
/// # Errors
/// Only if the value cannot be written down, which takes a bug.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    Ok(rmp_serde::to_vec_named(value)?)
}

/// Why a reply or an event of a host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not MessagePack, or over a cap.
    #[error("not a message of the protocol: {0}")]
    Malformed(&'static str),
    /// Not what was expected: which field, and why.
    #[error("not the message that was expected: {0}")]
    Unexpected(String),
    /// A reply that says neither yes nor no.
    #[error("a reply with neither a body nor an error")]
    Empty,
}

impl From<Malformed> for DecodeError {
    fn from(Malformed(why): Malformed) -> Self {
        Self::Malformed(why)
    }
}

impl From<FieldError> for DecodeError {
    fn from(error: FieldError) -> Self {
        Self::Unexpected(error.to_string())
    }
}

/// Reads a reply. Fields that are not known are passed over.
///
/// # Errors
/// [`DecodeError`] if it is no reply to such a request; a refusal is the inner
/// `Err`.
pub fn decode_reply<R: DeserializeOwned>(
    payload: &[u8],
) -> Result<Result<R, WireError>, DecodeError> {
    check_reply(payload)?;
    let mut ok = None;
    let mut body = None;
    let mut error = None;
    let mut scanner = Scanner::new(payload);
    for _ in 0..scanner.map_len()? {
        let key = scanner.string()?;
        let value = scanner.value()?;
        match key {
            "ok" => ok = Some(Head::of(value)),
            "body" => body = Some(value),
            "error" => error = Some(value),
            _ => {}
        }
    }
    match (ok, error) {
        (Some(Head::Bool(true)), _) => Ok(Ok(decode::from_slice(body.unwrap_or(EMPTY_MAP))?)),
        (Some(Head::Bool(false)), Some(error)) => Ok(Err(decode::from_slice(error)?)),
        _ => Err(DecodeError::Empty),
    }
}

/// Reads an event, or any other value in the protocol's form.
///
/// # Errors
/// [`DecodeError`] if it is none of that type.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    check_reply(payload)?;
    Ok(decode::from_slice(payload)?)
}

fn check_reply(payload: &[u8]) -> Result<(), Malformed> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Malformed("it is longer than a payload may be"));
    }
    scan::check(payload, MAX_REPLY_VALUES)
}

#[cfg(test)]
mod tests;
