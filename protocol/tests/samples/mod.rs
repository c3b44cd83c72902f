//! One sample of each message.

mod errors;
mod events;
mod parts;
mod replies;
mod requests;

pub(crate) mod json;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_protocol::codec::{self, Envelope};
use skep_protocol::op::{Operation, Request};
use skep_protocol::{RequestId, WireError};

/// Panics unless the bytes read as the message that they were made of.
type ReadsBack = Box<dyn Fn(&[u8])>;

/// A message, its bytes as they are written today, and whether they read back.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reads_back: ReadsBack,
}

/// Every message.
pub(crate) fn all() -> Vec<Sample> {
    [
        requests::all(),
        replies::all(),
        events::all(),
        errors::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn id() -> RequestId {
    "6f9619ff-8b86-4011-b42d-00c04fc964ff".parse().unwrap()
}

fn dashed(op: &str) -> String {
    op.replace(['.', '_'], "-")
}

/// A request; `variant` tells apart several of one operation.
fn request<O>(variant: &str, body: O, as_request: fn(O) -> Request) -> Sample
where
    O: Operation + Clone + Debug,
{
    let op = O::OP.as_str();
    let bytes = codec::encode_request(id(), &body).unwrap();
    Sample {
        name: format!("request-{}{variant}", dashed(op)),
        about: format!("a request, `{op}`"),
        bytes,
        reads_back: Box::new(move |bytes| {
            let envelope = Envelope::parse(bytes).unwrap();
            assert_eq!((envelope.id, envelope.op), (id(), O::OP));
            assert_eq!(envelope.decode().unwrap(), as_request(body.clone()));
        }),
    }
}

/// The reply to `O`.
fn reply<O>(variant: &str, body: O::Reply) -> Sample
where
    O: Operation,
    O::Reply: PartialEq + Debug,
{
    let op = O::OP.as_str();
    let bytes = codec::encode_reply(id(), &body).unwrap();
    Sample {
        name: format!("reply-{}{variant}", dashed(op)),
        about: format!("the reply to `{op}`"),
        bytes,
        reads_back: Box::new(move |bytes| {
            assert_eq!(codec::peek_id(bytes), Some(id()));
            let read = codec::decode_reply::<O::Reply>(bytes).unwrap().unwrap();
            assert_eq!(read, body);
        }),
    }
}

fn event<T>(name: &str, about: &str, event: T) -> Sample
where
    T: Serialize + DeserializeOwned + PartialEq + Debug + 'static,
{
    let bytes = codec::encode(&event).unwrap();
    Sample {
        name: format!("event-{name}"),
        about: format!("the payload of an event, `{about}`"),
        bytes,
        reads_back: Box::new(move |bytes| assert_eq!(codec::decode::<T>(bytes).unwrap(), event)),
    }
}

fn error(name: &str, id: Option<RequestId>, error: WireError) -> Sample {
    let bytes = codec::encode_error(id, &error).unwrap();
    Sample {
        name: format!("error-{}", dashed(name)),
        about: format!("a reply that refuses, `{}`", error.code),
        bytes,
        reads_back: Box::new(move |bytes| {
            assert_eq!(codec::peek_id(bytes), id);
            let read = codec::decode_reply::<skep_protocol::op::Done>(bytes).unwrap();
            assert_eq!(read.unwrap_err(), error);
        }),
    }
}
