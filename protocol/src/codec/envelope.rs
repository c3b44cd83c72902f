//! Requests, from bytes that nobody has vouched for.
#![expect(
    clippy::result_large_err,
    reason = "a refusal is made once and moved to its encoding"
)]

use serde::de::DeserializeOwned;

use super::scan::{self, Head, Malformed, Scanner};
use super::{EMPTY_MAP, decode, fault::shown};
use crate::error::{ErrorCode, WireError};
use crate::id::RequestId;
use crate::op::{BodyDecoder, Op, Request};
use crate::{MAX_PAYLOAD, MAX_VALUES, VERSION};

/// A request whose envelope is right and whose body is not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The request's id.
    pub id: RequestId,
    /// What is asked for.
    pub op: Op,
    /// The body as it came; empty where it was left out.
    pub body: &'a [u8],
}

/// A payload that is no request, with what to answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Rejection {
    /// The id, where one could be read.
    pub id: Option<RequestId>,
    /// The answer.
    pub error: WireError,
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of a request.
    ///
    /// # Errors
    /// A [`Rejection`] that is to be sent back as it is.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Rejection> {
        if payload.len() > MAX_PAYLOAD {
            return Err(Rejection {
                id: peek_id(payload),
                error: too_large(),
            });
        }
        let malformed = |why: Malformed| Rejection {
            id: peek_id(payload),
            error: WireError::new(
                ErrorCode::Malformed,
                format!("the payload is no envelope: {why}"),
            ),
        };
        scan::check(payload, MAX_VALUES).map_err(malformed)?;
        let fields = Fields::scan(payload).map_err(malformed)?;

        // Before the id: another version may have ids of another form.
        match fields.version.map(Head::of) {
            Some(Head::Unsigned(VERSION)) => {}
            None if fields.id.is_none() => {
                return Err(malformed(Malformed("it has neither `v` nor an `id`")));
            }
            _ => {
                return Err(Rejection {
                    id: fields.id,
                    error: unsupported_version(),
                });
            }
        }
        let Some(id) = fields.id else {
            return Err(Rejection {
                id: None,
                error: WireError::of_field(
                    ErrorCode::Malformed,
                    "id",
                    "the envelope has no `id` that is a UUID in its usual text form",
                ),
            });
        };
        let op = fields.operation().map_err(|error| Rejection {
            id: Some(id),
            error,
        })?;
        Ok(Self {
            id,
            op,
            body: fields.body.unwrap_or_default(),
        })
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// `invalid_argument`, with the field that is at fault.
    pub fn decode(&self) -> Result<Request, WireError> {
        Request::decode(self.op, Body(self.body))
    }
}

/// The fields of a request's envelope, as far as they are there.
#[derive(Debug, Default)]
struct Fields<'a> {
    version: Option<&'a [u8]>,
    id: Option<RequestId>,
    op: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
    /// A field that is unknown or comes again.
    wrong: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Of a repeated field the first counts, as it does for [`peek_id`].
    fn scan(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut id = None;
        let mut scanner = Scanner::new(payload);
        for _ in 0..scanner.map_len()? {
            let key = scanner.string()?;
            let value = scanner.value()?;
            let field = match key {
                "v" => &mut fields.version,
                "id" => &mut id,
                "op" => &mut fields.op,
                "body" => &mut fields.body,
                _ => {
                    fields.wrong.get_or_insert(key);
                    continue;
                }
            };
            if field.is_some() {
                fields.wrong.get_or_insert(key);
            } else {
                *field = Some(value);
            }
        }
        fields.id = id.and_then(|id| Scanner::new(id).string().ok()?.parse().ok());
        Ok(fields)
    }

    fn operation(&self) -> Result<Op, WireError> {
        if let Some(field) = self.wrong.map(shown) {
            let message = format!("the envelope has an unknown or repeated field `{field}`");
            return Err(WireError::of_field(
                ErrorCode::InvalidArgument,
                field,
                message,
            ));
        }
        let name = self
            .op
            .and_then(|op| Scanner::new(op).string().ok())
            .ok_or_else(|| {
                WireError::of_field(
                    ErrorCode::InvalidArgument,
                    "op",
                    "the envelope has no `op` that is a string",
                )
            })?;
        Op::from_name(name).ok_or_else(|| {
            WireError::new(
                ErrorCode::UnknownOp,
                format!(
                    "there is no operation `{}`; PROTOCOL.md lists them",
                    shown(name)
                ),
            )
        })
    }
}

fn unsupported_version() -> WireError {
    let mut error = WireError::new(
        ErrorCode::UnsupportedVersion,
        format!("`v` is missing or not a version that this host speaks ({VERSION})"),
    );
    error.details.supported = Some(vec![VERSION]);
    error
}

/// The refusal of a payload over [`MAX_PAYLOAD`].
#[must_use]
pub fn too_large() -> WireError {
    let mut error = WireError::new(
        ErrorCode::TooLarge,
        format!(
            "the payload is over {MAX_PAYLOAD} bytes, the most that is taken: send large components in chunks with component.put"
        ),
    );
    error.details.limit = Some("payload_bytes".to_owned());
    error
}

struct Body<'a>(&'a [u8]);

impl BodyDecoder for Body<'_> {
    type Error = WireError;

    fn decode<T: DeserializeOwned>(self) -> Result<T, WireError> {
        let body = if self.0.is_empty() { EMPTY_MAP } else { self.0 };
        decode::from_slice(body).map_err(|error| {
            let mut field = error.field();
            if field.is_empty() {
                field.push_str("body");
            }
            let message = format!("`{field}`: {}", error.why());
            WireError::of_field(ErrorCode::InvalidArgument, field, message)
        })
    }
}

/// The id of a request or reply, read without decoding the rest and without
/// trusting it: `None` where there is none to be read.
#[must_use]
pub fn peek_id(payload: &[u8]) -> Option<RequestId> {
    let mut scanner = Scanner::new(payload);
    let fields = scanner.map_len().ok()?;
    for _ in 0..fields {
        if scanner.string().ok()? == "id" {
            return scanner.string().ok()?.parse().ok();
        }
        scanner.value().ok()?;
    }
    None
}
