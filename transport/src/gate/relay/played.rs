//! A gate whose zeromq is played by a test.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{PATIENCE, Relay, Stream};
use crate::gate::scan::Header;
use crate::gate::{Door, Fanout, Kind, Shared};

#[derive(Debug)]
pub(super) struct Played {
    pub(super) shared: Arc<Shared>,
    behind_it: UnixListener,
}

/// A connection: its relay, and both of its ends.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) relay: JoinHandle<()>,
    pub(super) peer: UnixStream,
    pub(super) zeromq: UnixStream,
}

impl Played {
    pub(super) fn new(kind: &Kind) -> Self {
        let door = Arc::new(Door::make().unwrap());
        let shared = Shared::new(&door, kind, 100, Arc::default());
        let behind_it = door.behind_it().unwrap();
        behind_it.set_nonblocking(true).unwrap();
        Self {
            shared: Arc::new(shared),
            behind_it: UnixListener::from_std(behind_it).unwrap(),
        }
    }

    pub(super) async fn connect(&self) -> Ends {
        let (peer, of_relay) = UnixStream::pair().unwrap();
        let place = self.shared.table.enter();
        let relay = Relay::new(Stream::Unix(of_relay), place, Arc::clone(&self.shared));
        let relay = tokio::spawn(relay.run());
        let (zeromq, _) = self.behind_it.accept().await.unwrap();
        Ends {
            relay,
            peer,
            zeromq,
        }
    }
}

impl Ends {
    pub(super) async fn sends(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).await.unwrap();
    }

    /// How long until its relay has ended it.
    pub(super) async fn ended_after(mut self) -> Duration {
        let asked = Instant::now();
        let zeromq = tokio::spawn(async move { end_of(&mut self.zeromq).await });
        self.relay.await.unwrap();
        zeromq.await.unwrap();
        asked.elapsed()
    }

    /// Shakes hands, and subscribes to a topic where that is something.
    pub(super) async fn shakes_hands(&mut self, topic: &str) {
        self.sends(&handshake()).await;
        self.zeromq.write_all(&handshake()).await.unwrap();
        let mut greeting = vec![0; handshake().len()];
        self.peer.read_exact(&mut greeting).await.unwrap();
        let subscription = [b"\x01", topic.as_bytes()].concat();
        self.sends(&[header(false, subscription.len()), subscription].concat())
            .await;
    }
}

pub(super) fn header(command: bool, len: usize) -> Vec<u8> {
    let (more, len) = (false, len as u64);
    let mut out = Vec::new();
    Header { command, more, len }.encode(&mut out);
    out
}

/// A greeting, and a command without a body.
pub(super) fn handshake() -> Vec<u8> {
    [vec![0xff; 64], header(true, 0)].concat()
}

/// Waits until there are so many.
pub(super) async fn subscriptions(fanout: &Fanout, count: usize) {
    let all = async {
        while fanout.subscriptions() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("them all");
}

/// Reads until there is no more, as zeromq does before it ends a connection.
pub(super) async fn end_of(zeromq: &mut UnixStream) {
    // An error is an end as well.
    let _reset = zeromq.read_to_end(&mut Vec::new()).await;
}

/// At most a tenth later.
pub(super) fn about(found: Duration, wanted: Duration) {
    let more = found.saturating_sub(wanted);
    assert!(found >= wanted && more < wanted / 10, "{found:?}");
}
