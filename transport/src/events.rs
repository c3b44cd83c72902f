//! The events thread: PUB on one side, the publishers' queue on the other.
//! Never waits for a subscriber.
//!
//! zeromq drops silently beyond 100,000 events in its own queues. That bound is
//! never met: an event counts as held from `try_publish` until it is written to
//! its last subscriber, and what is held is bounded below that.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

use crate::budget::Budget;
use crate::crowd::crowded;
use crate::lanes::{Lanes, Outgoing};
use crate::listener::Listener;
use crate::router::{BATCH, SessionEnd, sessions, watch};
use crate::server::ServerConfig;
use crate::stats::ServerCounters;
use crate::thread::{self, Closing, SocketThread};

/// What the events thread owns.
#[derive(Debug)]
pub(crate) struct Events {
    listener: Listener,
    lanes: Arc<Lanes>,
    budget: Arc<Budget>,
    counters: Arc<ServerCounters>,
    max_connection_tasks: usize,
    stuck_after: Duration,
    flush: Duration,
}

impl Events {
    pub(crate) fn new(
        listener: Listener,
        lanes: Arc<Lanes>,
        budget: Arc<Budget>,
        counters: Arc<ServerCounters>,
        config: &ServerConfig,
    ) -> Self {
        Self {
            listener,
            lanes,
            budget,
            counters,
            max_connection_tasks: config.max_connection_tasks,
            stuck_after: config.stuck_after,
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

    async fn session(&mut self, mut closing: Closing) -> Result<SessionEnd, zeromq::ZmqError> {
        let mut socket = PubSocket::new();
        let monitor = socket.monitor();
        socket.bind_listener(self.listener.adoptable()?).await?;
        let end = tokio::select! {
            () = publish(&mut socket, &self.lanes) => SessionEnd::Closing,
            () = watch(monitor, &self.counters, |_| {}) => SessionEnd::Closing,
            () = stuck(&self.budget, &self.lanes, self.stuck_after) => SessionEnd::Stuck,
            () = crowded(self.max_connection_tasks) => SessionEnd::Crowded,
            () = closing.begun() => SessionEnd::Closing,
        };
        if end == SessionEnd::Closing {
            let flushed = flush(socket, &self.lanes, &self.budget);
            if tokio::time::timeout(self.flush, flushed).await.is_err() {
                tracing::warn!("closed before every subscriber had its events");
            }
        }
        Ok(end)
    }
}

fn send(socket: &mut PubSocket, event: Outgoing) {
    let mut message = ZmqMessage::from(event.payload);
    message.push_front(event.topic);
    // PUB's send never waits, and fails only by dropping.
    let _sent = socket.send(message).now_or_never();
}

/// Publishes events as they come. Nothing is in hand where it waits.
async fn publish(socket: &mut PubSocket, lanes: &Lanes) {
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

/// Returns when much is held and nobody has read any of it during `patience`:
/// then a subscriber is stuck and new events no longer get through to the
/// others. A tcp one is ended by the kernel in time, an ipc one never.
async fn stuck(budget: &Budget, lanes: &Lanes, patience: Duration) {
    let mut since = Instant::now();
    let mut releases = budget.releases();
    loop {
        tokio::time::sleep(patience / 8).await;
        if lanes.is_any_stuck(patience) {
            return;
        }
        let now = budget.releases();
        if !budget.is_nearly_full() || now != releases {
            releases = now;
            since = Instant::now();
        } else if since.elapsed() >= patience {
            return;
        }
    }
}
