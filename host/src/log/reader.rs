//! Reads the entries of a segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use skep_protocol::MAX_RECORD;

use super::segment::{self, Decoded, Owner, decode, is_short};

/// How much is read at a time.
const CHUNK: usize = 128 * 1024;

/// Reads entries one after another, a chunk at a time.
pub(super) struct Reader<'a> {
    file: &'a File,
    owner: Owner,
    /// Where what is not in the buffer yet begins, and where it ends.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer was taken.
    taken: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, owner: Owner, offset: u64, end: u64) -> Self {
        Self {
            file,
            owner,
            offset,
            end,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// The entry of this number; none if it is damaged or not there.
    pub(super) fn next(&mut self, seq: u64) -> io::Result<Option<segment::Entry<'_>>> {
        const { assert!(CHUNK > 2 * MAX_RECORD, "an entry fits into a chunk") };
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        if is_short(rest) {
            self.fill()?;
        }
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        match decode(self.owner, seq, rest) {
            Decoded::Entry(entry, bytes) => {
                self.taken += bytes;
                Ok(Some(entry))
            }
            Decoded::Short | Decoded::Damaged => Ok(None),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let held = self.buffer.len();
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        self.buffer.resize(held + left.min(CHUNK), 0);
        let mut filled = held;
        while let Some(room) = self
            .buffer
            .get_mut(filled..)
            .filter(|room| !room.is_empty())
        {
            match self.file.read_at(room, self.offset) {
                // The file is shorter than was known.
                Ok(0) => break,
                Ok(bytes) => {
                    filled += bytes;
                    self.offset += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}
