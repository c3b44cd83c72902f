//! What stands between the listeners and zeromq, which has no bound of its own and
//! believes what it reads: every connection is accepted here, and what its peer sends is
//! passed on to zeromq as far as it keeps to the bounds that stand below. Runs in the
//! runtime of its socket's session, and ends with it.
//!
//! ```text
//!            ┌─────────────── Relay, one for each connection ──────────────┐
//!  peer ───► │ Scanner ─► Requests or Subscriptions ──────────────────────►│ ─► Door ─► zeromq
//!       ◄─── │◄────────────────────────── Backlog ◄────────────────────────│ ◄─
//!            └─────────────────────────────────────────────────────────────┘
//! ```

mod backlog;
mod door;
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

use skep_protocol::MAX_PAYLOAD;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use self::backlog::Behind;
pub(crate) use self::door::Door;
use self::relay::Relay;
use self::scan::Header;
use self::stream::Incoming;
use self::table::Table;
use crate::listener::Listener;
use crate::router::REST;
use crate::stats::ServerCounters;

/// Bytes of a command, of which ZMTP has READY, with an identity of 255 bytes at most.
const MOST_COMMAND: u64 = 4096;

/// Bytes of messages over 16 KiB that are on their way through at once, of all
/// connections together: a dozen of the largest. More have to wait.
const MOST_UNDER_WAY: usize = 12 * (MAX_PAYLOAD + 1);

/// How long one change of a subscription may take zeromq, which looks at all
/// of a connection.
const CHANGE: Duration = Duration::from_micros(80);

/// Changes that may come at once after a time without.
const CHANGES_AT_ONCE: Duration = Duration::from_millis(200);

/// Which of a host's two sockets it is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Control,
    /// With what all subscribers may be behind by.
    Events {
        max_bytes: usize,
    },
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
    table: Table,
    counters: Arc<ServerCounters>,
    /// What all subscribers are behind by, where it is the socket of events.
    behind: Option<Arc<Behind>>,
    /// Bytes.
    under_way: Semaphore,
    /// When the next change of a subscription may come; each waits for those before it.
    next_change: Mutex<Instant>,
}

/// Why what a peer sends is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("it sent a command over {MOST_COMMAND} bytes")]
    Command,
    #[error("it has more than {} subscriptions", subscriptions::MOST_OF_ONE)]
    Subscriptions,
}

/// The bytes of a command that are passed on: all.
fn command(header: Header, out: &mut Vec<u8>) -> Result<u64, Refused> {
    if header.len > MOST_COMMAND {
        return Err(Refused::Command);
    }
    header.encode(out);
    Ok(header.len)
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
                    let connection = self.shared.table.enter();
                    let relay = Relay::new(peer, connection, Arc::clone(&self.shared));
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
        if self.shared.table.end_slowest(patience) {
            self.shared.counters.peers_cut.one();
        }
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
        Self {
            door: Arc::clone(door),
            table: Table::new(max_connections),
            counters,
            behind: match kind {
                Kind::Control => None,
                Kind::Events { max_bytes } => Some(Behind::new(*max_bytes)),
            },
            under_way: Semaphore::new(MOST_UNDER_WAY),
            next_change: Mutex::new(Instant::now()),
        }
    }

    /// Waits until so many changes of subscriptions may come.
    async fn change(&self, count: u32) {
        let mut next = self.next_change.lock().await;
        tokio::time::sleep_until(*next).await;
        let now = Instant::now();
        let earliest = now.checked_sub(CHANGES_AT_ONCE).unwrap_or(now);
        *next = earliest.max(*next) + CHANGE * count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_subscriptions_have_a_rate() {
        let kind = Kind::Events { max_bytes: 1 };
        let door = Arc::new(Door::make().unwrap());
        let shared = Shared::new(&door, &kind, 1, Arc::default());
        let changes = async |count: u32| {
            let asked = Instant::now();
            for _ in 0..count / 100 {
                shared.change(100).await;
            }
            asked.elapsed()
        };
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(changes(2500).await, Duration::ZERO);
        let second = changes(12_500).await.as_millis();
        assert!((980..1050).contains(&second), "{second} ms");
    }
}
