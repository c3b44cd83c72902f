//! How a connection behaves, with the defaults.

use std::time::Duration;

use super::backoff::Backoff;
use crate::endpoint::Endpoint;

/// Where to connect and how much to hold.
///
/// Start with [`ConnectionConfig::new`] and change what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// The host's endpoint for requests.
    pub control: Endpoint,
    /// The delay before the first new attempt; doubled at each. Default 100 ms.
    pub reconnect_min: Duration,
    /// The longest delay between attempts. Default 30 s.
    pub reconnect_max: Duration,
    /// After how many failed attempts in a row the connection is
    /// [`Failed`](super::ConnectionState::Failed). Default: never.
    pub max_attempts: Option<u32>,
    /// How long one attempt may take, the handshake included. Default 5 s.
    pub connect_timeout: Duration,
    /// A connection on which nothing came for this long is given up when a
    /// request times out on it: its host may be gone without a word. Default 5 s.
    pub suspect_after: Duration,
    /// Requests without an answer; more are refused. Default 16,384.
    pub max_in_flight: usize,
    /// Bytes of such requests; the same. Default 64 MiB.
    pub max_in_flight_bytes: usize,
    /// Events that wait in one subscription; more are dropped and counted
    /// there. Default 8,192.
    pub max_waiting_events: usize,
    /// Bytes of such events; the same. Default 16 MiB.
    pub max_waiting_event_bytes: usize,
}

impl ConnectionConfig {
    /// The defaults, with this endpoint.
    #[must_use]
    pub fn new(control: Endpoint) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            control,
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(30),
            max_attempts: None,
            connect_timeout: Duration::from_secs(5),
            suspect_after: Duration::from_secs(5),
            max_in_flight: 16_384,
            max_in_flight_bytes: 64 * MIB,
            max_waiting_events: 8192,
            max_waiting_event_bytes: 16 * MIB,
        }
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff {
            min: self.reconnect_min,
            max: self.reconnect_max,
        }
    }
}
