//! The events thread: PUB on one side, the publishers' queue on the other. Never waits
//! for a subscriber: what it does not take is left out for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use zeromq::{PubSocket, Socket};

use crate::budget::Budget;
use crate::gate::{Door, Fanout, Gate, Kind};
use crate::lanes::Lanes;
use crate::listener::Listener;
use crate::router::{sessions, watch};
use crate::server::ServerConfig;
use crate::stats::ServerCounters;
use crate::thread::{self, Closing, SocketThread};

/// After how many events, each counted for every subscriber as well, others on the thread
/// have their turn.
const BATCH: usize = 4096;

/// What the events thread owns.
#[derive(Debug)]
pub(crate) struct Events {
    listener: Listener,
    door: Arc<Door>,
    lanes: Arc<Lanes>,
    budget: Arc<Budget>,
    counters: Arc<ServerCounters>,
    max_bytes: usize,
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
            max_bytes: config.max_event_bytes,
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
        let fanout = Fanout::new(self.max_bytes);
        let monitor = socket.monitor();
        let (gate, behind_it) = Gate::new(
            &self.listener,
            &self.door,
            &Kind::Events(Arc::clone(&fanout)),
            self.max_connections,
            &self.counters,
        )?;
        socket.bind_listener(behind_it).await?;
        tokio::select! {
            never = publish(&fanout, &self.lanes) => match never {},
            never = gate.accept() => match never {},
            () = watch(monitor, &self.counters, |_| {}) => {}
            () = closing.begun() => {}
        }
        gate.end_strangers();
        let flushed = flush(socket, &fanout, &self.lanes, &self.budget);
        if tokio::time::timeout(self.flush, flushed).await.is_err() {
            tracing::warn!("closed before every subscriber had its events");
            self.lanes.clear();
        }
        Ok(())
    }
}

/// Publishes events as they come. None is lost where it waits.
async fn publish(fanout: &Fanout, lanes: &Lanes) -> Infallible {
    loop {
        let mut handed = 0;
        while handed < BATCH {
            let room = fanout.room().await;
            handed += 1 + room.publish(lanes.next().await);
        }
        // Where nobody subscribes, nothing else waits here.
        tokio::task::yield_now().await;
    }
}

/// Publishes what is queued and waits until it is written.
async fn flush(socket: PubSocket, fanout: &Fanout, lanes: &Lanes, budget: &Budget) {
    // What comes from now on is counted as dropped.
    lanes.close();
    loop {
        let room = fanout.room().await;
        let Some(event) = lanes.next_now() else { break };
        room.publish(event);
        tokio::task::yield_now().await;
    }
    while budget.items() > 0 {
        budget.released().await;
    }
    drop(socket);
    thread::quiet().await;
}
