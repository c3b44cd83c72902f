//! The events socket of a client: SUB, kept in line with what is wanted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use zeromq::{SocketRecv, SubSocket, ZmqError};

use super::hub::Hub;
use super::link::Session;
use super::stats::Counters;

/// How long the host may take to read a subscription before it counts as gone.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) hub: Arc<Hub>,
    pub(crate) counters: Arc<Counters>,
}

impl Session for Events {
    type Socket = SubSocket;

    fn connected(&mut self, _again: bool) {}

    async fn run(&mut self, mut socket: SubSocket) -> String {
        let mut applied = HashSet::new();
        // What was suspected of the last socket is not held against this one.
        let _old = self.hub.suspected().now_or_never();
        loop {
            let align = align(&mut socket, &mut applied, &self.hub);
            match tokio::time::timeout(SUBSCRIBE_TIMEOUT, align).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the host reads nothing any more".to_owned(),
            }
            loop {
                tokio::select! {
                    message = socket.recv() => match message {
                        Ok(message) => self.receive(message.into_vec()),
                        Err(error) => return error.to_string(),
                    },
                    () = self.hub.changed() => break,
                    () = self.hub.suspected() => {
                        return "the control connection had to be made again".to_owned();
                    }
                }
            }
        }
    }

    fn lost(&mut self, was_connected: bool) {
        self.counters.errors.one();
        if was_connected {
            self.hub.interrupted();
        }
    }

    fn failed(&mut self, _cause: &Arc<str>) {
        self.hub.close();
    }
}

impl Events {
    fn receive(&self, frames: Vec<bytes::Bytes>) {
        // Two frames, the first of them text; a host of ours sends nothing else.
        if let [topic, payload] = frames.as_slice()
            && let Ok(topic) = std::str::from_utf8(topic)
        {
            self.hub.deliver(topic, payload);
        } else {
            self.counters.strays.one();
        }
    }
}

/// Subscribes to what is wanted and unsubscribes from what is not.
async fn align(
    socket: &mut SubSocket,
    applied: &mut HashSet<String>,
    hub: &Hub,
) -> Result<(), ZmqError> {
    let changes = hub.changes(applied);
    for prefix in changes.add {
        socket.subscribe(&prefix).await?;
        applied.insert(prefix);
    }
    for prefix in changes.remove {
        socket.unsubscribe(&prefix).await?;
        applied.remove(&prefix);
    }
    Ok(())
}
