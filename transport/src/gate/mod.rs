//! What stands between the listeners and zeromq, which has no bound of its own and
//! believes what it reads: every connection is accepted here, and what its peer sends is
//! passed on to zeromq as far as it keeps to the bounds that stand below. Runs in the
//! runtime of its socket's session, and ends with it.
//!
//! ```text
//!            ┌──── Relay, one for each connection ───┐
//!  peer ───► │ Scanner ─► Requests ─────────────────►│ ─► Door ─► zeromq
//!            │         └► Subscriptions ─► Fanout    │
//!            │                               │       │
//!       ◄─── │◄───────────── Backlog ◄───────┴───────│◄── zeromq
//!            └───────────────────────────────────────┘
//! ```
//!
//! Of a subscriber zeromq sees the handshake alone: events go from the [`Fanout`] to the
//! relays.

mod backlog;
mod door;
mod fanout;
mod line;
mod relay;
mod requests;
mod scan;
mod stream;
mod subscriptions;
mod table;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::door::Door;
pub(crate) use self::fanout::Fanout;
use self::line::Line;
use self::relay::Relay;
use self::stream::Incoming;
use self::table::Table;
use crate::listener::Listener;
use crate::router::REST;
use crate::stats::ServerCounters;

/// Bytes of the one command of a connection, READY, with an identity of 255 bytes at most.
const MOST_COMMAND: u64 = 4096;

/// Which of a host's two sockets it is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Control,
    Events(Arc<Fanout>),
}

/// The gate of one session.
#[derive(Debug)]
pub(crate) struct Gate {
    incoming: Incoming,
    shared: Arc<Shared>,
}

/// What the connections of a gate have in common.
#[derive(Debug)]
struct Shared {
    door: Arc<Door>,
    kind: Kind,
    table: Table,
    /// Those who send much, and those who have gone and left much.
    senders: Line,
    leavers: Line,
    counters: Arc<ServerCounters>,
}

/// Why what a peer sends is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("it sent a command that is no handshake")]
    Command,
    #[error("it has more than {} subscriptions", subscriptions::MOST_OF_ONE)]
    Subscriptions,
}

impl Gate {
    /// A gate before a listener, and what zeromq listens on behind it.
    pub(crate) fn new(
        listener: &Listener,
        door: &Arc<Door>,
        kind: &Kind,
        max_connections: usize,
        counters: &Arc<ServerCounters>,
    ) -> io::Result<(Self, zeromq::Listener)> {
        let shared = Shared::new(door, kind, max_connections, Arc::clone(counters));
        let gate = Self {
            incoming: Incoming::of(listener)?,
            shared: Arc::new(shared),
        };
        Ok((gate, door.behind_it()?.into()))
    }

    /// Accepts connections, until it is dropped; those that there are stay.
    pub(crate) async fn accept(&self) -> Infallible {
        loop {
            match self.incoming.accept().await {
                Ok(peer) => {
                    let place = self.shared.table.enter();
                    let relay = Relay::new(peer, place, Arc::clone(&self.shared));
                    tokio::spawn(relay.run());
                    // Those that there are come before the next.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Ends the connection whose peer has left something waiting for longest, if for so
    /// long.
    pub(crate) fn end_slowest(&self, patience: Duration) {
        let ended = self.shared.table.end_slowest(patience);
        self.shared.counters.peers_cut.add(usize::from(ended));
    }

    /// Ends the connections that have not shaken hands: nothing is owed to them.
    pub(crate) fn end_strangers(&self) {
        self.shared.table.end_strangers();
    }
}

impl Shared {
    fn new(
        door: &Arc<Door>,
        kind: &Kind,
        max_connections: usize,
        counters: Arc<ServerCounters>,
    ) -> Self {
        let fanout = match kind {
            Kind::Control => None,
            Kind::Events(fanout) => Some(fanout),
        };
        Self {
            door: Arc::clone(door),
            kind: kind.clone(),
            table: Table::new(max_connections, fanout),
            senders: Line::new(),
            leavers: Line::new(),
            counters,
        }
    }
}
