//! What of a subscriber's messages zeromq gets to see: those by which something changes.
//! It keeps every subscription that it is sent, compares each event with all of them, and
//! looks at all of them to find one that is taken back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Refused;
use super::scan::{Header, Piece};

/// Subscriptions of one connection.
pub(super) const MOST_OF_ONE: usize = 4096;

/// No topic is longer, so that what is longer is a prefix of none.
const MOST_TOPIC: usize = 1024;

const SUBSCRIBE: u8 = 1;
const UNSUBSCRIBE: u8 = 0;

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// How often each was asked for: it ends when it was taken back as often.
    prefixes: HashMap<Box<[u8]>, u32>,
    /// Of the message under way.
    frames: usize,
    message: Vec<u8>,
    is_nothing: bool,
    /// Of the frame under way.
    is_command: bool,
}

impl Subscriptions {
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
                    self.change(&message, out)?;
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

    fn change(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let Some((kind, prefix)) = message.split_first() else {
            return Ok(());
        };
        let count = self.prefixes.len();
        let changes = match (*kind, self.prefixes.entry(prefix.into())) {
            (SUBSCRIBE, Entry::Vacant(_)) if count == MOST_OF_ONE => {
                return Err(Refused::Subscriptions);
            }
            (SUBSCRIBE, Entry::Vacant(new)) => {
                new.insert(1);
                true
            }
            (SUBSCRIBE, Entry::Occupied(mut known)) => {
                let times = known.get_mut();
                *times = times.saturating_add(1);
                false
            }
            (UNSUBSCRIBE, Entry::Occupied(mut known)) => {
                *known.get_mut() -= 1;
                let is_last = *known.get() == 0;
                if is_last {
                    known.remove();
                }
                is_last
            }
            _ => false,
        };
        if changes {
            Header {
                command: false,
                more: false,
                len: message.len() as u64,
            }
            .encode(out);
            out.extend_from_slice(message);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::scan::Scanner;

    /// Messages of frames of a subscriber, each with what zeromq is sent of it.
    struct Subscriber(Subscriptions, Scanner);

    impl Subscriber {
        fn new() -> Self {
            let mut scanner = Scanner::new();
            assert!(scanner.next(&mut &[0; 64][..]).is_some());
            Self(Subscriptions::default(), scanner)
        }

        fn sends(&mut self, frames: &[&[u8]]) -> Result<Vec<u8>, Refused> {
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
            while let Some(piece) = self.1.next(&mut input) {
                self.0.pass(&piece, &mut out)?;
            }
            assert!(!self.0.is_amid());
            Ok(out)
        }

        fn passes(&mut self, message: &[u8]) -> bool {
            let sent = self.sends(&[message]).unwrap();
            assert!(sent.is_empty() || sent[2..] == *message, "{sent:?}");
            !sent.is_empty()
        }
    }

    #[test]
    fn only_changes_are_passed_on() {
        let mut subscriber = Subscriber::new();
        assert!(subscriber.passes(b"\x01log."));
        assert!(!subscriber.passes(b"\x01log."));
        assert!(!subscriber.passes(b"\x00other"));
        assert!(!subscriber.passes(b"\x00log."), "it was asked for twice");
        assert!(subscriber.passes(b"\x00log."));
        assert!(!subscriber.passes(b"\x00log."));
        assert!(subscriber.passes(b"\x01"), "everything");
        assert_eq!(subscriber.0.count(), 1);
    }

    #[test]
    fn what_is_no_subscription_is_left_out() {
        let mut subscriber = Subscriber::new();
        assert!(!subscriber.passes(b""));
        assert!(!subscriber.passes(b"\x02log."));
        for frames in [
            &[&b"\x01log."[..], b"a"][..],
            &[b"", b"\x01log."],
            &[&[SUBSCRIBE; MOST_TOPIC + 2]],
        ] {
            assert_eq!(subscriber.sends(frames).unwrap(), b"");
        }
        assert_eq!(subscriber.0.count(), 0);
        assert!(
            !subscriber
                .sends(&[&[SUBSCRIBE; MOST_TOPIC + 1]])
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn there_are_only_so_many() {
        let mut subscriber = Subscriber::new();
        for number in 0..MOST_OF_ONE {
            assert!(subscriber.passes(format!("\x01log.{number}").as_bytes()));
        }
        assert!(!subscriber.passes(b"\x01log.1"), "one that there is");
        let more = subscriber.sends(&[b"\x01more"]);
        assert!(matches!(more, Err(Refused::Subscriptions)));
    }
}
