//! Finding a place in an agent's history without reading all of it.

use skep_protocol::AgentId;
use skep_protocol::event::Stream;

use crate::{Client, Result};

/// How many records are looked at first for the last lines; doubled each time.
const FIRST_STEP: u64 = 256;

impl Client {
    /// The number of an agent's first record that is not older than this time,
    /// in nanoseconds since the epoch; the number of the next record where all
    /// are older. What has expired may be younger: where only that lies before
    /// the first one found, the number is that of the oldest expired one.
    ///
    /// Records bear the host's clock. Where that was set back, one of the places
    /// where the time is passed is found.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn first_seq_at(&self, agent: AgentId, time_ns: u64) -> Result<u64> {
        let mut low = 0;
        let mut high = self.get(agent).await?.next_seq;
        while low < high {
            let middle = low + (high - low) / 2;
            // One record, however long it is.
            let window = self.output(agent, None, middle, Some(1)).await?;
            match window.records.first() {
                Some(record) if record.time_ns < time_ns => low = record.seq.saturating_add(1),
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The number of the record with which the last lines before another record
    /// begin; the oldest there is where there are fewer, 0 where all have expired. A
    /// tail without a newline counts as a line.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn seq_of_last(
        &self,
        agent: AgentId,
        streams: Option<&[Stream]>,
        lines: u64,
        end_seq: u64,
    ) -> Result<u64> {
        if lines == 0 {
            return Ok(end_seq);
        }
        let (mut end, mut step) = (end_seq, lines.max(FIRST_STEP));
        // Line ends behind the window, whether a record was seen at all, and where
        // the oldest ones begin.
        let (mut found, mut seen, mut oldest) = (0, false, 0);
        loop {
            let start = end.saturating_sub(step);
            let piece = self.line_ends(agent, streams, start, end, !seen).await?;
            seen |= piece.any;
            // The line end before the first of the lines wanted.
            let wanted = lines - found;
            let here = piece.ends.len() as u64;
            let before = here
                .checked_sub(wanted + 1)
                .and_then(|at| piece.ends.get(usize::try_from(at).ok()?));
            if let Some(before) = before {
                return Ok(before.saturating_add(1));
            }
            found += here.min(wanted);
            if piece.first < end {
                oldest = piece.first;
            }
            // What has expired in a window may have older records before it.
            if start == 0 {
                return Ok(if seen { oldest } else { 0 });
            }
            (end, step) = (start, step.saturating_mul(2));
        }
    }

    /// The numbers of the records that end a line within a range.
    async fn line_ends(
        &self,
        agent: AgentId,
        streams: Option<&[Stream]>,
        start: u64,
        end: u64,
        last: bool,
    ) -> Result<Piece> {
        let mut piece = Piece {
            first: start,
            ends: Vec::new(),
            any: false,
        };
        let (mut from, mut open) = (start, None);
        while from < end {
            let window = self.output(agent, streams, from, None).await?;
            if let Some(gap) = window.expired.filter(|_| from == start) {
                piece.first = gap.to_seq.saturating_add(1).min(end);
            }
            for record in window.records.iter().filter(|record| record.seq < end) {
                piece.any = true;
                open = record.partial.then_some(record.seq);
                if !record.partial {
                    piece.ends.push(record.seq);
                }
            }
            if window.next_seq <= from {
                break;
            }
            from = window.next_seq;
        }
        if last {
            piece.ends.extend(open);
        }
        Ok(piece)
    }
}

/// What a range of the history holds.
struct Piece {
    /// The first number, but for those that have expired at its beginning.
    first: u64,
    /// 8 bytes a line of what the host keeps of one agent.
    ends: Vec<u64>,
    any: bool,
}

#[cfg(test)]
mod tests;
