//! What of one agent's log is on disk: a small log in the journal of all, a
//! larger one in segments of its own, oldest first, within the limit
//! `output_history_bytes` and what all agents share. One writes at a time, any
//! number read.

mod reading;
mod recovery;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_protocol::AgentId;

use super::allowance::Allowance;
use super::budget::Budget;
use super::files::{Files, is_gone};
use super::journal::{Journal, SMALL};
use super::segment::{Owner, Segment, encode, encode_header, owner};
use super::tail::Stored;

/// A history is an eighth short of its bound at most, since segments go whole.
const SEGMENTS: u64 = 8;
/// An agent with the smallest of bounds makes no file for each of its lines.
const MIN_SEGMENT: u64 = 16 * 1024;
/// What is lost where a segment is damaged is little; and a window that lies in two of
/// them has a host that was just started look through both first, 1 ms each.
const MAX_SEGMENT: u64 = 2 * 1024 * 1024;

/// After a write has failed, the next is tried this much later.
pub(super) const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Disk {
    agent: AgentId,
    owner: Owner,
    files: Files,
    journal: Arc<Journal>,
    allowance: Arc<Allowance>,
    bound: u64,
    /// A segment that costs this is full.
    segment_cost: u64,
    budget: Arc<Budget>,
    /// Whether a directory may have been made.
    has_files: AtomicBool,
    /// Held while what is there is taken up, by who reads first; whether it was.
    taken_up: Mutex<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The numbers of what is in the journal; then there are no segments.
    small: Range<u64>,
    segments: VecDeque<Segment>,
    /// The number after that of the last record that was written.
    next_seq: u64,
    /// Records before this number may have been seen.
    seen: u64,
    /// Whether some of those are not on disk, and that is known to the allowance.
    ahead: bool,
    cost: u64,
    phase: Phase,
    /// The agent is gone, and so is its directory, or soon.
    forgotten: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Writing,
    Failed {
        retry_at: Instant,
    },
}

impl Disk {
    pub(super) fn new(
        agent: AgentId,
        files: Files,
        journal: Arc<Journal>,
        allowance: Arc<Allowance>,
        bound: u64,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            agent,
            owner: owner(agent),
            files,
            journal,
            allowance,
            bound,
            segment_cost: (bound / SEGMENTS).clamp(MIN_SEGMENT, MAX_SEGMENT),
            budget,
            has_files: AtomicBool::new(false),
            taken_up: Mutex::new(true),
            state: Mutex::default(),
        }
    }

    /// The same, of an agent whose log is there, and will not grow.
    pub(super) fn unread(mut self) -> Self {
        self.has_files = AtomicBool::new(true);
        self.taken_up = Mutex::new(false);
        self
    }

    /// Takes up what is there, unless that was done before.
    pub(super) fn take_up(&self) -> io::Result<()> {
        let mut taken_up = self.taken_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !*taken_up && !self.state().forgotten {
            self.recover_ended()?;
            *taken_up = true;
        }
        Ok(())
    }

    /// Bytes that it counts.
    pub(super) fn cost(&self) -> u64 {
        self.state().cost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number after that of the last record that was written.
    pub(super) fn next_seq(&self) -> u64 {
        self.state().next_seq
    }

    /// Records before this number are about to be seen: how many numbers that is
    /// beyond what is on disk. One that was forgotten lacks nothing.
    pub(super) fn lacks(&self, end_seq: u64) -> u64 {
        let mut state = self.state();
        if state.forgotten {
            return 0;
        }
        state.seen = state.seen.max(end_seq);
        let lacks = end_seq.saturating_sub(state.next_seq);
        if lacks > 0 && !std::mem::replace(&mut state.ahead, true) {
            self.allowance.enter(self.agent);
        }
        lacks
    }

    /// Whether nobody has seen records that are not on disk, of any agent.
    pub(super) fn is_none_ahead(&self) -> bool {
        self.allowance.is_used_by_none()
    }

    /// Takes the right to write and says from which number on; none while
    /// another write is under way, or soon after one has failed unless `now`.
    pub(super) fn begin(&self, now: bool) -> Option<u64> {
        let mut state = self.state();
        let may = match state.phase {
            Phase::Idle => true,
            Phase::Writing => false,
            Phase::Failed { retry_at } => now || retry_at <= Instant::now(),
        };
        if !may || state.forgotten {
            return None;
        }
        state.phase = Phase::Writing;
        Some(state.next_seq)
    }

    /// When a write may be tried again, if there is something to write.
    pub(super) fn retry_at(&self, tail_next: u64) -> Option<Instant> {
        let state = self.state();
        if state.next_seq >= tail_next || state.forgotten {
            return None;
        }
        Some(match state.phase {
            Phase::Idle => Instant::now(),
            Phase::Writing => Instant::now() + RETRY,
            Phase::Failed { retry_at } => retry_at,
        })
    }

    /// Gives the right to write back.
    pub(super) fn finish(&self, result: &io::Result<()>) {
        let mut state = self.state();
        state.phase = match result {
            Ok(()) => Phase::Idle,
            Err(_) => Phase::Failed {
                retry_at: Instant::now() + RETRY,
            },
        };
        if state.next_seq >= state.seen && std::mem::take(&mut state.ahead) {
            self.allowance.leave(self.agent);
        }
        let forgotten = state.forgotten;
        drop(state);
        if forgotten {
            self.remove();
        }
    }

    /// Writes records, the first of which has this number; or if there are none,
    /// that the next one has. Only who has the right may.
    pub(super) fn write(
        &self,
        first_seq: u64,
        records: &[Stored],
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let added = records.iter().map(Stored::cost).sum();
        if !records.is_empty() && self.stays_small(first_seq, added) {
            self.journal.append(self.agent, first_seq, records)?;
            self.wrote_small(first_seq, records.len(), added);
            return Ok(());
        }
        let was_small = !self.state().small.is_empty();
        if was_small && let Some(small) = self.journal.get(self.agent) {
            self.write_segments(small.first_seq, &small.records, buffer)?;
            self.grew();
            self.journal.release(self.agent);
        }
        if records.is_empty() {
            return self.write_hole(first_seq, buffer);
        }
        self.write_segments(first_seq, records, buffer)
    }

    /// A segment without a record tells where the next one begins.
    fn write_hole(&self, next_seq: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        encode_header(next_seq, buffer);
        self.has_files.store(true, Ordering::Relaxed);
        self.files.write(next_seq, 0, buffer)?;
        self.remove_expired(self.wrote(Segment::new(next_seq)));
        Ok(())
    }

    fn stays_small(&self, first_seq: u64, added: u64) -> bool {
        let state = self.state();
        let follows = state.small.is_empty() || state.small.end == first_seq;
        follows && state.segments.is_empty() && state.cost + added <= SMALL.min(self.bound)
    }

    fn wrote_small(&self, first_seq: u64, count: usize, added: u64) {
        let mut state = self.state();
        if state.forgotten {
            return;
        }
        let begin = if state.small.is_empty() {
            first_seq
        } else {
            state.small.start
        };
        state.small = begin..first_seq + count as u64;
        state.next_seq = state.small.end;
        state.cost += added;
        self.budget.add(added);
    }

    /// What was in the journal is in segments now.
    fn grew(&self) {
        let mut state = self.state();
        state.small = 0..0;
        let segments = state.segments.iter().map(|segment| segment.cost).sum();
        self.budget.give_back(state.cost - segments);
        state.cost = segments;
    }

    /// One `write` for each segment that the records go to. Where they do not
    /// follow what is there, a new segment begins after the hole.
    fn write_segments(
        &self,
        first_seq: u64,
        mut records: &[Stored],
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut seq = first_seq;
        while !records.is_empty() {
            let full_cost = self.full_cost();
            let mut segment = self.segment_for(seq, full_cost);
            let mut offset = segment.bytes;
            buffer.clear();
            if segment.count == 0 {
                offset = 0;
                encode_header(seq, buffer);
            }
            let mut taken = 0;
            for record in records {
                if segment.cost >= full_cost {
                    break;
                }
                let before = buffer.len();
                encode(self.owner, seq, &record.entry(), buffer);
                segment.push(buffer.len() - before, record.cost());
                (seq, taken) = (seq + 1, taken + 1);
            }
            self.has_files.store(true, Ordering::Relaxed);
            let written = self.files.write(segment.first_seq, offset, buffer);
            written.inspect_err(|error| self.not_written(segment.first_seq, error))?;
            self.remove_expired(self.wrote(segment));
            records = records.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// What is gone of a segment, who reads there finds out; the next attempt begins
    /// another one.
    fn not_written(&self, first_seq: u64, error: &io::Error) {
        let mut state = self.state();
        let last = state.segments.back_mut();
        if let Some(last) = last.filter(|last| last.first_seq == first_seq && is_gone(error)) {
            last.damaged = true;
        }
    }

    /// A segment that costs this is full. Where all together remember too much,
    /// segments are small: what was written last stays, of each agent.
    fn full_cost(&self) -> u64 {
        if self.budget.is_overrun() {
            MIN_SEGMENT
        } else {
            self.segment_cost
        }
    }

    fn segment_for(&self, seq: u64, full_cost: u64) -> Segment {
        let state = self.state();
        let last = state
            .segments
            .back()
            .filter(|last| last.end_seq() == seq && last.cost < full_cost && !last.damaged);
        last.cloned().unwrap_or_else(|| Segment::new(seq))
    }

    /// Notes what a segment has become and gives the segments that expire.
    fn wrote(&self, segment: Segment) -> Vec<u64> {
        let mut state = self.state();
        if state.forgotten {
            return Vec::new();
        }
        state.next_seq = segment.end_seq();
        self.enter(&mut state, segment);
        self.expire(&mut state)
    }

    fn enter(&self, state: &mut State, segment: Segment) {
        let mut added = segment.cost;
        match state.segments.back_mut() {
            Some(last) if last.first_seq == segment.first_seq => {
                added -= last.cost;
                // A reader may have found damage meanwhile.
                let damaged = last.damaged;
                *last = segment;
                last.damaged |= damaged;
            }
            _ => state.segments.push_back(segment),
        }
        state.cost += added;
        self.budget.add(added);
    }

    fn expire(&self, state: &mut State) -> Vec<u64> {
        self.expire_while(state, |cost| cost > self.bound || self.budget.is_overrun())
    }

    /// Lets go of the oldest segments until they cost no more than this, and gives
    /// them. The last one stays, since it may be written to.
    pub(super) fn let_go_beyond(&self, bound: u64) -> Vec<u64> {
        self.expire_while(&mut self.state(), |cost| cost > bound)
    }

    fn expire_while(&self, state: &mut State, too_much: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut expired = Vec::new();
        while state.segments.len() > 1 && too_much(state.cost) {
            let Some(oldest) = state.segments.pop_front() else {
                break;
            };
            state.cost -= oldest.cost;
            self.budget.give_back(oldest.cost);
            expired.push(oldest.first_seq);
        }
        expired
    }

    /// Removes segments that were let go of.
    pub(super) fn remove_expired(&self, segments: Vec<u64>) {
        for segment in segments {
            self.files.remove(segment);
        }
    }

    /// Forgets all of it. Whether it can be [removed](Self::remove) now; it is
    /// after a write that is under way.
    pub(super) fn forget(&self) -> bool {
        let mut state = self.state();
        if std::mem::replace(&mut state.forgotten, true) {
            return false;
        }
        self.let_go(&mut state);
        state.phase != Phase::Writing
    }

    fn let_go(&self, state: &mut State) {
        self.budget.give_back(std::mem::take(&mut state.cost));
        if std::mem::take(&mut state.ahead) {
            self.allowance.leave(self.agent);
        }
        state.segments.clear();
        state.small = 0..0;
    }

    /// Removes what is on disk of an agent that was forgotten.
    pub(super) fn remove(&self) {
        self.journal.release(self.agent);
        if self.has_files.load(Ordering::Relaxed) {
            self.files.remove_all();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.budget.give_back(self.state().cost);
    }
}
