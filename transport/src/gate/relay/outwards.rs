//! To the peer: what zeromq has for it, and events.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{DEAF, End, Relay};
use crate::gate::Shared;
use crate::gate::backlog::{Backlog, PIECES};
use crate::gate::fanout::{Arrivals, Event};
use crate::gate::line::Owing;
use crate::gate::scan::{Header, Piece, Scanner};
use crate::gate::stream::Stream;
use crate::gate::table::Way;

/// How much is read at once.
const OUTWARDS: usize = 64 * 1024;

/// How many bytes zeromq collects before it writes them, besides the message with which
/// it has so many: `asynchronous_codec`'s high water mark.
const BUFFERED: usize = 128 * 1024;

/// How much is read at once of what nobody takes: little, since zeromq goes on as soon as
/// there is room.
const LEFT: usize = 16 * 1024;
/// What each frame of it costs: three times as long as zeromq takes.
const LEFT_FRAME: Duration = Duration::from_micros(4);

/// How long that may take; what is left then is dropped at once.
const LINGER: Duration = Duration::from_secs(5);

/// How often a subscriber may take of what waits until it is offered what has come.
const IN_A_ROW: u32 = 8;

impl Relay {
    /// To a client: what zeromq has for it. While some of it waits, nothing more is read
    /// of zeromq, which bounds what waits there.
    pub(super) async fn replies(
        &self,
        zeromq: &Stream,
        scanner: &mut Scanner,
    ) -> Result<Infallible, End> {
        let mut backlog = Backlog::default();
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
                longest = longest.max(longest_frame(scanner, &chunk));
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
    pub(super) async fn events(
        &self,
        zeromq: &Stream,
        mut arrivals: Arrivals,
    ) -> Result<Infallible, End> {
        let mut backlog = Backlog::default();
        let mut hello = Scanner::new();
        let (mut has_greeted, mut has_ended) = (false, false);
        let mut batch = Vec::new();
        let mut in_a_row = 0;
        let mut deaf_at = Instant::now() + DEAF;
        loop {
            let is_waited_for = !backlog.is_empty();
            if has_ended && !is_waited_for {
                return Err(End::Closed);
            }
            tokio::select! {
                // Whoever takes something is not deaf, and takes what waits before more.
                // The next events wait until those that have come are taken up here.
                biased;
                written = self.peer.write(|| backlog.next()), if is_waited_for => {
                    backlog.taken(written?);
                    deaf_at = Instant::now() + DEAF;
                    self.shared.table.took(&self.place);
                    in_a_row += 1;
                    if in_a_row == IN_A_ROW {
                        in_a_row = 0;
                        let come = std::iter::from_fn(|| arrivals.try_recv().ok());
                        batch.extend(come.take(PIECES));
                        self.offer(&mut batch, &mut backlog, has_greeted && !has_ended);
                    }
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
                    in_a_row = 0;
                    self.offer(&mut batch, &mut backlog, has_greeted && !has_ended);
                }
                () = sleep_until(deaf_at), if is_waited_for => return Err(End::Deaf),
            }
            if !is_waited_for {
                deaf_at = Instant::now() + DEAF;
            }
            self.behind(&backlog);
        }
    }

    /// Before its part of the handshake and after its end nothing is said to it.
    fn offer(&self, events: &mut Vec<Event>, backlog: &mut Backlog, is_spoken_to: bool) {
        let share = self.shared.table.share();
        for event in events.drain(..) {
            let left_out = is_spoken_to && !backlog.offer(event.frames, share);
            self.shared
                .counters
                .events_left_out
                .add(usize::from(left_out));
        }
    }

    fn behind(&self, backlog: &Backlog) {
        let ended = self.shared.table.behind(&self.place, backlog.handles());
        self.shared.counters.peers_cut.add(usize::from(ended));
    }
}

/// Takes what zeromq still has for a peer that has gone, little by little: it would drop
/// it all at once, which takes a second for each million of replies.
pub(super) async fn leave(zeromq: &Stream, scanner: &mut Scanner, shared: &Shared) {
    let mut owing = Owing::new();
    let rest = async {
        zeromq.end_writing()?;
        loop {
            let chunk = zeromq.read(LEFT).await?;
            if chunk.is_empty() {
                return Ok::<_, std::io::Error>(());
            }
            let frames = headers(scanner, &chunk).count();
            let price = LEFT_FRAME.saturating_mul(u32::try_from(frames).unwrap_or(u32::MAX));
            let all = shared.table.len();
            shared.leavers.pay(&mut owing, price, all).await;
            tokio::task::yield_now().await;
        }
    };
    // However it ends, it has left.
    let _end = timeout(LINGER, rest).await;
}

/// Bytes of the longest frame that begins in what comes next of a stream.
fn longest_frame(scanner: &mut Scanner, bytes: &[u8]) -> usize {
    let longest = headers(scanner, bytes).map(|header| header.len).max();
    usize::try_from(longest.unwrap_or(0)).unwrap_or(usize::MAX)
}

/// The headers that end in what comes next of a stream.
fn headers(scanner: &mut Scanner, mut bytes: &[u8]) -> impl Iterator<Item = Header> {
    let pieces = std::iter::from_fn(move || scanner.next(&mut bytes));
    pieces.filter_map(|piece| match piece {
        Piece::Header(header) => Some(header),
        _ => None,
    })
}

/// Whether a command ends in what comes next of a stream.
fn ends_command(scanner: &mut Scanner, mut bytes: &[u8]) -> bool {
    std::iter::from_fn(|| scanner.next(&mut bytes))
        .any(|piece| matches!(piece, Piece::End(header) if header.command))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::PATIENCE;
    use super::super::played::{Played, about, end_of, header, subscriptions};
    use super::*;
    use crate::gate::{Fanout, Kind};
    use crate::lanes::tests::event;

    const MIB: usize = 1 << 20;

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
            fanout.room().await.publish(event(&topic, vec![b'x'; 4096]));
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
        let first = idle.remove(0).ended_after();
        tokio::time::timeout(PATIENCE, first).await.expect("an end");
        for one in &idle {
            let nothing = one.peer.try_read(&mut [0]).unwrap_err();
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        }
    }

    #[tokio::test]
    async fn what_is_left_for_who_has_gone_is_taken() {
        let played = Played::new(&Kind::Control);
        let mut ends = played.connect().await;
        ends.shakes_hands("").await;
        drop(ends.peer);
        let replies = [header(false, 1000), vec![0; 1000]].concat().repeat(4000);
        let rest = ends.zeromq.write_all(&replies);
        tokio::time::timeout(PATIENCE, rest)
            .await
            .expect("a way for it")
            .unwrap();
        drop(ends.zeromq);
        ends.relay.await.unwrap();
        assert_eq!(played.shared.counters.peers_cut.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_does_not_linger_for_long() {
        let played = Played::new(&Kind::Control);
        let mut ends = played.connect().await;
        ends.shakes_hands("").await;
        let asked = Instant::now();
        ends.sends(&header(true, 0)).await;
        // A second command ends it, and zeromq does not.
        ends.relay.await.unwrap();
        about(asked.elapsed(), LINGER);
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
                            end_of(&mut zeromq).await;
                        });
                    }
                }
                Kind::Events(fanout) => {
                    subscriptions(fanout, 2).await;
                    fanout
                        .room()
                        .await
                        .publish(event("log.a", vec![0; 4 * MIB]));
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
