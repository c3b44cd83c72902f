//! What a subscriber asks for. zeromq gets to see its greeting and its command alone: it
//! would keep every subscription that it is sent, compare each event with all of them, and
//! look at all of them to find one that is taken back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Refused;
use super::fanout::{Arrivals, Fanout, Subscriber};
use super::scan::Piece;

/// Subscriptions of one connection.
pub(super) const MOST_OF_ONE: usize = 4096;

/// No topic is longer, so that what is longer is a prefix of none.
const MOST_TOPIC: usize = 1024;

/// For so many the room is kept.
const FEW: usize = 16;

const SUBSCRIBE: u8 = 1;
const UNSUBSCRIBE: u8 = 0;

/// The subscriptions of one connection, which end with it.
#[derive(Debug)]
pub(super) struct Subscriptions {
    fanout: Arc<Fanout>,
    subscriber: Arc<Subscriber>,
    /// How often each was asked for: it ends when it was taken back as often.
    prefixes: HashMap<Box<[u8]>, u32>,
    /// Of the message under way.
    frames: usize,
    message: Vec<u8>,
    is_nothing: bool,
    /// Of the frame under way.
    is_command: bool,
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for prefix in self.prefixes.keys() {
            self.fanout.unsubscribe(&self.subscriber, prefix);
        }
    }
}

impl Subscriptions {
    pub(super) fn of(fanout: &Arc<Fanout>) -> (Self, Arrivals) {
        let (subscriber, arrivals) = fanout.enter();
        let subscriptions = Self {
            fanout: Arc::clone(fanout),
            subscriber,
            prefixes: HashMap::new(),
            frames: 0,
            message: Vec::new(),
            is_nothing: false,
            is_command: false,
        };
        (subscriptions, arrivals)
    }

    pub(super) fn pass(&mut self, piece: &Piece, out: &mut Vec<u8>) -> Result<(), Refused> {
        match piece {
            Piece::Greeting(bytes) => out.extend_from_slice(bytes),
            Piece::Header(header) => {
                self.is_command = header.command;
                if header.command {
                    header.encode(out);
                } else {
                    self.frames = self.frames.saturating_add(1);
                    self.is_nothing |= self.frames > 1 || header.len > MOST_TOPIC as u64 + 1;
                }
            }
            Piece::Body(bytes) if self.is_command => out.extend_from_slice(bytes),
            Piece::Body(bytes) if !self.is_nothing => self.message.extend_from_slice(bytes),
            Piece::End(header) if !header.command && !header.more => {
                let message = std::mem::take(&mut self.message);
                let is_nothing = std::mem::take(&mut self.is_nothing);
                self.frames = 0;
                if !is_nothing {
                    self.change(&message)?;
                }
            }
            Piece::Body(_) | Piece::End(_) => {}
        }
        Ok(())
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_amid(&self) -> bool {
        self.frames > 0
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.prefixes.len()
    }

    fn change(&mut self, message: &[u8]) -> Result<(), Refused> {
        let Some((kind, prefix)) = message.split_first() else {
            return Ok(());
        };
        let count = self.prefixes.len();
        match (*kind, self.prefixes.entry(prefix.into())) {
            (SUBSCRIBE, Entry::Vacant(_)) if count == MOST_OF_ONE => {
                return Err(Refused::Subscriptions);
            }
            (SUBSCRIBE, Entry::Vacant(new)) => {
                new.insert(1);
                self.fanout.subscribe(&self.subscriber, prefix);
            }
            (SUBSCRIBE, Entry::Occupied(mut known)) => {
                let times = known.get_mut();
                *times = times.saturating_add(1);
            }
            (UNSUBSCRIBE, Entry::Occupied(mut known)) => {
                *known.get_mut() -= 1;
                if *known.get() == 0 {
                    known.remove();
                    let len = self.prefixes.len();
                    if self.prefixes.capacity() > 4 * len.max(FEW) {
                        self.prefixes.shrink_to(2 * len);
                    }
                    self.fanout.unsubscribe(&self.subscriber, prefix);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::scan::{Header, Scanner};

    /// Messages of frames of a subscriber.
    struct Sender {
        subscriptions: Subscriptions,
        _arrivals: Arrivals,
        scanner: Scanner,
    }

    impl Sender {
        fn new() -> Self {
            let mut scanner = Scanner::new();
            assert!(scanner.next(&mut &[0; 64][..]).is_some());
            let (subscriptions, _arrivals) = Subscriptions::of(&Fanout::new(1000));
            Self {
                subscriptions,
                _arrivals,
                scanner,
            }
        }

        fn sends(&mut self, frames: &[&[u8]]) -> Result<(), Refused> {
            let mut stream = Vec::new();
            for (at, frame) in frames.iter().enumerate() {
                Header {
                    command: false,
                    more: at + 1 < frames.len(),
                    len: frame.len() as u64,
                }
                .encode(&mut stream);
                stream.extend_from_slice(frame);
            }
            let (mut input, mut out) = (&stream[..], Vec::new());
            while let Some(piece) = self.scanner.next(&mut input) {
                self.subscriptions.pass(&piece, &mut out)?;
            }
            assert!(!self.subscriptions.is_amid() && out.is_empty());
            Ok(())
        }

        /// How many subscriptions it has after a message, which the fan-out has as well.
        fn has_after(&mut self, message: &[u8]) -> usize {
            self.sends(&[message]).unwrap();
            let count = self.subscriptions.count();
            assert_eq!(self.subscriptions.fanout.subscriptions(), count);
            count
        }
    }

    #[test]
    fn one_is_there_until_it_was_taken_back_as_often() {
        let mut sender = Sender::new();
        assert_eq!(sender.has_after(b"\x01log."), 1);
        assert_eq!(sender.has_after(b"\x01log."), 1);
        assert_eq!(sender.has_after(b"\x00other"), 1);
        assert_eq!(sender.has_after(b"\x00log."), 1, "it was asked for twice");
        assert_eq!(sender.has_after(b"\x00log."), 0);
        assert_eq!(sender.has_after(b"\x00log."), 0);
        assert_eq!(sender.has_after(b"\x01"), 1, "everything");
        let fanout = Arc::clone(&sender.subscriptions.fanout);
        drop(sender);
        assert_eq!(fanout.subscriptions(), 0);
    }

    #[test]
    fn what_is_no_subscription_is_left_out() {
        let mut sender = Sender::new();
        assert_eq!(sender.has_after(b""), 0);
        assert_eq!(sender.has_after(b"\x02log."), 0);
        for frames in [
            &[&b"\x01log."[..], b"a"][..],
            &[b"", b"\x01log."],
            &[&[SUBSCRIBE; MOST_TOPIC + 2]],
        ] {
            sender.sends(frames).unwrap();
        }
        assert_eq!(sender.subscriptions.count(), 0);
        assert_eq!(sender.has_after(&[SUBSCRIBE; MOST_TOPIC + 1]), 1);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut sender = Sender::new();
        for number in 0..MOST_OF_ONE {
            sender
                .sends(&[format!("\x01log.{number}").as_bytes()])
                .unwrap();
        }
        assert_eq!(sender.has_after(b"\x01log.1"), MOST_OF_ONE);
        let more = sender.sends(&[b"\x01more"]);
        assert!(matches!(more, Err(Refused::Subscriptions)));
        for number in 0..MOST_OF_ONE {
            sender
                .sends(&[format!("\x00log.{number}").as_bytes()])
                .unwrap();
        }
        assert!(sender.subscriptions.prefixes.capacity() <= 4 * FEW);
    }
}
