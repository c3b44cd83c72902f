//! The bytes of a component that is on its way, in whatever order they come.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::time::Instant;

/// Chunks by where they belong.
#[derive(Debug)]
pub struct Upload {
    pub(super) size: usize,
    /// The chunks that are there, by where they begin; none overlaps another.
    pub(super) chunks: BTreeMap<usize, Bytes>,
    /// How many bytes are there from the beginning on.
    pub(super) received: usize,
    /// Bytes of all chunks.
    pub(super) held: usize,
    /// What of it is in the store: where each part begins and ends.
    pub(super) written: BTreeMap<usize, usize>,
    pub(super) touched: Instant,
}

impl Upload {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            chunks: BTreeMap::new(),
            received: 0,
            held: 0,
            written: BTreeMap::new(),
            touched: Instant::now(),
        }
    }

    /// Notes a part that is in the store; parts that touch become one.
    pub(super) fn note_written(&mut self, mut start: usize, mut end: usize) {
        while let Some((&first, &last)) = self.written.range(..=end).next_back()
            && last >= start
        {
            self.written.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.written.insert(start, end);
    }

    /// Takes what of the chunk is new. Memory follows what was sent, whatever
    /// size and offset claim.
    pub(super) fn add(&mut self, offset: usize, chunk: &[u8]) {
        let end = offset + chunk.len();
        let mut at = offset;
        if let Some((start, before)) = self.chunks.range(..=offset).next_back() {
            at = at.max(start + before.len());
        }
        while at < end {
            let next = self
                .chunks
                .range(at..)
                .next()
                .map(|(start, next)| (*start, start + next.len()));
            let (gap_end, resume) = match next {
                Some((start, next_end)) if start < end => (start, next_end),
                _ => (end, end),
            };
            if let Some(new) = chunk
                .get(at - offset..gap_end - offset)
                .filter(|new| !new.is_empty())
            {
                self.chunks.insert(at, Bytes::copy_from_slice(new));
                self.held += new.len();
            }
            at = resume;
        }
        while let Some(next) = self.chunks.get(&self.received) {
            self.received += next.len();
        }
    }

    /// The whole. Copying it takes milliseconds.
    #[must_use]
    pub fn assemble(self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.size);
        for chunk in self.chunks.into_values() {
            data.extend_from_slice(&chunk);
        }
        data
    }
}
