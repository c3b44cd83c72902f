//! One connection, from the peer to zeromq and back.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use super::backlog::Backlog;
use super::requests::Requests;
use super::scan::{Piece, Scanner};
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::table::Connection;
use super::{Refused, Shared};
use crate::listener::USER_TIMEOUT;

/// How long a peer may take to shake hands, and for each message, without the time in
/// which the host takes nothing of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a peer may take nothing while something waits for it: as long as the kernel
/// bears it of a tcp peer.
const DEAF: Duration = USER_TIMEOUT;

/// Changes of subscriptions that are passed on at once.
const CHANGES: u32 = 64;

#[derive(Debug)]
pub(super) struct Relay {
    peer: Stream,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it is closed")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("it took longer than {PATIENCE:?} to send its greeting, or a message")]
    Slow,
    #[error("it took nothing for {DEAF:?}")]
    Deaf,
    #[error("there are too many")]
    GaveWay,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.table.leave(&self.connection);
    }
}

impl Relay {
    pub(super) fn new(peer: Stream, connection: Arc<Connection>, shared: Arc<Shared>) -> Self {
        Self {
            peer,
            connection,
            shared,
        }
    }

    pub(super) async fn run(self) {
        let end = tokio::select! {
            end = self.pass() => end,
            () = self.connection.end.cancelled() => End::GaveWay,
        };
        if matches!(end, End::Deaf) {
            self.shared.counters.peers_cut.one();
        }
        tracing::debug!(%end, "a connection ended");
    }

    async fn pass(&self) -> End {
        let zeromq = match timeout(PATIENCE, self.shared.door.open()).await {
            Ok(Ok(stream)) => Stream::from(stream),
            Ok(Err(error)) => {
                tracing::error!(%error, "a connection found no way to its socket");
                return error.into();
            }
            Err(_elapsed) => return End::Slow,
        };
        let end = tokio::select! {
            end = self.inwards(&zeromq) => end.map(|never| match never {}),
            end = self.outwards(&zeromq) => end.map(|never| match never {}),
        };
        end.unwrap_or_else(|end| end)
    }

    /// From the peer to zeromq.
    async fn inwards(&self, zeromq: &Stream) -> Result<Infallible, End> {
        let mut inwards = Inwards {
            zeromq,
            shared: &self.shared,
            inspector: match self.shared.behind {
                None => Inspector::Requests(Requests::default()),
                Some(_) => Inspector::Subscriptions(Subscriptions::default()),
            },
            out: Vec::new(),
            changes: 0,
            reserved: None,
            has_shaken_hands: false,
        };
        let mut scanner = Scanner::new();
        let mut patience = PATIENCE;
        loop {
            let chunk = if inwards.is_amid() {
                let asked = Instant::now();
                let read = timeout(patience, self.peer.read()).await;
                patience = patience.saturating_sub(asked.elapsed());
                read.map_err(|_elapsed| End::Slow)??
            } else {
                patience = PATIENCE;
                self.peer.read().await?
            };
            if chunk.is_empty() {
                // What zeromq has for it is still sent, and then it ends the connection.
                zeromq.end_writing()?;
                return std::future::pending().await;
            }
            self.shared.table.heard(&self.connection);
            let mut input = &chunk[..];
            while let Some(piece) = scanner.next(&mut input) {
                if inwards.pass(&piece).await? {
                    patience = PATIENCE;
                    self.shared.table.shook_hands(&self.connection);
                }
            }
            inwards.flush().await?;
            if let Inspector::Subscriptions(subscriptions) = &inwards.inspector {
                self.shared
                    .table
                    .subscribed(&self.connection, subscriptions.count());
            }
        }
    }

    /// From zeromq to the peer.
    async fn outwards(&self, zeromq: &Stream) -> Result<Infallible, End> {
        let mut backlog = match &self.shared.behind {
            None => Backlog::of_replies(),
            Some(behind) => Backlog::of_events(behind),
        };
        let mut has_ended = false;
        let mut deaf_at = Instant::now() + DEAF;
        loop {
            let is_waited_for = !backlog.bytes().is_empty();
            if has_ended && !is_waited_for {
                return Err(End::Closed);
            }
            tokio::select! {
                written = self.peer.write(backlog.bytes()), if is_waited_for => {
                    backlog.taken(written?);
                    deaf_at = Instant::now() + DEAF;
                    if backlog.bytes().is_empty() {
                        self.shared.table.behind(&self.connection, false);
                    }
                }
                chunk = zeromq.read(), if !has_ended && backlog.has_room() => {
                    let chunk = chunk?;
                    has_ended = chunk.is_empty();
                    if !is_waited_for {
                        deaf_at = Instant::now() + DEAF;
                        self.shared.table.behind(&self.connection, true);
                    }
                    let left_out = backlog.add(&chunk);
                    self.shared.counters.events_left_out.add(left_out);
                }
                () = sleep_until(deaf_at), if is_waited_for => return Err(End::Deaf),
            }
        }
    }
}

/// What is on its way to zeromq.
struct Inwards<'a> {
    zeromq: &'a Stream,
    shared: &'a Shared,
    inspector: Inspector,
    out: Vec<u8>,
    /// Those in `out`.
    changes: u32,
    reserved: Option<SemaphorePermit<'a>>,
    has_shaken_hands: bool,
}

enum Inspector {
    Requests(Requests),
    Subscriptions(Subscriptions),
}

impl Inwards<'_> {
    /// Whether this ended a message or the handshake.
    async fn pass(&mut self, piece: &Piece<'_>) -> Result<bool, End> {
        match &mut self.inspector {
            Inspector::Requests(requests) => {
                if let Some(bytes) = requests.pass(piece, &mut self.out)? {
                    self.flush().await?;
                    // It is never closed.
                    self.reserved = self.shared.under_way.acquire_many(bytes).await.ok();
                }
            }
            Inspector::Subscriptions(subscriptions) => {
                if subscriptions.pass(piece, &mut self.out)? {
                    self.changes += 1;
                }
                if self.changes == CHANGES {
                    self.flush().await?;
                }
            }
        }
        let Piece::End(header) = piece else {
            return Ok(false);
        };
        self.has_shaken_hands |= header.command;
        if self.reserved.is_some() && !self.inspector.is_amid() {
            self.flush().await?;
            self.reserved = None;
        }
        Ok(!self.is_amid())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.changes > 0 {
            self.shared.change(std::mem::take(&mut self.changes)).await;
        }
        self.zeromq.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Whether the peer owes something.
    fn is_amid(&self) -> bool {
        !self.has_shaken_hands || self.inspector.is_amid()
    }
}

impl Inspector {
    fn is_amid(&self) -> bool {
        match self {
            Self::Requests(requests) => requests.is_amid(),
            Self::Subscriptions(subscriptions) => subscriptions.is_amid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_protocol::MAX_PAYLOAD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::JoinHandle;

    use super::super::scan::Header;
    use super::super::{Door, Kind, MOST_UNDER_WAY};
    use super::*;

    const MIB: usize = 1 << 20;

    /// A gate whose zeromq is played by the test.
    struct Played {
        shared: Arc<Shared>,
        behind_it: UnixListener,
    }

    /// A connection: its relay, and both of its ends.
    struct Ends {
        relay: JoinHandle<()>,
        peer: UnixStream,
        zeromq: UnixStream,
    }

    impl Played {
        fn new(kind: &Kind) -> Self {
            let door = Arc::new(Door::make().unwrap());
            let shared = Shared::new(&door, kind, 100, Arc::default());
            let behind_it = door.behind_it().unwrap();
            behind_it.set_nonblocking(true).unwrap();
            Self {
                shared: Arc::new(shared),
                behind_it: UnixListener::from_std(behind_it).unwrap(),
            }
        }

        async fn connect(&self) -> Ends {
            let (peer, of_relay) = UnixStream::pair().unwrap();
            let connection = self.shared.table.enter();
            let relay = Relay::new(of_relay.into(), connection, Arc::clone(&self.shared));
            let relay = tokio::spawn(relay.run());
            let (zeromq, _) = self.behind_it.accept().await.unwrap();
            Ends {
                relay,
                peer,
                zeromq,
            }
        }
    }

    fn header(command: bool, len: usize) -> Vec<u8> {
        let (more, len) = (false, len as u64);
        let mut out = Vec::new();
        Header { command, more, len }.encode(&mut out);
        out
    }

    /// A greeting, and a command without a body.
    fn handshake() -> Vec<u8> {
        [vec![0xff; 64], header(true, 0)].concat()
    }

    impl Ends {
        async fn sends(&mut self, bytes: &[u8]) {
            self.peer.write_all(bytes).await.unwrap();
        }

        /// What zeromq has got by now.
        async fn passed(&mut self) -> usize {
            // Time stands still as long as there is something to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut passed = Vec::new();
            while self.zeromq.try_read_buf(&mut passed).is_ok_and(|n| n > 0) {}
            passed.len()
        }

        async fn ended_after(self) -> Duration {
            let asked = Instant::now();
            self.relay.await.unwrap();
            asked.elapsed()
        }
    }

    fn about(found: Duration, wanted: Duration) {
        let more = found.saturating_sub(wanted);
        assert!(found >= wanted && more < wanted / 10, "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_and_does_not_go_on_is_ended() {
        let played = Played::new(&Kind::Control);
        let mut idle = played.connect().await;
        idle.sends(&handshake()).await;

        about(played.connect().await.ended_after().await, PATIENCE);
        let mut amid = played.connect().await;
        amid.sends(&handshake()).await;
        amid.sends(&[1, 0]).await;
        about(amid.ended_after().await, PATIENCE);
        let mut dripping = played.connect().await;
        dripping.sends(&handshake()).await;
        dripping.sends(&header(false, 10)).await;
        for _ in 0..5 {
            dripping.sends(b"x").await;
            tokio::time::sleep(PATIENCE / 6).await;
        }
        about(dripping.ended_after().await, PATIENCE / 6);

        tokio::time::sleep(10 * PATIENCE).await;
        assert!(
            !idle.relay.is_finished(),
            "whoever owes nothing may be silent"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_under_way() {
        let played = Played::new(&Kind::Control);
        let begun = [handshake(), header(false, MAX_PAYLOAD), vec![b'x']].concat();
        let mut under_way = Vec::new();
        for _ in 0..MOST_UNDER_WAY / MAX_PAYLOAD {
            let mut ends = played.connect().await;
            ends.sends(&begun).await;
            assert_eq!(ends.passed().await, begun.len());
            under_way.push(ends);
        }
        let mut small = played.connect().await;
        small.sends(&handshake()).await;
        let mut waits = played.connect().await;
        waits.sends(&begun).await;
        assert_eq!(waits.passed().await, begun.len() - 1, "nothing of the body");
        small.sends(&header(false, 1)).await;
        small.sends(b"x").await;
        assert_eq!(small.passed().await, handshake().len() + 3);

        // One that ends, in either way, makes room for one.
        drop(under_way.pop());
        assert_eq!(waits.passed().await, 1);
        let mut next = played.connect().await;
        next.sends(&begun).await;
        assert_eq!(next.passed().await, begun.len() - 1);
        let mut first = under_way.remove(0);
        let mut body = vec![0; MAX_PAYLOAD - 1];
        let read = first.zeromq.read_exact(&mut body);
        let (read, ()) = tokio::join!(read, async {
            first
                .peer
                .write_all(&vec![b'x'; MAX_PAYLOAD - 1])
                .await
                .unwrap();
        });
        read.unwrap();
        assert_eq!(next.passed().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_ended() {
        for kind in [Kind::Control, Kind::Events { max_bytes: MIB }] {
            let played = Played::new(&kind);
            let mut deaf = played.connect().await;
            let mut slow = played.connect().await;
            for ends in [&mut deaf, &mut slow] {
                ends.sends(&handshake()).await;
                let event = [vec![0; 64], header(false, 4 * MIB), vec![0; 4 * MIB]].concat();
                let (_, mut zeromq) = UnixStream::pair().unwrap();
                std::mem::swap(&mut zeromq, &mut ends.zeromq);
                tokio::spawn(async move {
                    // It fails where the relay ends before.
                    let _ended = zeromq.write_all(&event).await;
                    std::future::pending::<()>().await;
                });
            }
            let deaf_at = tokio::spawn(deaf.ended_after());
            for _ in 0..10 {
                tokio::time::sleep(DEAF / 2).await;
                let mut some = vec![0; MIB / 4];
                slow.peer.read_exact(&mut some).await.unwrap();
            }
            assert!(!slow.relay.is_finished());
            about(deaf_at.await.unwrap(), DEAF);
            assert_eq!(played.shared.counters.peers_cut.get(), 1);
        }
    }
}
