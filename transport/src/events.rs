//! The events thread: PUB on one side, the publishers' queue on the other.
//! Never waits for a subscriber: the gate takes at once what zeromq has for one, and
//! leaves out what the subscriber does not take.
//!
//! zeromq has a queue and a buffer for each subscriber, keeps as much memory for both as
//! they ever needed, and drops silently beyond 100,000 events. So it has few in hand at
//! once: the next when the last subscriber's buffer has one of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

use crate::budget::Budget;
use crate::gate::{Door, Gate, Kind};
use crate::lanes::{Lanes, Outgoing};
use crate::listener::Listener;
use crate::router::{sessions, watch};
use crate::server::ServerConfig;
use crate::stats::ServerCounters;
use crate::thread::{self, Closing, SocketThread};

/// Events that zeromq has in hand at once, and their bytes; a longer one goes alone. It
/// writes as many at once for a subscriber.
const IN_HAND: usize = 128;
const IN_HAND_BYTES: usize = 32 * 1024;

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
        let in_hand = Budget::new(IN_HAND, IN_HAND_BYTES);
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
            never = publish(&mut socket, &self.lanes, &in_hand) => match never {},
            never = gate.accept() => match never {},
            () = watch(monitor, &self.counters, |_| {}) => {}
            () = closing.begun() => {}
        }
        gate.end_strangers();
        let flushed = flush(socket, &self.lanes, &self.budget, &in_hand);
        if tokio::time::timeout(self.flush, flushed).await.is_err() {
            tracing::warn!("closed before every subscriber had its events");
            self.lanes.clear();
        }
        Ok(())
    }
}

fn send(socket: &mut PubSocket, event: Outgoing, in_hand: &Arc<Budget>) {
    let held = in_hand.take_anyway(event.bytes());
    let (topic, payload) = event.into_frames(held);
    let mut message = ZmqMessage::from(payload);
    message.push_front(topic);
    // PUB's send never waits, and fails only by dropping.
    let _sent = socket.send(message).now_or_never();
}

async fn room(in_hand: &Budget) {
    while in_hand.is_full() {
        in_hand.released().await;
    }
}

/// Publishes events as they come. Nothing is lost where it waits.
async fn publish(socket: &mut PubSocket, lanes: &Lanes, in_hand: &Arc<Budget>) -> Infallible {
    loop {
        for _ in 0..IN_HAND {
            room(in_hand).await;
            send(socket, lanes.next().await, in_hand);
        }
        // Where nobody is connected, nothing else waits here, and nobody could connect.
        tokio::task::yield_now().await;
    }
}

/// Publishes what is queued and waits until zeromq has written it.
async fn flush(mut socket: PubSocket, lanes: &Lanes, budget: &Budget, in_hand: &Arc<Budget>) {
    // What comes from now on is counted as dropped.
    lanes.close();
    while let Some(event) = lanes.next_now() {
        send(&mut socket, event, in_hand);
        room(in_hand).await;
        tokio::task::yield_now().await;
    }
    while budget.items() > 0 {
        budget.released().await;
    }
    drop(socket);
    thread::quiet().await;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zeromq::{SocketRecv, SubSocket};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// However much waits, zeromq has little of it, and its subscriber gets everything.
    #[tokio::test]
    async fn zeromq_has_few_events_in_hand() {
        const EVENTS: u32 = 10_000;
        let lanes = Lanes::new(Budget::new(usize::MAX, usize::MAX));
        let lane = lanes.open();
        let push = |payload: Bytes| assert!(lane.push("log.a".to_owned(), payload));
        let in_hand = Budget::new(IN_HAND, IN_HAND_BYTES);
        let mut socket = PubSocket::new();
        let endpoint = socket.bind("tcp://127.0.0.1:0").await.unwrap();
        let mut subscriber = SubSocket::new();
        subscriber.connect(&endpoint.to_string()).await.unwrap();
        subscriber.subscribe("log.").await.unwrap();

        let read = async {
            while subscriber.recv().now_or_never().is_none() {
                push(Bytes::from_static(b"ready"));
                tokio::task::yield_now().await;
            }
            for number in 0..EVENTS {
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(1000, 0);
                push(payload.into());
            }
            let mut number = 0;
            while number < EVENTS {
                let event = subscriber.recv().await.unwrap().into_vec();
                if event[1] != "ready" {
                    assert_eq!(event[1][..4], number.to_be_bytes());
                    number += 1;
                }
            }
        };
        let mut most = 0;
        let look = async {
            loop {
                most = most.max(in_hand.bytes());
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            never = publish(&mut socket, &lanes, &in_hand) => match never {},
            () = look => {}
            read = tokio::time::timeout(DEADLINE, read) => read.unwrap(),
        }
        assert!((1..IN_HAND_BYTES + 1100).contains(&most), "{most}");
    }
}
