//! Cuts a ZMTP 3.0 stream into greeting, frame headers and bodies, wherever its reads
//! end. Holds nine bytes at most, whatever a header claims.
//! <https://rfc.zeromq.org/spec/23/>

const GREETING: usize = 64;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) command: bool,
    /// Whether its message has another frame.
    pub(super) more: bool,
    /// Bytes of its body.
    pub(super) len: u64,
}

/// The next of a stream. A frame is a header, its body in any number of parts, and an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Greeting(&'a [u8]),
    Header(Header),
    Body(&'a [u8]),
    End(Header),
}

#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// What there is of a header.
    header: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Greeting { left: usize },
    Header,
    Body { header: Header, left: u64 },
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Greeting { left: GREETING },
            header: Vec::with_capacity(9),
        }
    }

    /// The next piece, which is taken off the input; none where more has to be read.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        match &mut self.state {
            State::Greeting { left } => {
                let part = split(input, *left)?;
                *left -= part.len();
                if *left == 0 {
                    self.state = State::Header;
                }
                Some(Piece::Greeting(part))
            }
            State::Header => {
                let header = loop {
                    if let Some(header) = Header::decode(&self.header) {
                        break header;
                    }
                    let (first, rest) = input.split_first()?;
                    self.header.push(*first);
                    *input = rest;
                };
                self.header.clear();
                let left = header.len;
                self.state = State::Body { header, left };
                Some(Piece::Header(header))
            }
            State::Body { header, left: 0 } => {
                let header = *header;
                self.state = State::Header;
                Some(Piece::End(header))
            }
            State::Body { left, .. } => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let part = split(input, most)?;
                *left -= part.len() as u64;
                Some(Piece::Body(part))
            }
        }
    }
}

/// Up to `most` bytes of the input, or none where it is at its end.
fn split<'a>(input: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    (!part.is_empty()).then_some(part)
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, len) = bytes.split_first()?;
        let len = if flags & LONG == 0 {
            u64::from(*len.first()?)
        } else {
            u64::from_be_bytes(len.try_into().ok()?)
        };
        Some(Self {
            command: flags & COMMAND != 0,
            more: flags & MORE != 0,
            len,
        })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let mut flags = 0;
        if self.command {
            flags |= COMMAND;
        }
        if self.more {
            flags |= MORE;
        }
        if let Ok(len) = u8::try_from(self.len) {
            out.extend([flags, len]);
        } else {
            out.push(flags | LONG);
            out.extend(self.len.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: bool, more: bool, len: u64) -> Header {
        Header { command, more, len }
    }

    /// Headers and joined bodies of a stream that is read in parts of `size`.
    fn frames(stream: &[u8], size: usize) -> (usize, Vec<(Header, Vec<u8>)>) {
        let mut scanner = Scanner::new();
        let (mut greeting, mut frames, mut body) = (0, Vec::new(), Vec::new());
        for mut part in stream.chunks(size) {
            while let Some(piece) = scanner.next(&mut part) {
                match piece {
                    Piece::Greeting(bytes) => greeting += bytes.len(),
                    Piece::Header(_) => body.clear(),
                    Piece::Body(bytes) => body.extend_from_slice(bytes),
                    Piece::End(header) => frames.push((header, body.clone())),
                }
            }
            assert!(part.is_empty());
        }
        (greeting, frames)
    }

    #[test]
    fn frames_are_the_same_wherever_reads_end() {
        let wanted = [
            (header(true, false, 5), vec![1; 5]),
            (header(false, true, 0), Vec::new()),
            (header(false, true, 255), vec![2; 255]),
            (header(false, false, 256), vec![3; 256]),
        ];
        let mut stream = vec![0xff; 64];
        for (header, body) in &wanted {
            header.encode(&mut stream);
            stream.extend(body);
        }
        for size in 1..stream.len() {
            let (greeting, found) = frames(&stream, size);
            assert_eq!((greeting, &*found), (64, &wanted[..]), "reads of {size}");
        }
    }

    #[test]
    fn a_header_that_claims_everything_is_only_a_number() {
        let mut stream = vec![0; 64];
        header(false, false, u64::MAX).encode(&mut stream);
        let mut input = &stream[..];
        let mut scanner = Scanner::new();
        scanner.next(&mut input);
        let found = scanner.next(&mut input);
        assert_eq!(found, Some(Piece::Header(header(false, false, u64::MAX))));
        assert_eq!(scanner.next(&mut input), None);
    }
}
