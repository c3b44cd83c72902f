//! Takes the frames of a control message apart, and copies what is kept. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use skep_protocol::codec::peek_id;
use skep_protocol::{MAX_PAYLOAD, RequestId};

/// A frame below this size is copied, so that a small request does not keep the
/// whole receive buffer (64 KiB and more) that it is a slice of.
const COPY_BELOW: usize = 64 * 1024;

/// Why a message has no payload that could be decoded. The host answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Nothing but routing frames.
    #[error("the message has no payload frame; send exactly one")]
    NoPayload,
    /// More than one frame after the routing frames.
    #[error("the message has more than one payload frame; send exactly one")]
    SeveralPayloads,
    /// The payload is over the cap of the protocol.
    #[error("the payload is over {MAX_PAYLOAD} bytes, the most that is taken")]
    TooLarge {
        /// The id of the request, where it could be read.
        id: Option<RequestId>,
    },
}

/// A control message, taken apart.
#[derive(Debug)]
pub(crate) struct Framed {
    pub(crate) identity: Bytes,
    /// Whether an empty frame came before the payload (REQ), to be sent back.
    pub(crate) delimiter: bool,
    pub(crate) payload: Result<Bytes, FramingError>,
}

/// Splits identity, delimiter and payload. `None` without an identity, which
/// ROUTER always puts in front.
pub(crate) fn split(mut frames: VecDeque<Bytes>) -> Option<Framed> {
    let identity = frames.pop_front()?;
    let delimiter = frames.front().is_some_and(Bytes::is_empty);
    if delimiter {
        frames.pop_front();
    }
    let payload = match (frames.pop_front(), frames.len()) {
        (None, _) => Err(FramingError::NoPayload),
        (Some(payload), 0) => check(&payload),
        (Some(_), _) => Err(FramingError::SeveralPayloads),
    };
    Some(Framed {
        identity,
        delimiter,
        payload,
    })
}

/// The payload, if it is within the cap.
pub(crate) fn check(payload: &Bytes) -> Result<Bytes, FramingError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(FramingError::TooLarge {
            id: peek_id(payload),
        });
    }
    Ok(keep(payload))
}

/// A frame that may be held for long.
pub(crate) fn keep(frame: &Bytes) -> Bytes {
    if frame.len() < COPY_BELOW {
        Bytes::copy_from_slice(frame)
    } else {
        frame.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(frames: &[&'static [u8]]) -> Framed {
        split(frames.iter().map(|f| Bytes::from_static(f)).collect()).unwrap()
    }

    #[test]
    fn one_payload_with_or_without_a_delimiter() {
        let plain = framed(&[b"id", b"ask"]);
        assert_eq!(plain.payload.unwrap(), "ask");
        assert!(!plain.delimiter);
        let req = framed(&[b"id", b"", b"ask"]);
        assert_eq!(req.payload.unwrap(), "ask");
        assert!(req.delimiter);
        assert_eq!(req.identity, "id");
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(split(VecDeque::new()).is_none());
        for (frames, error) in [
            (&[b"id".as_slice()][..], FramingError::NoPayload),
            (&[b"id", b""], FramingError::NoPayload),
            (&[b"id", b"a", b"b"], FramingError::SeveralPayloads),
            (&[b"id", b"a", b""], FramingError::SeveralPayloads),
            (
                &[b"id", b"", b"a", b"b", b"c"],
                FramingError::SeveralPayloads,
            ),
        ] {
            assert_eq!(framed(frames).payload.unwrap_err(), error, "{frames:?}");
        }
    }

    #[test]
    fn the_cap_is_exact() {
        let at = Bytes::from(vec![0; MAX_PAYLOAD]);
        assert!(check(&at).is_ok());
        let over = Bytes::from(vec![0; MAX_PAYLOAD + 1]);
        assert_eq!(check(&over), Err(FramingError::TooLarge { id: None }));
    }
}
