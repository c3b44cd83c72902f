//! From the peer to zeromq.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{End, PATIENCE, Relay};
use crate::gate::fanout::Arrivals;
use crate::gate::line::{FREE, Owing};
use crate::gate::requests::Requests;
use crate::gate::scan::{Piece, Scanner};
use crate::gate::stream::Stream;
use crate::gate::subscriptions::Subscriptions;
use crate::gate::table::Way;
use crate::gate::{Kind, MOST_COMMAND, Refused};

/// How long one message of a subscriber counts, and how much of that may come at once:
/// each takes the lock under which events are handed out.
const CHANGE: Duration = Duration::from_millis(1);
const AT_ONCE: Duration = Duration::from_millis(8192);

/// How much is read at once. Of a peer it is little: a turn is as long as that takes, of
/// the shortest frames.
const INWARDS: usize = 16 * 1024;

/// What a read costs, whatever it brings.
const READ: Duration = Duration::from_micros(20);

/// What a frame costs, about as long as the host needs to answer it; and one that goes
/// nowhere, ten times as long as it takes.
const FRAME: Duration = Duration::from_micros(20);
const NOTHING: Duration = Duration::from_micros(1);

/// What a peer has sent, in its turn.
#[derive(Debug)]
struct Turn {
    /// What of it goes to zeromq.
    out: Vec<u8>,
    /// Whether there is some of the frame under way.
    goes_on: bool,
    price: Duration,
    owing: Owing,
}

impl Turn {
    fn new() -> Self {
        Self {
            out: Vec::new(),
            goes_on: false,
            price: Duration::ZERO,
            owing: Owing::new(),
        }
    }
}

impl Relay {
    pub(super) async fn inwards(
        &self,
        zeromq: &Stream,
        mut inspector: Inspector,
    ) -> Result<Infallible, End> {
        let mut scanner = Scanner::new();
        let mut turn = Turn::new();
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
            turn.price += READ;
            let mut messages = 0;
            let mut input = &chunk[..];
            while let Some(piece) = scanner.next(&mut input) {
                let before = turn.out.len();
                inspector.pass(&piece, &mut turn.out)?;
                turn.goes_on |= turn.out.len() > before;
                if matches!(piece, Piece::End(_)) {
                    turn.price += match std::mem::take(&mut turn.goes_on) {
                        true => FRAME,
                        false => NOTHING,
                    };
                    if !inspector.is_amid() {
                        patience = PATIENCE;
                        messages += 1;
                    }
                }
                if turn.out.len() >= INWARDS || turn.price >= FREE {
                    self.end_turn(&mut turn, zeromq, &inspector).await?;
                }
            }
            self.end_turn(&mut turn, zeromq, &inspector).await?;
            if matches!(inspector.of, Of::Subscriber(_)) {
                let now = Instant::now();
                paid_until = paid_until.max(now) + CHANGE * messages;
                tokio::time::sleep(paid_until.saturating_duration_since(now + AT_ONCE)).await;
            }
        }
    }

    /// However fast it sends, everybody else has a turn now.
    async fn end_turn(
        &self,
        turn: &mut Turn,
        zeromq: &Stream,
        inspector: &Inspector,
    ) -> Result<(), End> {
        zeromq.write_all(&turn.out).await?;
        turn.out.clear();
        self.note(inspector);
        let (price, all) = (std::mem::take(&mut turn.price), self.shared.table.len());
        let line = &self.shared.senders;
        line.pay_if_busy(&mut turn.owing, price, all).await;
        Ok(())
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
}

/// What looks at the bytes of a peer.
#[derive(Debug)]
pub(super) struct Inspector {
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
    pub(super) fn of(kind: &Kind) -> (Self, Option<Arrivals>) {
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
    use std::sync::Arc;

    use super::super::played::{Played, about, handshake, header, subscriptions};
    use super::*;
    use crate::gate::Fanout;

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
        ends.ended_after().await;
        let mut long = played.connect().await;
        long.sends(&[0; 64]).await;
        long.sends(&header(true, 4097)).await;
        long.ended_after().await;
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_send_much_stand_in_a_line_where_turns_take_long() {
        const MANY: usize = 20;
        let played = Played::new(&Kind::Control);
        let mut hasty = Vec::new();
        for _ in 0..MANY {
            let mut one = played.connect().await;
            one.sends(&handshake()).await;
            one.sends(&[1, 0].repeat(10_000)).await;
            hasty.push(one);
        }
        let mut was_long = false;
        for _ in 0..100 {
            // As long as a turn of somebody else.
            tokio::time::advance(Duration::from_millis(1)).await;
            was_long |= played.shared.senders.is_long();
        }
        assert!(was_long);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_subscriptions_have_a_rate() {
        let fanout = Fanout::new(1000);
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
}
