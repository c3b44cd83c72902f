//! A client with nothing of Skep's: a socket, and bytes.

use bytes::Bytes;
use serde_json::{Value, json};
use skep_tests::soon;
use skep_transport::Endpoint;
use zeromq::{DealerSocket, ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// One socket, connected to a host.
pub(crate) struct Raw<S> {
    socket: S,
}

/// What a host answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The whole of it.
    pub(crate) bytes: Bytes,
    pub(crate) value: Value,
}

impl<S: Socket + SocketSend + SocketRecv> Raw<S> {
    async fn connect_to(control: &Endpoint) -> Self {
        let mut socket = S::new();
        soon("a connection", socket.connect(&control.to_string()))
            .await
            .unwrap();
        Self { socket }
    }

    pub(crate) async fn send(&mut self, payload: impl Into<Bytes>) {
        self.send_frames(vec![payload.into()]).await;
    }

    pub(crate) async fn send_frames(&mut self, frames: Vec<Bytes>) {
        let message = ZmqMessage::try_from(frames).unwrap();
        soon("a message sent", self.socket.send(message))
            .await
            .unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        let frames = self.frames().await;
        assert_eq!(
            frames.len(),
            1,
            "an answer of other than one frame: {frames:?}"
        );
        Answer::read(&frames)
    }

    /// An answer to a message with a delimiter, which comes back.
    pub(crate) async fn answer_behind_delimiter(&mut self) -> Answer {
        let frames = self.frames().await;
        assert!(
            frames.len() == 2 && frames[0].is_empty(),
            "no delimiter: {frames:?}"
        );
        Answer::read(&frames)
    }

    async fn frames(&mut self) -> Vec<Bytes> {
        soon("an answer", self.socket.recv())
            .await
            .unwrap()
            .into_vec()
    }

    pub(crate) async fn ask(&mut self, payload: impl Into<Bytes>) -> Answer {
        self.send(payload).await;
        self.answer().await
    }
}

impl Raw<DealerSocket> {
    pub(crate) async fn connect(control: &Endpoint) -> Self {
        Self::connect_to(control).await
    }
}

impl Raw<ReqSocket> {
    pub(crate) async fn connect_req(control: &Endpoint) -> Self {
        Self::connect_to(control).await
    }
}

impl Answer {
    fn read(frames: &[Bytes]) -> Self {
        let bytes = frames.last().unwrap().clone();
        let value: Value = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(value["v"], 1, "{value}");
        Self { bytes, value }
    }

    pub(crate) fn id(&self) -> &str {
        self.value["id"].as_str().unwrap()
    }

    pub(crate) fn ok(&self) -> bool {
        self.value["ok"].as_bool().unwrap()
    }

    /// The code of a refusal; empty if it is none.
    pub(crate) fn code(&self) -> &str {
        if self.ok() {
            ""
        } else {
            self.value["error"]["code"].as_str().unwrap()
        }
    }

    pub(crate) fn body(&self) -> &Value {
        assert!(self.ok(), "{}", self.value);
        &self.value["body"]
    }

    pub(crate) fn details(&self) -> &Value {
        &self.value["error"]["details"]
    }
}

pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The payload of a request.
pub(crate) fn request(id: &str, op: &str, body: Value) -> Vec<u8> {
    pack(&json!({"v": 1, "id": id, "op": op, "body": body}))
}

/// Any value as MessagePack.
pub(crate) fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}
