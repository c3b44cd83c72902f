//! Taking up what a host that is gone has left of an agent's log.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::Disk;
use crate::log::reader::Reader;
use crate::log::segment::{self, HEADER, Segment, decode_header};
use crate::log::tail::{self, Stored};

impl Disk {
    /// Goes on at this number, where that is not the next. If the disk does not
    /// take it now, it does with what is written first.
    pub(in crate::log) fn go_on_at(&self, seq: u64) {
        if self.lacks(seq) > 0 && self.begin(true).is_some() {
            let written = self.write(seq, &[], &mut Vec::new());
            self.finish(&written);
        }
    }

    /// Takes up what is there, written by a host that is gone. What follows the
    /// last sound entry of a segment is cut. Whether there is anything. What
    /// cannot be read as a whole is not taken up: the next attempt begins anew.
    pub(in crate::log) fn recover(&self) -> io::Result<bool> {
        let recovered = self.recover_all();
        if recovered.is_err() {
            let mut state = self.state();
            self.let_go(&mut state);
            state.next_seq = 0;
        }
        recovered
    }

    fn recover_all(&self) -> io::Result<bool> {
        match self.files.list() {
            Ok(segments) => self.recover_segments(&segments)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let Some(small) = self.journal.get(self.agent) else {
            return Ok(self.has_files.load(Ordering::Relaxed));
        };
        if small.end_seq() > self.next_seq() {
            // It had begun to have files of its own at most, with less than is here.
            let mut state = self.state();
            self.let_go(&mut state);
            drop(state);
            for segment in self.files.list().unwrap_or_default() {
                self.files.remove(segment);
            }
            let cost = small.records.iter().map(Stored::cost).sum();
            self.wrote_small(small.first_seq, small.records.len(), cost);
        } else {
            // The same is there.
            self.journal.release(self.agent);
        }
        Ok(true)
    }

    fn recover_segments(&self, segments: &[u64]) -> io::Result<()> {
        self.has_files.store(true, Ordering::Relaxed);
        for &first_seq in segments {
            let Scanned {
                segment,
                torn,
                sound,
            } = self.scan(first_seq)?;
            // One without a record may tell where the next one begins.
            let tells = sound && first_seq > self.next_seq();
            if segment.count == 0 && !tells {
                self.files.remove(first_seq);
                continue;
            }
            if torn > 0 {
                self.files.truncate(first_seq, segment.bytes)?;
            }
            let mut state = self.state();
            // What an attempt that failed has left may reach into the next one:
            // the same records twice.
            if let Some(last) = state.segments.back_mut() {
                last.count = last.count.min(first_seq - last.first_seq);
            }
            state.next_seq = segment.end_seq();
            self.enter(&mut state, segment);
        }
        self.remove_expired(self.expire(&mut self.state()));
        Ok(())
    }

    /// Takes up what is there of a log that will not grow. What a segment of it
    /// holds is found out when somebody reads there: whoever asks for a window does
    /// not wait for all of the log.
    pub(super) fn recover_ended(&self) -> io::Result<()> {
        if self.journal.get(self.agent).is_some() {
            // Small, or both here and there when its host was killed.
            return self.recover().map(drop);
        }
        let segments = match self.files.list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        let ends = segments.iter().skip(1).copied().chain([u64::MAX]);
        let unread = segments.iter().zip(ends);
        self.state().segments = unread
            .map(|(&first_seq, end_seq)| Segment::unread(first_seq, end_seq))
            .collect();
        Ok(())
    }

    /// Finds out what a segment holds.
    pub(super) fn look_through(&self, first_seq: u64) -> io::Result<()> {
        let mut found = match self.scan(first_seq) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.lose(first_seq, first_seq, &"the file is gone");
                return Ok(());
            }
            scanned => scanned?.segment,
        };
        let mut state = self.state();
        let known = (state.segments.iter_mut())
            .find(|known| known.first_seq == first_seq && known.is_unread());
        // Otherwise somebody else has found out meanwhile.
        if let Some(known) = known {
            found.count = found.count.min(known.count);
            let added = found.cost;
            *known = found;
            state.cost += added;
            self.budget.add(added);
        }
        Ok(())
    }

    /// Reads a whole segment.
    fn scan(&self, first_seq: u64) -> io::Result<Scanned> {
        let file = self.files.open(first_seq)?;
        let length = file.metadata()?.len();
        let mut segment = Segment::new(first_seq);
        let mut header = [0; HEADER];
        let sound = length >= HEADER as u64 && {
            file.read_exact_at(&mut header, 0)?;
            decode_header(&header) == Some(first_seq)
        };
        if !sound {
            return Ok(Scanned {
                segment,
                torn: length,
                sound,
            });
        }
        let mut reader = Reader::new(&file, self.owner, segment.bytes, length);
        while let Some(entry) = reader.next(segment.end_seq())? {
            let cost = tail::cost(entry.data.len());
            segment.push(segment::entry_bytes(&entry), cost);
        }
        let torn = length - segment.bytes;
        if torn > 0 {
            tracing::warn!(
                agent = %self.agent, path = %self.files.path(first_seq).display(),
                records = segment.count, torn_bytes = torn,
                "the end of a log segment is not whole, and left out"
            );
        }
        Ok(Scanned {
            segment,
            torn,
            sound,
        })
    }
}

/// What a segment was found to hold.
struct Scanned {
    segment: Segment,
    /// Bytes at its end that are no entry.
    torn: u64,
    /// Whether its header is whole.
    sound: bool,
}
