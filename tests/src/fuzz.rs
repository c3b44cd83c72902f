//! Bytes that were right once, and are not any more.

use std::path::PathBuf;

use fastrand::Rng;

/// What a length or a number may be taken for.
const HEADS: [u8; 24] = [
    0x00, 0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc6, 0xca, 0xcb,
    0xcf, 0xd3, 0xd9, 0xdb, 0xdc, 0xdd, 0xdf, 0xff,
];

/// How many cases to try: `SKEP_FUZZ_CASES`, or so many.
///
/// # Panics
/// If that is no number.
#[must_use]
pub fn cases(default: usize) -> usize {
    match std::env::var("SKEP_FUZZ_CASES") {
        Ok(count) => count.parse().expect("SKEP_FUZZ_CASES is a number"),
        Err(_) => default,
    }
}

/// The golden payloads whose names begin like that.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn golden(prefix: &str) -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("the golden bytes")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(".bin"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no {prefix}*.bin in {}", dir.display());
    let read = |path| std::fs::read(path).expect("golden bytes");
    files.iter().map(read).collect()
}

/// One of these, changed in one to four places.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn mutated(random: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.choice(corpus).expect("a corpus").clone();
    for _ in 0..random.usize(1..=4) {
        change(random, &mut bytes, corpus);
    }
    bytes
}

fn change(random: &mut Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.usize(0..=bytes.len());
    let end = (at + random.usize(0..=16)).min(bytes.len());
    match random.u8(0..10) {
        0 => set(bytes, at, |byte| byte ^ (1 << random.u8(0..8))),
        1 => set(bytes, at, |_| random.u8(..)),
        2 => set(bytes, at, |_| random.choice(HEADS).unwrap_or_default()),
        3 => set(bytes, at, |byte| byte.wrapping_add(1)),
        4 => set(bytes, at, |byte| byte.wrapping_sub(1)),
        5 => {
            let more: Vec<u8> = (at..end).map(|_| random.u8(..)).collect();
            bytes.splice(at..at, more);
        }
        6 => drop(bytes.drain(at..end)),
        7 => {
            let again = bytes.get(at..end).unwrap_or_default().to_vec();
            bytes.splice(at..at, again);
        }
        8 => {
            let extreme = random.choice([0, 1, u64::MAX, 1 << 63, u64::from(u32::MAX)]);
            let extreme = extreme.unwrap_or_default().to_be_bytes();
            let width = random.choice([2, 4, 8]).unwrap_or(8);
            let tail = extreme.into_iter().rev().take(width).rev();
            for (place, byte) in (at..).zip(tail) {
                set(bytes, place, |_| byte);
            }
        }
        _ => {
            let other = random.choice(corpus).map(Vec::as_slice).unwrap_or_default();
            let from = random.usize(0..=other.len());
            bytes.truncate(at);
            bytes.extend(other.get(from..).unwrap_or_default());
        }
    }
}

fn set(bytes: &mut [u8], at: usize, new: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = new(*byte);
    }
}
