//! The events thread: PUB on one side, the publishers' queue on the other.
//! Never waits for a subscriber.
//!
//! zeromq drops silently beyond 100,000 events in its own queues. That bound is
//! never met: an event counts as held from `try_publish` until it is written to
//! its last subscriber, and what is held is bounded below that.

use std::convert::Infallible;
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
use crate::unread::Unread;

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
        let unread = Unread::default();
        let end = tokio::select! {
            never = publish(&mut socket, &self.lanes, &unread) => match never {},
            () = watch(monitor, &self.counters, |_| {}) => SessionEnd::Closing,
            () = stuck(&self.budget, &self.lanes, &unread, self.stuck_after) => SessionEnd::Stuck,
            () = crowded(self.max_connection_tasks) => SessionEnd::Crowded,
            () = closing.begun() => SessionEnd::Closing,
        };
        if end == SessionEnd::Closing {
            let flushed = flush(socket, &self.lanes, &self.budget);
            if tokio::time::timeout(self.flush, flushed).await.is_err() {
                tracing::warn!("closed before every subscriber had its events");
                self.lanes.clear();
            }
        }
        Ok(end)
    }
}

fn send(socket: &mut PubSocket, event: Outgoing, with: impl Send + 'static) {
    let (topic, payload) = event.into_frames(with);
    let mut message = ZmqMessage::from(payload);
    message.push_front(topic);
    // PUB's send never waits, and fails only by dropping.
    let _sent = socket.send(message).now_or_never();
}

/// Publishes events as they come. Nothing is in hand where it waits.
async fn publish(socket: &mut PubSocket, lanes: &Lanes, unread: &Unread) -> Infallible {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        lanes.take(BATCH, &mut batch).await;
        for event in batch.drain(..) {
            send(socket, event, unread.mark());
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
        send(&mut socket, event, ());
        tokio::task::yield_now().await;
    }
    while budget.items() > 0 {
        budget.released().await;
    }
    drop(socket);
    thread::quiet().await;
}

/// Returns when events find no room, or little is left, and during `patience` the system
/// has taken nothing for the slowest subscriber: then it is stuck, and new events no
/// longer get through to the others. One that reads a little is not told from it as long
/// as what the system has taken lasts. A tcp one is ended by the kernel in time, an ipc one
/// never.
async fn stuck(budget: &Budget, lanes: &Lanes, unread: &Unread, patience: Duration) {
    let mut since = Instant::now();
    let mut seen = None;
    loop {
        tokio::time::sleep(patience / 8).await;
        let is_tight = lanes.was_refused() || budget.is_nearly_full();
        let oldest = unread.oldest();
        if !is_tight || oldest.is_none() || oldest != seen {
            seen = oldest;
            since = Instant::now();
        } else if since.elapsed() >= patience {
            return;
        }
    }
}
