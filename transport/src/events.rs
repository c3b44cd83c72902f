//! The events thread: PUB on one side, the publishers' queue on the other.
//! Never waits for a subscriber: the gate takes at once what zeromq has for one, and
//! leaves out what the subscriber does not take.
//!
//! zeromq drops silently beyond 100,000 events in its own queues. That bound is
//! never met: an event counts as held from `try_publish` until the gate has it for
//! its last subscriber, and what is held is bounded below that.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

use crate::budget::Budget;
use crate::gate::{Door, Gate, Kind};
use crate::lanes::{Lanes, Outgoing};
use crate::listener::Listener;
use crate::router::{BATCH, sessions, watch};
use crate::server::ServerConfig;
use crate::stats::ServerCounters;
use crate::thread::{self, Closing, SocketThread};

/// What the events thread owns.
#[derive(Debug)]
pub(crate) struct Events {
    listener: Listener,
    door: Arc<Door>,
    lanes: Arc<Lanes>,
    budget: Arc<Budget>,
    counters: Arc<ServerCounters>,
    gate: Kind,
    max_connections: usize,
    flush: Duration,
}

impl Events {
    pub(crate) fn new(
        listener: Listener,
        door: Arc<Door>,
        lanes: Arc<Lanes>,
        budget: Arc<Budget>,
        counters: Arc<ServerCounters>,
        config: &ServerConfig,
    ) -> Self {
        Self {
            listener,
            door,
            lanes,
            budget,
            counters,
            gate: Kind::Events {
                max_bytes: config.max_event_bytes,
            },
            max_connections: config.max_connections,
            flush: config.flush,
        }
    }

    pub(crate) fn start(mut self) -> std::io::Result<SocketThread> {
        SocketThread::spawn("skep-events", move |closing| {
            let counters = Arc::clone(&self.counters);
            sessions(&counters, "events", |runtime| {
                thread::run(runtime, self.session(closing.clone()))
            });
        })
    }

    async fn session(&mut self, mut closing: Closing) -> Result<(), zeromq::ZmqError> {
        let mut socket = PubSocket::new();
        let monitor = socket.monitor();
        let (gate, behind_it) = Gate::new(
            &self.listener,
            &self.door,
            &self.gate,
            self.max_connections,
            &self.counters,
        )?;
        socket.bind_listener(behind_it).await?;
        tokio::select! {
            never = publish(&mut socket, &self.lanes) => match never {},
            never = gate.accept() => match never {},
            () = watch(monitor, &self.counters, |_| {}) => {}
            () = closing.begun() => {}
        }
        gate.end_strangers();
        let flushed = flush(socket, &self.lanes, &self.budget);
        if tokio::time::timeout(self.flush, flushed).await.is_err() {
            tracing::warn!("closed before every subscriber had its events");
            self.lanes.clear();
        }
        Ok(())
    }
}

fn send(socket: &mut PubSocket, event: Outgoing) {
    let (topic, payload) = event.into_frames();
    let mut message = ZmqMessage::from(payload);
    message.push_front(topic);
    // PUB's send never waits, and fails only by dropping.
    let _sent = socket.send(message).now_or_never();
}

/// Publishes events as they come. Nothing is in hand where it waits.
async fn publish(socket: &mut PubSocket, lanes: &Lanes) -> Infallible {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        lanes.take(BATCH, &mut batch).await;
        for event in batch.drain(..) {
            send(socket, event);
        }
        // The task that hands events to subscribers runs only now.
        tokio::task::yield_now().await;
    }
}

/// Publishes what is queued and waits until zeromq has written it.
async fn flush(mut socket: PubSocket, lanes: &Lanes, budget: &Budget) {
    // What comes from now on is counted as dropped.
    lanes.close();
    let mut batch = Vec::with_capacity(1);
    loop {
        lanes.take_now(1, &mut batch);
        let Some(event) = batch.pop() else { break };
        send(&mut socket, event);
        tokio::task::yield_now().await;
    }
    while budget.items() > 0 {
        budget.released().await;
    }
    drop(socket);
    thread::quiet().await;
}
