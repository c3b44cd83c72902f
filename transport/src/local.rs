//! A wire without sockets: host and client in one process, with the same
//! messages, bounds and counters as over sockets.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::{MAX_PAYLOAD, RequestId};
use tokio::sync::watch;

use crate::budget::Budget;
use crate::client::{Connection, ConnectionConfig, ConnectionState, Counters};
use crate::client::{RequestError, Serial, Table, Ticket};
use crate::endpoint::Endpoint;
use crate::publisher::Publisher;
use crate::stats::{Meter, ServerCounters};
use crate::wire::{InboxSender, Wire, inbox};

/// Makes a wire for a host in this process and the connection to it.
///
/// What both hold is bounded by the connection's requests in flight and by its
/// subscriptions. The connection is `Connected` until the host drops its inbox.
#[must_use]
pub fn local() -> (Wire, Connection) {
    // The endpoint is never used.
    let config = ConnectionConfig::new(Endpoint::loopback(0));
    let counters = Arc::new(ServerCounters::default());
    let (sender, mut inbox) = inbox(
        config.max_in_flight,
        config.max_in_flight_bytes,
        Arc::clone(&counters),
    );
    let (state, state_seen) = watch::channel(ConnectionState::Connected);
    inbox.on_drop(state);
    let connection = Connection::within(
        &config,
        LocalSide {
            inbox: sender,
            state: state_seen,
        },
    );
    let wire = Wire {
        inbox,
        publisher: Publisher::into_hub(Arc::clone(connection.hub()), Arc::clone(&counters)),
        meter: Meter {
            counters,
            replies: Budget::new(0, 0),
            events: Budget::new(0, 0),
        },
    };
    (wire, connection)
}

/// The client's end.
#[derive(Debug)]
pub(crate) struct LocalSide {
    pub(crate) inbox: InboxSender,
    pub(crate) state: watch::Receiver<ConnectionState>,
}

/// One request of a client in this process.
#[derive(Debug, Clone)]
pub(crate) struct LocalPeer(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    table: Arc<Table>,
    counters: Arc<Counters>,
    id: RequestId,
    serial: Serial,
}

impl LocalPeer {
    pub(crate) fn new(table: &Arc<Table>, counters: &Arc<Counters>, ticket: &Ticket) -> Self {
        Self(Arc::new(Asked {
            table: Arc::clone(table),
            counters: Arc::clone(counters),
            id: ticket.id,
            serial: ticket.serial,
        }))
    }

    pub(crate) fn reply(&self, payload: Bytes) {
        let Asked {
            table,
            counters,
            id,
            serial,
        } = &*self.0;
        if payload.len() > MAX_PAYLOAD {
            let bytes = payload.len();
            tracing::error!(bytes, "a reply over the protocol's cap was not sent");
            return;
        }
        counters.messages_in.one();
        counters.bytes_in.add(payload.len());
        if !table.finish(*id, *serial, Ok(payload)) {
            counters.strays.one();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Nobody is left who could answer.
        self.table
            .finish(self.id, self.serial, Err(RequestError::Closed));
    }
}
