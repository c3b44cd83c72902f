//! The host's sockets: configuration with its bounds, start and end.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Budget;
use crate::endpoint::Endpoint;
use crate::events::Events;
use crate::gate::Door;
use crate::lanes::Lanes;
use crate::listener::{BindError, Listener};
use crate::publisher::{self, Publisher};
use crate::replies::ReplyQueue;
use crate::router::Control;
use crate::stats::{Meter, ServerCounters, ServerStats};
use crate::thread::SocketThread;
use crate::wire::{Wire, inbox};

/// Where a host listens and how much it holds for others.
///
/// Start with [`ServerConfig::new`] and change what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The endpoint for requests (ROUTER).
    pub control: Endpoint,
    /// The endpoint for events (PUB). Without it events are dropped uncounted.
    pub events: Option<Endpoint>,
    /// Requests that wait for the host. Beyond it nothing more is read from the
    /// sockets until there is room. Default 1,024.
    pub max_inbox_messages: usize,
    /// Bytes of requests that wait for the host; the same. Default 64 MiB.
    pub max_inbox_bytes: usize,
    /// Replies queued for the control thread, and unwritten replies of one peer.
    /// Beyond it the peer whose reply does not fit is cut. Default 65,536.
    pub max_replies: usize,
    /// Bytes of replies, over all peers, that are not yet written to a socket.
    /// Beyond it peers that already have unread replies of 64 KiB are cut when
    /// they are sent more; and where half of it is held for
    /// [`stuck_after`](Self::stuck_after) without a break, connections end that were
    /// behind for as long, one after another. Default 256 MiB.
    pub max_reply_bytes: usize,
    /// Bytes of replies that one peer may leave unread before it is cut.
    /// Default 64 MiB.
    pub max_peer_reply_bytes: usize,
    /// Events that are queued or not yet on their way to every subscriber. Beyond it
    /// new events are dropped and counted, and those of one source beyond a quarter of
    /// what is left of it. Default 65,536.
    pub max_events: usize,
    /// Bytes of such events, the same; and bytes of events that subscribers have not
    /// taken, each of them once. One may be behind by a quarter of what is left of it,
    /// and by 64 KiB at least. Beyond it events are left out for that subscriber, and
    /// counted; where it is twice as much, whoever has taken nothing for longest ends.
    /// Default 64 MiB.
    pub max_event_bytes: usize,
    /// Connections of one socket. Beyond it, or beyond a fifteenth of the
    /// descriptors that the process may open, the one that has neither sent nor taken
    /// anything for longest is ended for each that comes. Default 8,192.
    pub max_connections: usize,
    /// After which time replies that are not read are freed by ending connections.
    /// Default 5 s.
    pub stuck_after: Duration,
    /// How long closing may take to write what is queued. Default 1 s.
    pub flush: Duration,
}

impl ServerConfig {
    /// The defaults, with these endpoints.
    #[must_use]
    pub fn new(control: Endpoint, events: Option<Endpoint>) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            control,
            events,
            max_inbox_messages: 1024,
            max_inbox_bytes: 64 * MIB,
            max_replies: 65_536,
            max_reply_bytes: 256 * MIB,
            max_peer_reply_bytes: 64 * MIB,
            max_events: 65_536,
            max_event_bytes: 64 * MIB,
            max_connections: 8192,
            stuck_after: Duration::from_secs(5),
            flush: Duration::from_secs(1),
        }
    }
}

/// The running sockets of a host. Dropping them closes them and blocks until
/// that is done, at most [`ServerConfig::flush`]; [`close`](Self::close) waits
/// without blocking.
#[derive(Debug)]
pub struct Sockets {
    control: SocketThread,
    events: Option<SocketThread>,
    control_endpoint: Endpoint,
    events_endpoint: Option<Endpoint>,
    meter: Meter,
}

/// Binds the endpoints and starts a thread for each.
///
/// May block for as long as the system needs to resolve a name.
///
/// # Errors
/// See [`BindError`]: the operator's to mend. Nothing is left behind.
pub fn serve(config: ServerConfig) -> Result<(Wire, Sockets), BindError> {
    let control = Listener::bind(&config.control)?;
    let events = config.events.as_ref().map(Listener::bind).transpose()?;
    let control_endpoint = control.endpoint().clone();
    let events_endpoint = events.as_ref().map(|l| l.endpoint().clone());

    let counters = Arc::new(ServerCounters::default());
    let (inbox_sender, inbox) = inbox(
        config.max_inbox_messages,
        config.max_inbox_bytes,
        Arc::clone(&counters),
    );
    let (replies, reply_receiver) = ReplyQueue::new(&config, Arc::clone(&counters));
    let event_budget = Budget::new(config.max_events, config.max_event_bytes);
    let meter = Meter {
        counters: Arc::clone(&counters),
        replies: Arc::clone(&replies.total),
        events: Arc::clone(&event_budget),
    };

    let door = || match Door::make() {
        Ok(door) => Ok(Arc::new(door)),
        Err(source) => Err(BindError::Door {
            folder: std::env::temp_dir().display().to_string(),
            source,
        }),
    };
    let control = Control::new(
        control,
        door()?,
        inbox_sender,
        replies,
        reply_receiver,
        &config,
    )
    .start()
    .map_err(BindError::Thread)?;
    let (publisher, events) = match events {
        Some(listener) => {
            let lanes = Lanes::new(Arc::clone(&event_budget));
            let publisher = Publisher::over_socket(&lanes, &counters);
            let thread = Events::new(listener, door()?, lanes, event_budget, counters, &config)
                .start()
                .map_err(BindError::Thread)?;
            (publisher, Some(thread))
        }
        None => (publisher::nowhere(), None),
    };
    let wire = Wire {
        inbox,
        publisher,
        meter: meter.clone(),
    };
    let sockets = Sockets {
        control,
        events,
        control_endpoint,
        events_endpoint,
        meter,
    };
    Ok((wire, sockets))
}

impl Sockets {
    /// Where requests are taken, with the real address and port.
    #[must_use]
    pub fn control_endpoint(&self) -> &Endpoint {
        &self.control_endpoint
    }

    /// Where events are published, with the real address and port.
    #[must_use]
    pub fn events_endpoint(&self) -> Option<&Endpoint> {
        self.events_endpoint.as_ref()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.meter.read()
    }

    /// Writes the replies and events that were queued before this call, within
    /// [`ServerConfig::flush`], then ends all connections and listeners. The
    /// inbox then ends; later replies and events go nowhere and are counted.
    pub async fn close(self) {
        self.control.begin_close();
        if let Some(events) = self.events {
            events.begin_close();
            events.close().await;
        }
        self.control.close().await;
    }
}
