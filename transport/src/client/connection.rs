//! The handle of a client's connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use skep_protocol::RequestId;
use tokio::sync::watch;

use super::config::ConnectionConfig;
use super::control::Control;
use super::events::Events;
use super::hub::{Hub, Subscription};
use super::link::Link;
use super::stats::{ConnectionStats, Counters};
use super::table::{Repeat, RequestError, Table};
use crate::endpoint::Endpoint;
use crate::local::{LocalPeer, LocalSide};
use crate::thread::SocketThread;
use crate::wire::{Peer, PeerKind};

/// A connection to a host, over sockets or within the process. Cheap to clone;
/// the last clone closes it.
///
/// It is made at once and connects behind the scenes, for ever or until
/// [`max_attempts`](ConnectionConfig::max_attempts). Requests may be made in any
/// state: what has no answer is sent again, under its old id, over each new
/// connection, which a host answers from its memory if it was done already, but
/// for [`request_once`](Self::request_once).
#[derive(Debug, Clone)]
pub struct Connection(Arc<Inner>);

/// How a connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not yet begun, or closed.
    Disconnected,
    /// The first attempt is under way.
    Connecting,
    /// The host is there.
    Connected,
    /// The host is not there; the attempt of this number, counted from 1, waits
    /// or is under way.
    Reconnecting {
        /// Its number.
        attempt: u32,
    },
    /// Given up after [`max_attempts`](ConnectionConfig::max_attempts).
    Failed {
        /// What the last attempt met.
        cause: Arc<str>,
    },
}

#[derive(Debug)]
struct Inner {
    table: Arc<Table>,
    hub: Arc<Hub>,
    counters: Arc<Counters>,
    state: watch::Receiver<ConnectionState>,
    side: Side,
}

#[derive(Debug)]
enum Side {
    Remote(Box<Remote>),
    Local(LocalSide),
}

#[derive(Debug)]
struct Remote {
    config: ConnectionConfig,
    // Absent where the thread could not be started: then the state says so.
    control: Mutex<Option<SocketThread>>,
    events: Mutex<Option<(Endpoint, SocketThread)>>,
    events_state: watch::Sender<ConnectionState>,
}

impl Connection {
    /// Begins to connect, on a thread of its own; returns at once. May be called
    /// from anywhere, with or without a runtime.
    #[must_use]
    pub fn connect(config: ConnectionConfig) -> Self {
        let (table, hub, counters) = parts(&config);
        let (state, state_seen) = watch::channel(ConnectionState::Connecting);
        let failing = state.clone();
        let link = Link {
            endpoint: config.control.clone(),
            backoff: config.backoff(),
            max_attempts: config.max_attempts,
            connect_timeout: config.connect_timeout,
            state,
        };
        let session = Control {
            table: Arc::clone(&table),
            hub: Arc::clone(&hub),
            counters: Arc::clone(&counters),
        };
        let thread = SocketThread::spawn("skep-client", move |closing| link.run(closing, session));
        let control = thread
            .map_err(|error| {
                let cause: Arc<str> = format!("no thread for the sockets: {error}").into();
                table.end(&RequestError::Failed(Arc::clone(&cause)));
                failing.send_replace(ConnectionState::Failed { cause });
            })
            .ok();
        let (events_state, _) = watch::channel(ConnectionState::Disconnected);
        Self(Arc::new(Inner {
            table,
            hub,
            counters,
            state: state_seen,
            side: Side::Remote(Box::new(Remote {
                config,
                control: Mutex::new(control),
                events: Mutex::new(None),
                events_state,
            })),
        }))
    }

    pub(crate) fn within(config: &ConnectionConfig, local: LocalSide) -> Self {
        let (table, hub, counters) = parts(config);
        let state = local.state.clone();
        Self(Arc::new(Inner {
            table,
            hub,
            counters,
            state,
            side: Side::Local(local),
        }))
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// Sends a request and waits for the reply with its id. `payload` is the
    /// encoded request that carries `id`. Dropping the future forgets the
    /// request. Needs a tokio runtime with a timer.
    ///
    /// # Errors
    /// See [`RequestError`]. A late reply is dropped and counted.
    pub async fn request(
        &self,
        id: RequestId,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        self.ask(id, payload, timeout, Repeat::Always).await
    }

    /// The same, but for one host alone: the one that is there, or the first that
    /// is. When its connection is lost, the request is not sent again, since
    /// another host may be behind the next one.
    ///
    /// # Errors
    /// The same, and [`RequestError::Lost`].
    pub async fn request_once(
        &self,
        id: RequestId,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        self.ask(id, payload, timeout, Repeat::Never).await
    }

    async fn ask(
        &self,
        id: RequestId,
        payload: Bytes,
        timeout: Duration,
        repeat: Repeat,
    ) -> Result<Bytes, RequestError> {
        let mut ticket = self.0.table.open(id, payload.clone(), repeat)?;
        let answer = async {
            if let Side::Local(local) = &self.0.side {
                let peer = LocalPeer::new(&self.0.table, &self.0.counters, &ticket);
                self.0.counters.messages_out.one();
                self.0.counters.bytes_out.add(payload.len());
                let peer = Peer(PeerKind::Local(peer));
                let sent = local.inbox.send_local(&payload, peer).await;
                sent.map_err(|_gone| RequestError::Closed)?;
            }
            ticket.answer().await
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                ticket.expire();
                Err(RequestError::Timeout(timeout))
            }
        }
    }

    /// Connects to the host's events, which `host.hello` tells. The same endpoint
    /// again changes nothing, another one takes its place. On a local wire there
    /// is nothing to do.
    pub fn subscribe_events(&self, endpoint: &Endpoint) {
        let Side::Remote(remote) = &self.0.side else {
            return;
        };
        let mut events = remote.events.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.hub.is_closed() {
            return;
        }
        if events.as_ref().is_some_and(|(now, _)| now == endpoint) {
            return;
        }
        // Joined before the next begins, so that the state has one writer.
        *events = None;
        let link = Link {
            endpoint: endpoint.clone(),
            backoff: remote.config.backoff(),
            // The control connection decides when to give up.
            max_attempts: None,
            connect_timeout: remote.config.connect_timeout,
            state: remote.events_state.clone(),
        };
        let session = Events {
            hub: Arc::clone(&self.0.hub),
            counters: Arc::clone(&self.0.counters),
        };
        match SocketThread::spawn("skep-client-sub", move |closing| link.run(closing, session)) {
            Ok(thread) => *events = Some((endpoint.clone(), thread)),
            Err(error) => {
                let cause = format!("no thread for the events socket: {error}").into();
                let failed = ConnectionState::Failed { cause };
                remote.events_state.send_replace(failed);
            }
        }
    }

    /// Subscribes to the events whose topic begins with `topic_prefix`.
    ///
    /// On a local wire it is effective when this returns. Over sockets nothing
    /// is guaranteed about when it is: the host's socket learns of it some time
    /// later, and again after each reconnection. Read the history after the
    /// first event, or after a while, to fill what is missing before it.
    #[expect(
        clippy::unused_async,
        reason = "waiting for the socket may become part of it without changing callers"
    )]
    pub async fn subscribe(&self, topic_prefix: &str) -> Subscription {
        self.0.hub.subscribe(topic_prefix)
    }

    /// How the connection for requests stands.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.0.state.borrow().clone()
    }

    /// Follows the state. Intermediate states may be skipped by a slow follower.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<ConnectionState> {
        self.0.state.clone()
    }

    /// Follows the state of the connection for events: when it is
    /// `Connected` again, events were missed.
    #[must_use]
    pub fn watch_events_state(&self) -> watch::Receiver<ConnectionState> {
        match &self.0.side {
            Side::Remote(remote) => remote.events_state.subscribe(),
            Side::Local(local) => local.state.clone(),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        self.0.counters.read(self.0.table.in_flight())
    }

    /// Closes it for all clones: requests end with `Closed`, subscriptions once
    /// their queues are read, and the sockets are gone when this returns.
    pub async fn close(&self) {
        self.0.table.end(&RequestError::Closed);
        // Before the threads are taken, so that none is started meanwhile.
        self.0.hub.close();
        if let Side::Remote(remote) = &self.0.side {
            let control = take(&remote.control);
            let events = take(&remote.events);
            if let Some(thread) = control {
                thread.close().await;
            }
            if let Some((_, thread)) = events {
                thread.close().await;
            }
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.table.end(&RequestError::Closed);
        self.hub.close();
        // The threads end, and are waited for, as their fields are dropped:
        // microseconds, or 100 ms if a name is being resolved.
    }
}

fn parts(config: &ConnectionConfig) -> (Arc<Table>, Arc<Hub>, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let table = Table::new(
        config.max_in_flight,
        config.max_in_flight_bytes,
        config.suspect_after,
        Arc::clone(&counters),
    );
    let hub = Hub::new(
        config.max_waiting_events,
        config.max_waiting_event_bytes,
        Arc::clone(&counters),
    );
    (table, hub, counters)
}
