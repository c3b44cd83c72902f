//! A client with nothing of Skep's: a socket, and bytes.
#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not hold is null"
)]

use bytes::Bytes;
use serde_json::{Value, json};
use skep_transport::Endpoint;
use zeromq::{DealerSocket, ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::wait::soon;

/// One socket, connected to a host. What it is asked and does not do in time
/// panics.
pub struct Raw<S> {
    socket: S,
}

impl<S> std::fmt::Debug for Raw<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").finish_non_exhaustive()
    }
}

/// What a host answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The whole of it.
    pub bytes: Bytes,
    /// The same, read.
    pub value: Value,
}

impl<S: Socket + SocketSend + SocketRecv> Raw<S> {
    async fn connect_to(control: &Endpoint) -> Self {
        let mut socket = S::new();
        soon("a connection", socket.connect(&control.to_string()))
            .await
            .expect("a connection");
        Self { socket }
    }

    /// Sends a message of one frame.
    pub async fn send(&mut self, payload: impl Into<Bytes>) {
        self.send_frames(vec![payload.into()]).await;
    }

    /// Sends a message.
    pub async fn send_frames(&mut self, frames: Vec<Bytes>) {
        let message = ZmqMessage::try_from(frames).expect("a frame");
        soon("a message sent", self.socket.send(message))
            .await
            .expect("a message sent");
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Answer {
        match <[Bytes; 1]>::try_from(self.frames().await) {
            Ok([payload]) => Answer::read(payload),
            Err(frames) => panic!("an answer of other than one frame: {frames:?}"),
        }
    }

    /// An answer to a message with a delimiter, which comes back.
    pub async fn answer_behind_delimiter(&mut self) -> Answer {
        match <[Bytes; 2]>::try_from(self.frames().await) {
            Ok([delimiter, payload]) if delimiter.is_empty() => Answer::read(payload),
            other => panic!("no delimiter: {other:?}"),
        }
    }

    async fn frames(&mut self) -> Vec<Bytes> {
        soon("an answer", self.socket.recv())
            .await
            .expect("an answer")
            .into_vec()
    }

    /// Sends a request and waits for the next answer.
    pub async fn ask(&mut self, payload: impl Into<Bytes>) -> Answer {
        self.send(payload).await;
        self.answer().await
    }
}

impl Raw<DealerSocket> {
    /// A socket that may have many requests under way.
    pub async fn connect(control: &Endpoint) -> Self {
        Self::connect_to(control).await
    }
}

impl Raw<ReqSocket> {
    /// A socket that has one request under way.
    pub async fn connect_req(control: &Endpoint) -> Self {
        Self::connect_to(control).await
    }
}

impl Answer {
    fn read(bytes: Bytes) -> Self {
        let value: Value = rmp_serde::from_slice(&bytes).expect("MessagePack");
        assert_eq!(value["v"], 1, "{value}");
        Self { bytes, value }
    }

    /// Which request it answers; empty where no id could be read.
    #[must_use]
    pub fn id(&self) -> &str {
        self.value["id"].as_str().expect("an id")
    }

    /// Whether the request was granted.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.value["ok"].as_bool().expect("yes or no")
    }

    /// The code of a refusal; empty if it is none.
    #[must_use]
    pub fn code(&self) -> &str {
        if self.ok() {
            ""
        } else {
            self.value["error"]["code"].as_str().expect("a code")
        }
    }

    /// What was granted.
    #[must_use]
    pub fn body(&self) -> &Value {
        assert!(self.ok(), "{}", self.value);
        &self.value["body"]
    }

    /// The details of a refusal.
    #[must_use]
    pub fn details(&self) -> &Value {
        &self.value["error"]["details"]
    }
}

/// A new id of a request.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The payload of a request.
#[must_use]
pub fn request(id: &str, op: &str, body: Value) -> Vec<u8> {
    pack(&json!({"v": 1, "id": id, "op": op, "body": body}))
}

/// Any value as MessagePack.
#[must_use]
pub fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("a value that can be written down")
}
