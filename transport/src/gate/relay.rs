//! One connection: from the peer to zeromq and back, and events to the peer.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::backlog::{Backlog, PIECES};
use super::fanout::Arrivals;
use super::requests::Requests;
use super::scan::{Piece, Scanner};
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::table::{Place, Way};
use super::{Kind, MOST_COMMAND, Refused, Shared};
use crate::listener::USER_TIMEOUT;

/// How long a peer may take to shake hands, and for each message, without the time in
/// which the host takes nothing of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a peer may take nothing while something waits for it: as long as the kernel
/// bears it of a tcp peer. What a peer takes is seen when the kernel has room again, a
/// quarter to a third of its buffer: below some 10 kB a second that may be too late.
const DEAF: Duration = USER_TIMEOUT;

/// How long one message of a subscriber counts, and how much of that may come at once:
/// each is a look at what all have subscribed to.
const CHANGE: Duration = Duration::from_millis(1);
const AT_ONCE: Duration = Duration::from_millis(8192);

/// How much is read at once. Of a peer it is little: a turn is as long as that takes, of
/// the shortest frames.
const INWARDS: usize = 16 * 1024;
const OUTWARDS: usize = 64 * 1024;

/// How many bytes zeromq collects before it writes them, besides the message with which
/// it has so many: `asynchronous_codec`'s high water mark.
const BUFFERED: usize = 128 * 1024;

/// How long whoever sends many frames that go nowhere has to wait, whenever a read brought
/// nothing else: they cost as much as those that do.
const PAUSE: Duration = Duration::from_millis(10);
const MANY: u32 = 64;

#[derive(Debug)]
pub(super) struct Relay {
    peer: Stream,
    place: Place,
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
        self.shared.table.leave(&self.place);
    }
}

impl Relay {
    pub(super) fn new(peer: Stream, place: Place, shared: Arc<Shared>) -> Self {
        Self {
            peer,
            place,
            shared,
        }
    }

    pub(super) async fn run(self) {
        let end = tokio::select! {
            end = self.pass() => end,
            () = self.place.end.cancelled() => End::GaveWay,
        };
        if matches!(end, End::Deaf) {
            self.shared.counters.peers_cut.one();
        }
        tracing::debug!(%end, "a connection ended");
    }

    async fn pass(&self) -> End {
        let zeromq = match timeout(PATIENCE, self.shared.door.open()).await {
            Ok(Ok(stream)) => Stream::Unix(stream),
            Ok(Err(error)) => {
                tracing::error!(%error, "a connection found no way to its socket");
                return error.into();
            }
            Err(_elapsed) => return End::Slow,
        };
        let (inspector, arrivals) = Inspector::of(&self.shared.kind);
        let outwards = async {
            match arrivals {
                None => self.replies(&zeromq).await,
                Some(arrivals) => self.events(&zeromq, arrivals).await,
            }
        };
        let end = tokio::select! {
            end = self.inwards(&zeromq, inspector) => end.map(|never| match never {}),
            end = outwards => end.map(|never| match never {}),
        };
        end.unwrap_or_else(|end| end)
    }

    /// From the peer to zeromq.
    async fn inwards(&self, zeromq: &Stream, mut inspector: Inspector) -> Result<Infallible, End> {
        let mut scanner = Scanner::new();
        let mut out = Vec::new();
        let mut patience = PATIENCE;
        let mut paid_until = Instant::now();
        loop {
            let chunk = if inspector.is_amid() {
                let asked = Instant::now();
                let read = timeout(patience, self.peer.read(INWARDS)).await;
                patience = patience.saturating_sub(asked.elapsed());
                read.map_err(|_elapsed| End::Slow)??
            } else {
                patience = PATIENCE;
                self.peer.read(INWARDS).await?
            };
            if chunk.is_empty() {
                // What zeromq has for it is still sent, and then it ends the connection.
                zeromq.end_writing()?;
                return std::future::pending().await;
            }
            self.shared.table.heard(&self.place);
            let (mut frames, mut ended, mut passed) = (0_u32, 0, 0);
            let mut input = &chunk[..];
            while let Some(piece) = scanner.next(&mut input) {
                inspector.pass(&piece, &mut out)?;
                if matches!(piece, Piece::End(_)) {
                    frames += 1;
                    if !inspector.is_amid() {
                        patience = PATIENCE;
                        ended += 1;
                    }
                }
                if out.len() >= INWARDS {
                    zeromq.write_all(&out).await?;
                    passed += out.len();
                    out.clear();
                    tokio::task::yield_now().await;
                }
            }
            zeromq.write_all(&out).await?;
            passed += out.len();
            out.clear();
            self.note(&inspector);
            if passed == 0 && frames > MANY {
                tokio::time::sleep(PAUSE).await;
            }
            if matches!(inspector.of, Of::Subscriber(_)) {
                let now = Instant::now();
                paid_until = paid_until.max(now) + CHANGE * ended;
                tokio::time::sleep(paid_until.saturating_duration_since(now + AT_ONCE)).await;
            }
            // However fast it sends, everybody else has a turn in between.
            tokio::task::yield_now().await;
        }
    }

    fn note(&self, inspector: &Inspector) {
        let (table, place) = (&self.shared.table, &self.place);
        if inspector.has_shaken_hands {
            table.shook_hands(place);
        }
        match &inspector.of {
            Of::Client(requests) => table.holds(place, Way::In, requests.under_way()),
            Of::Subscriber(subscriptions) => table.subscribed(place, subscriptions.count()),
        }
    }

    /// To a client: what zeromq has for it. While some of it waits, nothing more is read
    /// of zeromq, which bounds what waits there.
    async fn replies(&self, zeromq: &Stream) -> Result<Infallible, End> {
        let mut backlog = Backlog::default();
        let mut scanner = Scanner::new();
        // Bytes of the longest frame, and of what was read without a break, which zeromq
        // may have had at once besides.
        let (mut longest, mut at_once) = (0, 0);
        let mut deaf_at = Instant::now() + DEAF;
        loop {
            if backlog.is_empty() {
                let chunk = zeromq.read(OUTWARDS).await?;
                if chunk.is_empty() {
                    return Err(End::Closed);
                }
                longest = longest.max(longest_frame(&mut scanner, &chunk));
                at_once += chunk.len();
                let held = longest.saturating_add(at_once.min(BUFFERED));
                self.shared.table.holds(&self.place, Way::Out, held);
                if chunk.len() < OUTWARDS {
                    at_once = 0;
                }
                backlog.push(chunk.into_boxed_slice().into());
            } else {
                let write = self.peer.write(|| backlog.next());
                let written = timeout_at(deaf_at, write).await;
                backlog.taken(written.map_err(|_elapsed| End::Deaf)??);
                self.shared.table.took(&self.place);
                tokio::task::yield_now().await;
            }
            deaf_at = Instant::now() + DEAF;
            self.behind(&backlog);
        }
    }

    /// To a subscriber: its part of the handshake, which is zeromq's, and then events.
    async fn events(&self, zeromq: &Stream, mut arrivals: Arrivals) -> Result<Infallible, End> {
        let mut backlog = Backlog::default();
        let mut hello = Scanner::new();
        let (mut has_greeted, mut has_ended) = (false, false);
        let mut batch = Vec::new();
        let mut deaf_at = Instant::now() + DEAF;
        loop {
            let is_waited_for = !backlog.is_empty();
            if has_ended && !is_waited_for {
                return Err(End::Closed);
            }
            tokio::select! {
                // Whoever takes something is not deaf, and takes what waits before more.
                biased;
                written = self.peer.write(|| backlog.next()), if is_waited_for => {
                    backlog.taken(written?);
                    deaf_at = Instant::now() + DEAF;
                    self.shared.table.took(&self.place);
                    tokio::task::yield_now().await;
                }
                chunk = zeromq.read(OUTWARDS), if !has_ended => {
                    let chunk = chunk?;
                    has_ended = chunk.is_empty();
                    if !has_greeted && !has_ended {
                        has_greeted = ends_command(&mut hello, &chunk);
                        backlog.push(chunk.into_boxed_slice().into());
                    }
                }
                _ = arrivals.recv_many(&mut batch, PIECES) => {
                    let share = self.shared.table.share();
                    for event in batch.drain(..) {
                        // Before its part of the handshake and after its end nothing is
                        // said to it.
                        let is_spoken_to = has_greeted && !has_ended;
                        let left_out = is_spoken_to && !backlog.offer(event.frames, share);
                        self.shared.counters.events_left_out.add(usize::from(left_out));
                    }
                }
                () = sleep_until(deaf_at), if is_waited_for => return Err(End::Deaf),
            }
            if !is_waited_for {
                deaf_at = Instant::now() + DEAF;
            }
            self.behind(&backlog);
        }
    }

    fn behind(&self, backlog: &Backlog) {
        let ended = self.shared.table.behind(&self.place, backlog.handles());
        self.shared.counters.peers_cut.add(usize::from(ended));
    }
}

/// Bytes of the longest frame that begins in what comes next of a stream.
fn longest_frame(scanner: &mut Scanner, mut bytes: &[u8]) -> usize {
    let lens = std::iter::from_fn(|| scanner.next(&mut bytes)).map(|piece| match piece {
        Piece::Header(header) => usize::try_from(header.len).unwrap_or(usize::MAX),
        _ => 0,
    });
    lens.max().unwrap_or(0)
}

/// Whether a command ends in what comes next of a stream.
fn ends_command(scanner: &mut Scanner, mut bytes: &[u8]) -> bool {
    std::iter::from_fn(|| scanner.next(&mut bytes))
        .any(|piece| matches!(piece, Piece::End(header) if header.command))
}

/// What looks at the bytes of a peer.
#[derive(Debug)]
struct Inspector {
    of: Of,
    /// Whether its one command has begun, and ended.
    has_greeted: bool,
    has_shaken_hands: bool,
}

#[derive(Debug)]
enum Of {
    Client(Requests),
    Subscriber(Subscriptions),
}

impl Inspector {
    /// With what arrives for a subscriber.
    fn of(kind: &Kind) -> (Self, Option<Arrivals>) {
        let (of, arrivals) = match kind {
            Kind::Control => (Of::Client(Requests::default()), None),
            Kind::Events(fanout) => {
                let (subscriptions, arrivals) = Subscriptions::of(fanout);
                (Of::Subscriber(subscriptions), Some(arrivals))
            }
        };
        let inspector = Self {
            of,
            has_greeted: false,
            has_shaken_hands: false,
        };
        (inspector, arrivals)
    }

    fn pass(&mut self, piece: &Piece, out: &mut Vec<u8>) -> Result<(), Refused> {
        match piece {
            Piece::Header(header) if header.command => {
                if self.has_greeted || header.len > MOST_COMMAND {
                    return Err(Refused::Command);
                }
                self.has_greeted = true;
            }
            Piece::End(header) if header.command => self.has_shaken_hands = true,
            _ => {}
        }
        match &mut self.of {
            Of::Client(requests) => requests.pass(piece, out),
            Of::Subscriber(subscriptions) => subscriptions.pass(piece, out)?,
        }
        Ok(())
    }

    /// Whether the peer owes something.
    fn is_amid(&self) -> bool {
        let of_message = match &self.of {
            Of::Client(requests) => requests.is_amid(),
            Of::Subscriber(subscriptions) => subscriptions.is_amid(),
        };
        !self.has_shaken_hands || of_message
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::JoinHandle;

    use super::super::scan::Header;
    use super::super::{Door, Fanout};
    use super::*;
    use crate::lanes::tests::event;

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

    #[tokio::test]
    async fn a_second_command_is_refused() {
        let played = Played::new(&Kind::Control);
        let mut ends = played.connect().await;
        ends.sends(&handshake()).await;
        ends.sends(&header(true, 0)).await;
        ends.relay.await.unwrap();
        let mut long = played.connect().await;
        long.sends(&[0; 64]).await;
        long.sends(&header(true, 4097)).await;
        long.relay.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_subscriptions_have_a_rate() {
        let fanout = Fanout::new(MIB);
        let played = Played::new(&Kind::Events(Arc::clone(&fanout)));
        let mut hasty = played.connect().await;
        hasty.sends(&handshake()).await;
        let again = [header(false, 5), b"\x01log.".to_vec()].concat();
        // Most of it is the same again, and changes nothing, but counts.
        let asked = Instant::now();
        hasty.sends(&again.repeat(18_192)).await;
        hasty
            .sends(&[header(false, 4), b"\x01end".to_vec()].concat())
            .await;
        subscriptions(&fanout, 2).await;
        let taken = asked.elapsed().as_secs();
        // What was read together with the last is waited for afterwards.
        assert!((7..11).contains(&taken), "{taken} s");
    }

    impl Ends {
        /// Shakes hands, and subscribes to a topic where that is something.
        async fn shakes_hands(&mut self, topic: &str) {
            self.sends(&handshake()).await;
            self.zeromq.write_all(&handshake()).await.unwrap();
            let mut greeting = vec![0; handshake().len()];
            self.peer.read_exact(&mut greeting).await.unwrap();
            let subscription = [b"\x01", topic.as_bytes()].concat();
            self.sends(&[header(false, subscription.len()), subscription].concat())
                .await;
        }
    }

    async fn subscriptions(fanout: &Fanout, count: usize) {
        let all = async {
            while fanout.subscriptions() < count {
                tokio::time::sleep(CHANGE).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("them all");
    }

    #[tokio::test]
    async fn where_too_much_is_untaken_those_end_who_take_nothing() {
        const DEAF_ONES: usize = 8;
        let fanout = Fanout::new(64 * 1024);
        let played = Played::new(&Kind::Events(Arc::clone(&fanout)));
        let mut reads = played.connect().await;
        reads.shakes_hands("").await;
        let mut deaf = Vec::new();
        for number in 0..DEAF_ONES {
            let mut one = played.connect().await;
            one.shakes_hands(&format!("log.{number}.")).await;
            deaf.push(one);
        }
        subscriptions(&fanout, DEAF_ONES + 1).await;
        let cut = || played.shared.counters.peers_cut.get();
        let mut number = 0;
        while cut() < 2 {
            let topic = format!("log.{}.stdout", number % DEAF_ONES);
            fanout.publish(event(&topic, vec![b'x'; 4096]));
            let mut frames = vec![0; 2 + topic.len() + 9 + 4096];
            reads.peer.read_exact(&mut frames).await.unwrap();
            assert!(
                frames
                    .windows(topic.len())
                    .any(|part| part == topic.as_bytes())
            );
            number += 1;
            assert!(number < 10_000, "{}", fanout.untaken());
        }
        assert!(fanout.untaken() < 4 * 64 * 1024, "{}", fanout.untaken());
        assert!(!reads.relay.is_finished());
    }

    #[tokio::test]
    async fn what_clients_are_sent_counts_as_well() {
        let played = Played::new(&Kind::Control);
        let mut idle = Vec::new();
        for _ in 0..26 {
            let mut client = played.connect().await;
            client.shakes_hands("").await;
            let reply = [header(false, 10 * MIB), vec![0; 10 * MIB]].concat();
            let mut read = vec![0; reply.len()];
            let (sent, received) = tokio::join!(
                client.zeromq.write_all(&reply),
                client.peer.read_exact(&mut read)
            );
            assert!(sent.is_ok() && received.is_ok());
            idle.push(client);
        }
        let first = tokio::time::timeout(PATIENCE, idle.remove(0).relay);
        first.await.expect("an end").unwrap();
        assert!(!idle.iter().any(|one| one.relay.is_finished()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_ended() {
        // With room for the event, for each of the two.
        let fanout = Fanout::new(64 * MIB);
        for kind in [Kind::Control, Kind::Events(Arc::clone(&fanout))] {
            let played = Played::new(&kind);
            let mut deaf = played.connect().await;
            let mut slow = played.connect().await;
            for ends in [&mut deaf, &mut slow] {
                ends.shakes_hands("").await;
            }
            match &kind {
                Kind::Control => {
                    for ends in [&mut deaf, &mut slow] {
                        let (_, mut zeromq) = UnixStream::pair().unwrap();
                        std::mem::swap(&mut zeromq, &mut ends.zeromq);
                        tokio::spawn(async move {
                            // It fails where the relay ends before.
                            let reply = [header(false, 4 * MIB), vec![0; 4 * MIB]].concat();
                            let _ended = zeromq.write_all(&reply).await;
                            std::future::pending::<()>().await;
                        });
                    }
                }
                Kind::Events(fanout) => {
                    subscriptions(fanout, 2).await;
                    fanout.publish(event("log.a", vec![0; 4 * MIB]));
                }
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
