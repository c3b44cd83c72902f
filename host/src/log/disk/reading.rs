//! Reading what is on disk of an agent's log: where a record is, and a page of
//! records from there.

use std::io;

use super::Disk;
use crate::log::page::Page;
use crate::log::reader::Reader;

/// Where a record is on disk.
#[derive(Debug)]
pub(in crate::log) enum Place {
    At(Stretch),
    /// In the journal.
    Small,
    /// Nowhere; the next that is somewhere has this number.
    Before(u64),
    /// Nowhere, and neither is any later one.
    After,
}

/// A part of a segment that can be read.
#[derive(Debug)]
pub(in crate::log) struct Stretch {
    segment: u64,
    /// The number of the entry at `offset`.
    seq: u64,
    offset: u64,
    end_seq: u64,
    end_offset: u64,
}

impl Disk {
    /// Where the record of this number is.
    pub(in crate::log) fn locate(&self, seq: u64) -> Place {
        let state = self.state();
        if seq < state.small.end {
            return if state.small.contains(&seq) {
                Place::Small
            } else {
                Place::Before(state.small.start)
            };
        }
        let after = state.segments.partition_point(|s| s.first_seq <= seq);
        let holds = after
            .checked_sub(1)
            .and_then(|index| state.segments.get(index))
            .filter(|segment| seq < segment.end_seq());
        if let Some(segment) = holds
            && let Some((near, offset)) = segment.near(seq)
        {
            return Place::At(Stretch {
                segment: segment.first_seq,
                seq: near,
                offset,
                end_seq: segment.end_seq(),
                end_offset: segment.bytes,
            });
        }
        // One of which nothing can be read is no place to go to.
        (state.segments.range(after..))
            .find(|segment| segment.count > 0)
            .map_or(Place::After, |next| Place::Before(next.first_seq))
    }

    /// Reads records of the journal into a page, if they are still there.
    pub(in crate::log) fn read_small(&self, end: u64, page: &mut Page<'_>) {
        let small = self.journal.get(self.agent).unwrap_or_default();
        for (seq, record) in (small.first_seq..end).zip(&small.records) {
            if seq >= page.next_seq() && !page.take(seq, &record.entry()) {
                return;
            }
        }
    }

    /// Reads records into a page, from the page's next number on, until it is
    /// full or the stretch, or `end`, is reached. What cannot be read any more
    /// is no longer on disk: the page is then where it was.
    pub(in crate::log) fn read(
        &self,
        stretch: &Stretch,
        end: u64,
        page: &mut Page<'_>,
    ) -> io::Result<()> {
        let file = match self.files.open(stretch.segment) {
            // It has expired meanwhile, or somebody else has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.lose(stretch.segment, stretch.segment, &"the file is gone");
                return Ok(());
            }
            opened => opened?,
        };
        let end = end.min(stretch.end_seq);
        let mut reader = Reader::new(&file, self.owner, stretch.offset, stretch.end_offset);
        let mut seq = stretch.seq;
        while seq < end {
            match reader.next(seq)? {
                Some(_) if seq < page.next_seq() => {}
                Some(entry) => {
                    if !page.take(seq, &entry) {
                        return Ok(());
                    }
                }
                None => {
                    self.lose(stretch.segment, seq, &"an entry is damaged");
                    return Ok(());
                }
            }
            seq += 1;
        }
        Ok(())
    }

    /// Notes that the records of a segment cannot be read from this one on.
    fn lose(&self, segment: u64, from_seq: u64, why: &dyn std::fmt::Display) {
        let mut state = self.state();
        let Some(found) = (state.segments.iter_mut()).find(|known| known.first_seq == segment)
        else {
            return;
        };
        found.count = found.count.min(from_seq.saturating_sub(segment));
        found.damaged = true;
        drop(state);
        let path = self.files.path(segment);
        tracing::error!(
            agent = %self.agent, path = %path.display(), from_seq, %why,
            "records of a log are lost"
        );
    }
}
