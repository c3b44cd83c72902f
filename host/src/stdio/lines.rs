//! Bytes to the pieces of which log records are made. Pure.

use skep_protocol::MAX_RECORD;

/// A line without its newline, or a piece of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub data: Vec<u8>,
    /// No newline follows.
    pub partial: bool,
}

/// Splits one stream. It holds at most one piece that is not full yet.
#[derive(Debug, Default)]
pub struct LineSplitter {
    tail: Vec<u8>,
}

impl LineSplitter {
    /// Adds bytes and gives every piece that is complete: up to a newline, or
    /// up to [`MAX_RECORD`] bytes.
    pub fn push(&mut self, mut data: &[u8], mut emit: impl FnMut(Piece)) {
        while !data.is_empty() {
            let room = MAX_RECORD - self.tail.len();
            let window = data.get(..room.min(data.len())).unwrap_or(data);
            if let Some(newline) = window.iter().position(|byte| *byte == b'\n') {
                let (line, rest) = data.split_at(newline);
                self.tail.extend_from_slice(line);
                emit(Piece {
                    data: std::mem::take(&mut self.tail),
                    partial: false,
                });
                data = rest.get(1..).unwrap_or_default();
            } else if room <= data.len() && data.get(room) != Some(&b'\n') {
                let (piece, rest) = data.split_at(room);
                self.tail.extend_from_slice(piece);
                emit(Piece {
                    data: std::mem::take(&mut self.tail),
                    partial: true,
                });
                data = rest;
            } else {
                // Either there is room left, or the newline is the very next
                // byte and the full line goes out as one piece.
                let (piece, rest) = data.split_at(window.len());
                self.tail.extend_from_slice(piece);
                if rest.is_empty() {
                    return;
                }
                emit(Piece {
                    data: std::mem::take(&mut self.tail),
                    partial: false,
                });
                data = rest.get(1..).unwrap_or_default();
            }
        }
    }

    /// Gives what has no newline yet: after a while, or at the end.
    pub fn flush(&mut self) -> Option<Piece> {
        let data = std::mem::take(&mut self.tail);
        (!data.is_empty()).then_some(Piece {
            data,
            partial: true,
        })
    }

    /// Whether something waits for its newline.
    #[must_use]
    pub fn has_tail(&self) -> bool {
        !self.tail.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut splitter = LineSplitter::default();
        for chunk in chunks {
            splitter.push(chunk, |piece| pieces.push(piece));
        }
        pieces.extend(splitter.flush());
        pieces
    }

    fn line(data: &[u8]) -> Piece {
        Piece {
            data: data.to_vec(),
            partial: false,
        }
    }

    fn part(data: &[u8]) -> Piece {
        Piece {
            data: data.to_vec(),
            partial: true,
        }
    }

    #[test]
    fn lines_pieces_and_tails() {
        assert_eq!(
            split(&[b"a\nb", b"c\n\n", b"d"]),
            [line(b"a"), line(b"bc"), line(b""), part(b"d")]
        );
        assert_eq!(split(&[b""]), []);
        let long = vec![b'x'; MAX_RECORD];
        assert_eq!(split(&[&long, b"\n"])[0].data.len(), MAX_RECORD);
        assert_eq!(
            split(&[&[&long[..], b"\ny"].concat()]),
            [line(&long), part(b"y")]
        );
        assert_eq!(
            split(&[&[&long[..], b"y\n"].concat()]),
            [part(&long), line(b"y")]
        );
    }

    #[test]
    fn a_newline_after_a_flushed_piece_is_an_empty_line() {
        let mut splitter = LineSplitter::default();
        splitter.push(b"wait", |_| panic!("nothing is complete"));
        assert_eq!(splitter.flush(), Some(part(b"wait")));
        let mut pieces = Vec::new();
        splitter.push(b"\n", |piece| pieces.push(piece));
        assert_eq!(pieces, [line(b"")]);
    }

    proptest! {
        #[test]
        fn the_stream_is_the_concatenation(
            chunks in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![9 => any::<u8>(), 1 => Just(b'\n')], 0..20_000),
                0..5,
            )
        ) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let pieces = split(&chunks);
            let mut joined = Vec::new();
            for piece in &pieces {
                prop_assert!(piece.data.len() <= MAX_RECORD);
                prop_assert!(!piece.data.contains(&b'\n'));
                joined.extend_from_slice(&piece.data);
                if !piece.partial {
                    joined.push(b'\n');
                }
            }
            prop_assert_eq!(joined, chunks.concat());
        }
    }
}
