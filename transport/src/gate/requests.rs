//! What of a client's messages zeromq gets to see: it holds a message until it has its
//! last frame, however many and however long they are. What is beyond a bound is left
//! out here, and what is left of the message is still one that the host answers as too
//! large or as malformed.

use skep_protocol::MAX_PAYLOAD;

use super::scan::{Header, Piece};

/// Bytes of a message that are let through: one more than a payload may have, by which
/// it is known to be too large.
const MOST_BYTES: u64 = MAX_PAYLOAD as u64 + 1;

/// Frames of a message that are let through: more than a delimiter and a payload, by
/// which it is known to be malformed.
const MOST_FRAMES: usize = 8;

/// The messages of one connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Of the message under way.
    frames: usize,
    bytes: u64,
    is_over: bool,
    /// Of the frame under way.
    let_through: u64,
}

impl Requests {
    pub(super) fn pass(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Greeting(bytes) => out.extend_from_slice(bytes),
            Piece::Header(header) if header.command => {
                self.let_through = header.len;
                header.encode(out);
            }
            Piece::Header(header) => self.begin(*header, out),
            Piece::Body(bytes) => {
                let most = usize::try_from(self.let_through).unwrap_or(usize::MAX);
                let (part, _left_out) = bytes.split_at(bytes.len().min(most));
                self.let_through -= part.len() as u64;
                out.extend_from_slice(part);
            }
            Piece::End(header) if !header.command && !header.more => *self = Self::default(),
            Piece::End(_) => {}
        }
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_amid(&self) -> bool {
        self.frames > 0
    }

    /// Bytes that were let through of the message under way.
    pub(super) fn under_way(&self) -> usize {
        let passed = self.bytes.saturating_sub(self.let_through);
        usize::try_from(passed).unwrap_or(usize::MAX)
    }

    fn begin(&mut self, header: Header, out: &mut Vec<u8>) {
        self.frames = self.frames.saturating_add(1);
        if self.is_over {
            self.let_through = 0;
            return;
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

    /// What is let through of frames, as frames.
    fn passed(frames: &[(Header, usize)]) -> Vec<(bool, u64)> {
        let mut stream = vec![0; 64];
        for (header, len) in frames {
            header.encode(&mut stream);
            stream.resize(stream.len() + len, b'x');
        }
        let (mut requests, mut out) = (Requests::default(), Vec::new());
        let mut scanner = Scanner::new();
        for mut part in stream.chunks(4096) {
            while let Some(piece) = scanner.next(&mut part) {
                requests.pass(&piece, &mut out);
            }
        }
        assert!(!requests.is_amid());
        let (mut scanner, mut found, mut out) = (Scanner::new(), Vec::new(), &out[..]);
        while let Some(piece) = scanner.next(&mut out) {
            if let Piece::End(header) = piece {
                found.push((header.more, header.len));
            }
        }
        found
    }

    #[test]
    fn what_is_within_the_bounds_is_not_changed() {
        let cap = MAX_PAYLOAD as u64;
        let found = passed(&[frame(0, true), frame(cap, false), frame(5, false)]);
        assert_eq!(found, [(true, 0), (false, cap), (false, 5)]);
    }

    #[test]
    fn a_payload_over_the_cap_ends_one_byte_over_it() {
        let found = passed(&[frame(3 * MOST_BYTES, false), frame(1, false)]);
        assert_eq!(found, [(false, MOST_BYTES), (false, 1)]);
        let found = passed(&[frame(0, true), frame(MOST_BYTES + 1, true), frame(9, false)]);
        assert_eq!(found, [(true, 0), (false, MOST_BYTES)]);
    }

    #[test]
    fn frames_beyond_the_bound_are_left_out() {
        let mut frames = vec![frame(1, true); 1000];
        frames.push(frame(1, false));
        frames.push(frame(2, false));
        let found = passed(&frames);
        let mut wanted = vec![(true, 1); MOST_FRAMES - 1];
        wanted.extend([(false, 1), (false, 2)]);
        assert_eq!(found, wanted);
    }

    #[test]
    fn large_frames_of_one_message_count_together() {
        let mut frames = vec![frame(4 << 20, true); 5];
        frames.push(frame(0, false));
        let found = passed(&frames);
        assert_eq!(found.iter().map(|(_, len)| len).sum::<u64>(), MOST_BYTES);
    }

    #[test]
    fn what_was_let_through_of_a_message_is_known() {
        let mut requests = Requests::default();
        let mut out = Vec::new();
        let (first, _) = frame(10, true);
        requests.pass(&Piece::Header(first), &mut out);
        assert_eq!((requests.is_amid(), requests.under_way()), (true, 0));
        requests.pass(&Piece::Body(b"sixsix"), &mut out);
        assert_eq!(requests.under_way(), 6);
        requests.pass(&Piece::Body(b"four"), &mut out);
        requests.pass(&Piece::End(first), &mut out);
        let (last, _) = frame(3, false);
        requests.pass(&Piece::Header(last), &mut out);
        requests.pass(&Piece::Body(b"end"), &mut out);
        assert_eq!(requests.under_way(), 13);
        requests.pass(&Piece::End(last), &mut out);
        assert_eq!((requests.is_amid(), requests.under_way()), (false, 0));
    }
}
