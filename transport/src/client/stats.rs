//! What a connection counted since it was made.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::stats::Count;

/// The counters behind [`ConnectionStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_out: Count,
    pub(crate) bytes_out: Count,
    pub(crate) messages_in: Count,
    pub(crate) bytes_in: Count,
    pub(crate) strays: Count,
    pub(crate) timeouts: Count,
    pub(crate) errors: Count,
    pub(crate) reconnections: Count,
    pub(crate) repeated: Count,
    pub(crate) events: Count,
    pub(crate) event_bytes: Count,
    pub(crate) events_dropped: Count,
    connected_since: Mutex<Option<SystemTime>>,
}

/// What a connection counted since it was made, over all its sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Requests handed to the socket, repeated ones too.
    pub messages_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// Replies received, strays too.
    pub messages_in: u64,
    /// Bytes of their payloads.
    pub bytes_in: u64,
    /// Replies that nobody waits for any more, or whose id could not be read.
    pub strays: u64,
    /// Requests that were not answered in time.
    pub timeouts: u64,
    /// Failed attempts to connect and lost connections.
    pub errors: u64,
    /// Connections made after the first one, for requests.
    pub reconnections: u64,
    /// Requests sent again after a reconnection.
    pub repeated: u64,
    /// Events received.
    pub events: u64,
    /// Bytes of their payloads.
    pub event_bytes: u64,
    /// Events that a subscription had no room for.
    pub events_dropped: u64,
    /// Requests without an answer, now.
    pub in_flight: usize,
    /// Since when the present connection exists, if there is one.
    pub connected_since: Option<SystemTime>,
}

impl Counters {
    pub(crate) fn set_connected(&self, connected: bool) {
        *self.since() = connected.then(SystemTime::now);
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Option<SystemTime>> {
        self.connected_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self, in_flight: usize) -> ConnectionStats {
        ConnectionStats {
            messages_out: self.messages_out.get(),
            bytes_out: self.bytes_out.get(),
            messages_in: self.messages_in.get(),
            bytes_in: self.bytes_in.get(),
            strays: self.strays.get(),
            timeouts: self.timeouts.get(),
            errors: self.errors.get(),
            reconnections: self.reconnections.get(),
            repeated: self.repeated.get(),
            events: self.events.get(),
            event_bytes: self.event_bytes.get(),
            events_dropped: self.events_dropped.get(),
            in_flight,
            connected_since: *self.since(),
        }
    }
}
