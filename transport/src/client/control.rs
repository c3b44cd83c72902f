//! The control socket of a client: requests from the table go out over DEALER,
//! replies come in and find their request by id.

use std::sync::Arc;

use futures_util::FutureExt;
use skep_protocol::codec::peek_id;
use zeromq::{DealerSocket, SocketRecv, SocketSend, ZmqMessage};

use super::hub::Hub;
use super::link::Session;
use super::stats::Counters;
use super::table::{RequestError, Table};
use crate::budget::Budget;
use crate::framing::keep;

/// Requests that zeromq may hold unwritten: half of what makes its send wait.
const MAX_UNWRITTEN: usize = 50_000;
/// Bytes of them. Beyond either, requests wait in the table.
const MAX_UNWRITTEN_BYTES: usize = 64 * 1024 * 1024;
/// Requests sent before replies have their turn.
const BATCH: usize = 32;

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) table: Arc<Table>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) counters: Arc<Counters>,
}

impl Session for Control {
    type Socket = DealerSocket;

    fn connected(&mut self, again: bool) {
        self.counters.set_connected(true);
        if again {
            self.counters.reconnections.one();
            self.hub.suspect();
        }
        self.table.begin_session();
    }

    async fn run(&mut self, mut socket: DealerSocket) -> String {
        let unwritten = Budget::new(MAX_UNWRITTEN, MAX_UNWRITTEN_BYTES);
        // Whether to go on sending without being told.
        let mut more = false;
        loop {
            tokio::select! {
                message = socket.recv() => match message {
                    Ok(message) => self.receive(message),
                    Err(error) => return error.to_string(),
                },
                () = wait_to_send(&self.table, &unwritten, more) => {
                    match self.send(&mut socket, &unwritten) {
                        Ok(unsent) => more = unsent,
                        Err(cause) => return cause,
                    }
                }
                () = self.table.suspicion() => {
                    return "the host says nothing any more".to_owned();
                }
            }
        }
    }

    fn lost(&mut self, was_connected: bool) {
        self.counters.errors.one();
        if was_connected {
            self.counters.set_connected(false);
            self.table.end_session();
        }
    }

    fn failed(&mut self, cause: &Arc<str>) {
        self.table.end(&RequestError::Failed(Arc::clone(cause)));
        self.hub.close();
    }
}

/// Resolves when it is worth trying to send.
async fn wait_to_send(table: &Table, unwritten: &Budget, more: bool) {
    if unwritten.is_full() {
        unwritten.released().await;
    } else if more {
        tokio::task::yield_now().await;
    } else {
        table.has_unsent().await;
    }
}

impl Control {
    /// Sends a batch; true if there may be more. Never waits: what zeromq has
    /// not written is bounded below the point where it would.
    fn send(&self, socket: &mut DealerSocket, unwritten: &Arc<Budget>) -> Result<bool, String> {
        for _ in 0..BATCH {
            if unwritten.is_full() {
                return Ok(true);
            }
            let Some(payload) = self.table.next_unsent() else {
                return Ok(false);
            };
            let len = payload.len();
            let payload = unwritten.take_anyway(len).bind(payload, ());
            match socket.send(ZmqMessage::from(payload)).now_or_never() {
                Some(Ok(())) => {
                    self.counters.messages_out.one();
                    self.counters.bytes_out.add(len);
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the socket takes nothing any more".to_owned()),
            }
        }
        Ok(true)
    }

    fn receive(&self, message: ZmqMessage) {
        self.counters.messages_in.one();
        let mut frames = message.into_vecdeque();
        let payload = frames.pop_back();
        let routed = frames.iter().all(bytes::Bytes::is_empty);
        let Some(payload) = payload.filter(|_| routed) else {
            return self.counters.strays.one();
        };
        self.counters.bytes_in.add(payload.len());
        let answered = match peek_id(&payload) {
            Some(id) => self.table.complete(id, keep(&payload)),
            None => {
                self.table.heard();
                false
            }
        };
        if !answered {
            self.counters.strays.one();
        }
    }
}
