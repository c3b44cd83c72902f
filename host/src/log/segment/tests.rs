use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const OWNER: Owner = Owner(7);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    stream: Stream,
    run: u64,
    time_ns: u64,
    partial: bool,
    data: Vec<u8>,
}

impl Owned {
    fn entry(&self) -> Entry<'_> {
        Entry {
            stream: self.stream,
            run: self.run,
            time_ns: self.time_ns,
            partial: self.partial,
            data: &self.data,
        }
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let data = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..MAX_RECORD)];
    (stream, any::<u64>(), any::<u64>(), any::<bool>(), data).prop_map(
        |(stream, run, time_ns, partial, data)| Owned {
            stream,
            run,
            time_ns,
            partial,
            data,
        },
    )
}

/// A segment of these entries, and where each of them ends.
fn written(first_seq: u64, entries: &[Owned]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    encode_header(first_seq, &mut bytes);
    let ends = (first_seq..).zip(entries).map(|(seq, owned)| {
        encode(OWNER, seq, &owned.entry(), &mut bytes);
        bytes.len()
    });
    let ends = ends.collect();
    (bytes, ends)
}

/// The entries that can be read, and what was found after the last of them.
fn read(first_seq: u64, bytes: &[u8]) -> (Vec<Entry<'_>>, Decoded<'_>) {
    let mut rest = &bytes[HEADER..];
    let mut entries = Vec::new();
    loop {
        match decode(OWNER, first_seq + entries.len() as u64, rest) {
            Decoded::Entry(entry, taken) => {
                assert_eq!(taken, entry_bytes(&entry));
                assert!(!is_short(rest));
                entries.push(entry);
                rest = &rest[taken..];
            }
            end => {
                assert_eq!(end == Decoded::Short, is_short(rest));
                return (entries, end);
            }
        }
    }
}

fn header(bytes: &[u8]) -> Option<u64> {
    decode_header(bytes.first_chunk()?)
}

proptest! {
    #[test]
    fn what_was_written_is_read(first_seq in 0..u64::MAX / 2, entries in vec(owned(), 0..20)) {
        let (bytes, _) = written(first_seq, &entries);
        prop_assert_eq!(header(&bytes), Some(first_seq));
        let (found, end) = read(first_seq, &bytes);
        prop_assert_eq!(found, entries.iter().map(Owned::entry).collect::<Vec<_>>());
        prop_assert_eq!(end, Decoded::Short);
    }

    #[test]
    fn a_flipped_bit_is_never_a_record(
        entries in vec(owned(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let (mut bytes, ends) = written(7, &entries);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if at < HEADER {
            prop_assert_eq!(header(&bytes), None);
            return Ok(());
        }
        let (found, _) = read(7, &bytes);
        let sound = ends.iter().filter(|end| **end <= at).count();
        prop_assert_eq!(found, entries[..sound].iter().map(Owned::entry).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_never_written_is_no_record(seq: u64, bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(!matches!(decode(OWNER, seq, &bytes), Decoded::Entry(..)));
    }

    #[test]
    fn an_entry_is_that_of_its_number_alone(owned in owned(), seq in 0..1000u64, other in 0..1000u64) {
        let mut bytes = Vec::new();
        encode(OWNER, seq, &owned.entry(), &mut bytes);
        prop_assert_eq!(matches!(decode(OWNER, other, &bytes), Decoded::Entry(..)), seq == other);
        prop_assert_eq!(decode(Owner(8), seq, &bytes), Decoded::Damaged);
    }
}

#[test]
fn cut_at_any_byte_the_whole_entries_are_left() {
    let entries: Vec<Owned> = (0..12)
        .map(|number| Owned {
            stream: Stream::ALL[number % 2],
            run: number as u64,
            time_ns: 1 << 60,
            partial: number % 3 == 0,
            data: vec![b'x'; number * 7],
        })
        .collect();
    let (bytes, ends) = written(1, &entries);
    for cut in HEADER..bytes.len() {
        let (found, end) = read(1, &bytes[..cut]);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!((found.len(), end), (whole, Decoded::Short), "cut at {cut}");
    }
    // What a file system may leave in the place of what was not written.
    let mut zeros = bytes.clone();
    zeros.resize(bytes.len() + 5000, 0);
    let (found, end) = read(1, &zeros);
    assert_eq!((found.len(), end), (12, Decoded::Damaged));
}

#[test]
fn a_record_is_near_a_mark() {
    let mut segment = Segment::new(1000);
    for _ in 0..1000 {
        segment.push(30, 64);
    }
    assert_eq!(segment.near(999), None);
    for seq in 1000..2000 {
        let (near, offset) = segment.near(seq).unwrap();
        assert!(near <= seq && seq - near < MARK_EVERY, "{near} for {seq}");
        assert_eq!(offset, HEADER as u64 + (near - 1000) * 30);
    }
    assert_eq!((segment.end_seq(), segment.cost), (2000, 64_000));
}
