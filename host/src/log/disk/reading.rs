//! Reading what is on disk of an agent's log: where a record is, and a page of
//! records from there.

use std::io;

use super::Disk;
use crate::log::page::Page;
use crate::log::reader::Reader;

/// Where a record is on disk.
#[derive(Debug)]
enum Place {
    At(Stretch),
    /// In this segment, or nowhere: it is to be [looked through](Disk::look_through).
    Unread(u64),
    /// In the journal.
    Small,
    /// Nowhere; the next that is somewhere has this number.
    Before(u64),
    /// Nowhere, and neither is any later one.
    After,
}

/// A part of a segment that can be read.
#[derive(Debug)]
struct Stretch {
    segment: u64,
    /// The number of the entry at `offset`.
    seq: u64,
    offset: u64,
    end_seq: u64,
    end_offset: u64,
}

impl Disk {
    /// Brings a page nearer to the records in memory, which begin with
    /// `first_in_memory`; those from `end` on are not to be seen yet.
    pub(in crate::log) fn read_on(
        &self,
        page: &mut Page<'_>,
        first_in_memory: u64,
        end: u64,
    ) -> io::Result<()> {
        match self.locate(page.next_seq()) {
            Place::At(stretch) => self.read(&stretch, end, page)?,
            Place::Unread(segment) => self.look_through(segment)?,
            Place::Small => self.read_small(end, page),
            Place::Before(next) => page.skip_to(next.min(first_in_memory)),
            Place::After => page.skip_to(first_in_memory),
        }
        Ok(())
    }

    /// Where the record of this number is.
    fn locate(&self, seq: u64) -> Place {
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
        if let Some(segment) = holds {
            return match segment.near(seq) {
                Some((near, offset)) => Place::At(Stretch {
                    segment: segment.first_seq,
                    seq: near,
                    offset,
                    end_seq: segment.end_seq(),
                    end_offset: segment.bytes,
                }),
                None => Place::Unread(segment.first_seq),
            };
        }
        // One of which nothing can be read is no place to go to.
        (state.segments.range(after..))
            .find(|segment| segment.count > 0)
            .map_or(Place::After, |next| Place::Before(next.first_seq))
    }

    /// Reads records of the journal into a page, if they are still there.
    fn read_small(&self, end: u64, page: &mut Page<'_>) {
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
    fn read(&self, stretch: &Stretch, end: u64, page: &mut Page<'_>) -> io::Result<()> {
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
    pub(super) fn lose(&self, segment: u64, from_seq: u64, why: &dyn std::fmt::Display) {
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
