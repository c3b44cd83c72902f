//! What of a client's messages zeromq gets to see: it holds a message until it has its
//! last frame, however many and however long they are. What is beyond a bound is left
//! out here, and what is left of the message is still one that the host answers as too
//! large or as malformed.

use skep_protocol::MAX_PAYLOAD;

use super::scan::{Header, Piece};
use super::{Refused, command};

/// Bytes of a message that are let through: one more than a payload may have, by which
/// it is known to be too large.
const MOST_BYTES: u64 = MAX_PAYLOAD as u64 + 1;

/// Frames of a message that are let through: more than a delimiter and a payload, by
/// which it is known to be malformed.
const MOST_FRAMES: usize = 8;

/// Bytes of a message that nothing has to be reserved for.
const UNRESERVED: u64 = 16 * 1024;

/// The messages of one connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Of the message under way.
    frames: usize,
    bytes: u64,
    is_reserved: bool,
    is_over: bool,
    /// Of the frame under way.
    let_through: u64,
}

/// How many bytes have to be reserved before the message goes on.
pub(super) type Reserve = Option<u32>;

impl Requests {
    pub(super) fn pass(&mut self, piece: &Piece, out: &mut Vec<u8>) -> Result<Reserve, Refused> {
        match piece {
            Piece::Greeting(bytes) => out.extend_from_slice(bytes),
            Piece::Header(header) if header.command => {
                self.let_through = command(*header, out)?;
            }
            Piece::Header(header) => return Ok(self.begin(*header, out)),
            Piece::Body(bytes) => {
                let most = usize::try_from(self.let_through).unwrap_or(usize::MAX);
                let (part, _left_out) = bytes.split_at(bytes.len().min(most));
                self.let_through -= part.len() as u64;
                out.extend_from_slice(part);
            }
            Piece::End(header) if !header.command && !header.more => *self = Self::default(),
            Piece::End(_) => {}
        }
        Ok(None)
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_amid(&self) -> bool {
        self.frames > 0
    }

    fn begin(&mut self, header: Header, out: &mut Vec<u8>) -> Reserve {
        self.frames = self.frames.saturating_add(1);
        if self.is_over {
            self.let_through = 0;
            return None;
        }
        let len = header.len.min(MOST_BYTES - self.bytes);
        self.is_over = len < header.len || self.frames == MOST_FRAMES;
        self.let_through = len;
        self.bytes += len;
        let more = header.more && !self.is_over;
        Header {
            len,
            more,
            ..header
        }
        .encode(out);
        if self.is_reserved || self.bytes <= UNRESERVED {
            return None;
        }
        self.is_reserved = true;
        // Once for the whole message: two that each wait for more would wait for ever.
        let all = if more { MOST_BYTES } else { self.bytes };
        Some(u32::try_from(all).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::scan::Scanner;

    fn frame(len: u64, more: bool) -> (Header, usize) {
        let command = false;
        (Header { command, more, len }, usize::try_from(len).unwrap())
    }

    /// What is let through of frames, as frames, and what was to be reserved.
    fn passed(frames: &[(Header, usize)]) -> (Vec<(bool, u64)>, Vec<u32>) {
        let mut stream = vec![0; 64];
        for (header, len) in frames {
            header.encode(&mut stream);
            stream.resize(stream.len() + len, b'x');
        }
        let (mut requests, mut out, mut reserved) = (Requests::default(), Vec::new(), Vec::new());
        let mut scanner = Scanner::new();
        for mut part in stream.chunks(4096) {
            while let Some(piece) = scanner.next(&mut part) {
                reserved.extend(requests.pass(&piece, &mut out).unwrap());
            }
        }
        assert!(!requests.is_amid());
        let (mut scanner, mut found, mut out) = (Scanner::new(), Vec::new(), &out[..]);
        while let Some(piece) = scanner.next(&mut out) {
            if let Piece::End(header) = piece {
                found.push((header.more, header.len));
            }
        }
        (found, reserved)
    }

    #[test]
    fn what_is_within_the_bounds_is_not_changed() {
        let cap = MAX_PAYLOAD as u64;
        let (found, reserved) = passed(&[frame(0, true), frame(cap, false), frame(5, false)]);
        assert_eq!(found, [(true, 0), (false, cap), (false, 5)]);
        assert_eq!(reserved, [u32::try_from(cap).unwrap()]);
    }

    #[test]
    fn a_payload_over_the_cap_ends_one_byte_over_it() {
        let (found, _) = passed(&[frame(3 * MOST_BYTES, false), frame(1, false)]);
        assert_eq!(found, [(false, MOST_BYTES), (false, 1)]);
        let (found, _) = passed(&[frame(0, true), frame(MOST_BYTES + 1, true), frame(9, false)]);
        assert_eq!(found, [(true, 0), (false, MOST_BYTES)]);
    }

    #[test]
    fn frames_beyond_the_bound_are_left_out() {
        let mut frames = vec![frame(1, true); 1000];
        frames.push(frame(1, false));
        frames.push(frame(2, false));
        let (found, reserved) = passed(&frames);
        let mut wanted = vec![(true, 1); MOST_FRAMES - 1];
        wanted.extend([(false, 1), (false, 2)]);
        assert_eq!(found, wanted);
        assert!(reserved.is_empty());
    }

    #[test]
    fn large_frames_of_one_message_reserve_once() {
        let mut frames = vec![frame(4 << 20, true); 5];
        frames.push(frame(0, false));
        let (found, reserved) = passed(&frames);
        assert_eq!(found.iter().map(|(_, len)| len).sum::<u64>(), MOST_BYTES);
        assert_eq!(reserved, [u32::try_from(MOST_BYTES).unwrap()]);
    }

    #[test]
    fn a_long_command_is_refused() {
        let header = Header {
            command: true,
            more: false,
            len: 1 << 40,
        };
        let passed = Requests::default().pass(&Piece::Header(header), &mut Vec::new());
        assert!(matches!(passed, Err(Refused::Command)));
    }
}
