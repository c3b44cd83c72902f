//! The form of a log on disk, pure. A segment is a header and entries one after
//! another; the number of an entry follows from its place. Only what bears its
//! checksum, which its agent and number are part of, is ever read as a record.
//!
//! All numbers are little-endian:
//!
//! | header | `skeplog1` | number of the first record, 8 bytes | CRC-32 of both |
//! |---|---|---|---|
//! | entry | bytes after the checksum, 4 bytes | CRC-32 of the agent, the record's number, that length and all that follows | flags: 1 stderr, 2 partial; run, 8 bytes; `time_ns`, 8 bytes; data |

use skep_protocol::event::Stream;
use skep_protocol::{AgentId, MAX_RECORD};

const MAGIC: &[u8; 8] = b"skeplog1";

/// Bytes of a segment's header.
pub(super) const HEADER: usize = 20;

const STDERR: u8 = 1;
const PARTIAL: u8 = 2;

/// Bytes of an entry after its checksum, besides the data.
const FIXED: usize = 1 + 8 + 8;

/// A record is found by passing over this many others at most.
const MARK_EVERY: u64 = 256;

/// What an entry says of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) stream: Stream,
    pub(super) run: u64,
    pub(super) time_ns: u64,
    pub(super) partial: bool,
    pub(super) data: &'a [u8],
}

/// What the next bytes of a segment are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    /// An entry, and how many bytes it takes.
    Entry(Entry<'a>, usize),
    /// Less than an entry: the rest was not read, or not written.
    Short,
    /// No entry, or not that of this number.
    Damaged,
}

/// Begins a segment.
pub(super) fn encode_header(first_seq: u64, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&first_seq.to_le_bytes());
    let checksum = crc32fast::hash(out.get(begin..).unwrap_or_default());
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The number of a segment's first record, if this is a header.
pub(super) fn decode_header(bytes: &[u8; HEADER]) -> Option<u64> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    let (magic, first_seq) = content.split_first_chunk::<8>()?;
    let sound = magic == MAGIC && crc32fast::hash(content) == u32::from_le_bytes(*checksum);
    let first_seq = first_seq.first_chunk::<8>().filter(|_| sound)?;
    Some(u64::from_le_bytes(*first_seq))
}

/// Adds an entry. Its data has [`MAX_RECORD`] bytes at most, or it could not be
/// read again.
pub(super) fn encode(owner: Owner, seq: u64, entry: &Entry<'_>, out: &mut Vec<u8>) {
    debug_assert!(entry.data.len() <= MAX_RECORD, "{}", entry.data.len());
    let length = u32::try_from(FIXED + entry.data.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    let checksum_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let stream = match entry.stream {
        Stream::Stdout => 0,
        Stream::Stderr => STDERR,
    };
    out.push(stream | if entry.partial { PARTIAL } else { 0 });
    out.extend_from_slice(&entry.run.to_le_bytes());
    out.extend_from_slice(&entry.time_ns.to_le_bytes());
    out.extend_from_slice(entry.data);
    let body = out.get(checksum_at + 4..).unwrap_or_default();
    let checksum = checksum(owner, seq, length, body).to_le_bytes();
    if let Some(place) = out.get_mut(checksum_at..checksum_at + 4) {
        place.copy_from_slice(&checksum);
    }
}

/// Whose entries they are: those of others do not bear the checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner(u32);

pub(super) fn owner(agent: AgentId) -> Owner {
    Owner(crc32fast::hash(agent.as_bytes()))
}

/// Bytes that an entry takes.
pub(super) const fn entry_bytes(entry: &Entry<'_>) -> usize {
    8 + FIXED + entry.data.len()
}

/// Whether [`decode`] would find these bytes to be less than an entry.
pub(super) fn is_short(bytes: &[u8]) -> bool {
    let length = bytes
        .first_chunk::<4>()
        .map(|length| u32::from_le_bytes(*length));
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.is_none_or(|length| length <= FIXED + MAX_RECORD && bytes.len() < 8 + length)
}

/// The entry with which these bytes begin, if it is that of this agent and
/// number.
pub(super) fn decode(owner: Owner, seq: u64, bytes: &[u8]) -> Decoded<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Decoded::Short;
    };
    let length = u32::from_le_bytes(*length);
    let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if !(FIXED..=FIXED + MAX_RECORD).contains(&body_bytes) {
        return Decoded::Damaged;
    }
    let Some((expected, rest)) = rest.split_first_chunk::<4>() else {
        return Decoded::Short;
    };
    let Some(body) = rest.get(..body_bytes) else {
        return Decoded::Short;
    };
    if checksum(owner, seq, length, body) != u32::from_le_bytes(*expected) {
        return Decoded::Damaged;
    }
    decode_body(body).map_or(Decoded::Damaged, |entry| {
        Decoded::Entry(entry, 8 + body_bytes)
    })
}

fn decode_body(body: &[u8]) -> Option<Entry<'_>> {
    let (flags, rest) = body.split_first()?;
    let (run, rest) = rest.split_first_chunk::<8>()?;
    let (time_ns, data) = rest.split_first_chunk::<8>()?;
    // What a later form may mean by another flag is not guessed at.
    (flags & !(STDERR | PARTIAL) == 0).then_some(Entry {
        stream: if flags & STDERR == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        },
        run: u64::from_le_bytes(*run),
        time_ns: u64::from_le_bytes(*time_ns),
        partial: flags & PARTIAL != 0,
        data,
    })
}

fn checksum(Owner(owner): Owner, seq: u64, length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(owner);
    hasher.update(&seq.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// What is known of a segment without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first_seq: u64,
    /// How many records can be read.
    pub(super) count: u64,
    /// Bytes of its header and of its entries.
    pub(super) bytes: u64,
    /// What its records cost the agent.
    pub(super) cost: u64,
    /// Whether nothing may be added: an entry of it could not be read.
    pub(super) damaged: bool,
    /// Where every [`MARK_EVERY`]th record begins.
    marks: Vec<u64>,
}

impl Segment {
    /// One that has its header alone.
    pub(super) fn new(first_seq: u64) -> Self {
        Self {
            first_seq,
            count: 0,
            bytes: HEADER as u64,
            cost: 0,
            damaged: false,
            marks: Vec::new(),
        }
    }

    /// One that was not read yet: it holds records up to this one at most.
    pub(super) fn unread(first_seq: u64, end_seq: u64) -> Self {
        Self {
            count: end_seq.saturating_sub(first_seq),
            ..Self::new(first_seq)
        }
    }

    /// The number after its last record's.
    pub(super) fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count)
    }

    /// Notes the next entry.
    pub(super) fn push(&mut self, bytes: usize, cost: u64) {
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(self.bytes);
        }
        self.count += 1;
        self.bytes += bytes as u64;
        self.cost += cost;
    }

    /// Whether nothing is known of it but its place in the log.
    pub(super) fn is_unread(&self) -> bool {
        self.count > 0 && self.marks.is_empty()
    }

    /// A record at or little before this one, and where its entry begins; none if
    /// it was not [read](Self::unread) yet.
    pub(super) fn near(&self, seq: u64) -> Option<(u64, u64)> {
        let mark = seq.checked_sub(self.first_seq)? / MARK_EVERY;
        let offset = self.marks.get(usize::try_from(mark).ok()?)?;
        Some((self.first_seq + mark * MARK_EVERY, *offset))
    }
}

#[cfg(test)]
mod tests;
