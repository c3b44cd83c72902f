//! What is remembered of one agent's output: the newest records in memory, and
//! all within the limit `output_history_bytes` on disk. Both are one sequence:
//! a record can be read once it is on disk, or the [allowance](super::allowance)
//! for those that are not covers it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::AgentId;
use skep_protocol::event::Stream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::budget::Budget;
use super::disk::{Disk, RETRY};
use super::journal::SMALL;
use super::logs::Shelf;
use super::page::{Page, Window};
use super::patience::{PATIENCE, Patience};
use super::tail::{Stored, Tail};
use super::writers::{Batch, Removal};

/// What stays in memory of an agent that has ended, and whose log is on disk:
/// all of a small one.
const TAIL_AT_END: u64 = SMALL;

/// The records of one agent.
#[derive(Debug)]
pub struct History {
    agent: AgentId,
    budget: Arc<Budget>,
    /// Bytes that the agent's record takes besides its output.
    record_bytes: u64,
    tail: Mutex<Tail>,
    disk: Option<OnDisk>,
    /// Whether a task sees to it that what was left unwritten is written.
    healing: AtomicBool,
}

#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) disk: Arc<Disk>,
    pub(super) shelf: Arc<Shelf>,
}

impl History {
    pub(super) fn new(
        agent: AgentId,
        budget: Arc<Budget>,
        tail: Tail,
        disk: Option<OnDisk>,
    ) -> Self {
        Self {
            agent,
            budget,
            record_bytes: 0,
            tail: Mutex::new(tail),
            disk,
            healing: AtomicBool::new(false),
        }
    }

    /// Counts what else is remembered of the agent, such as its texts, to what
    /// all agents share.
    #[must_use]
    pub fn charged(mut self, bytes: u64) -> Self {
        self.record_bytes += bytes;
        self.budget.add(bytes);
        self
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of the agent, in bytes: its log, and what else was
    /// [charged](Self::charged).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.record_bytes + self.log_bytes()
    }

    /// The same, of its log alone.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        match &self.disk {
            Some(OnDisk { disk, .. }) => disk.cost(),
            None => self.tail().cost(),
        }
    }

    /// Lets go of the oldest records until the log has no more than so many bytes;
    /// of a small one, and of what was written last, all stays.
    pub fn let_go_beyond(&self, bytes: u64) {
        match &self.disk {
            Some(OnDisk { disk, shelf }) => {
                let expired = disk.let_go_beyond(bytes);
                if !expired.is_empty() {
                    let disk = Arc::clone(disk);
                    shelf.writers.remove([Removal::Expired(disk, expired)]);
                }
            }
            None => self.tail().shrink(bytes.max(SMALL)),
        }
    }

    /// The number that the next record will have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.tail().next_seq()
    }

    /// Writes records to disk and then lets them be read, and gives the number
    /// of the first. Only one may do so at a time.
    pub(super) async fn commit(&self, records: &Arc<Vec<Stored>>, patience: &Patience) -> u64 {
        self.save(records, false, patience).await;
        self.cover(records, patience).await;
        let mut tail = self.tail();
        let first = tail.next_seq();
        tail.append(records);
        first
    }

    /// Returns when these records may be seen: they are on disk, or their numbers
    /// are given to no others all the same. As long as that is not so the agent
    /// waits; the end of one that never runs again is not held up.
    async fn cover(&self, records: &Arc<Vec<Stored>>, patience: &Patience) {
        let Some(OnDisk { disk, shelf }) = &self.disk else {
            return;
        };
        let end_seq = self.next_seq() + records.len() as u64;
        loop {
            let lacks = disk.lacks(end_seq);
            if lacks == 0 {
                return;
            }
            tokio::select! {
                biased;
                () = shelf.allowance.granted(lacks) => return,
                () = patience.is_over() => {
                    tracing::error!(
                        agent = %self.agent, records = lacks,
                        "an agent ends whose newest records are in memory alone, and lost \
                         without a trace if the host is killed before the disk takes them"
                    );
                    return;
                }
                () = tokio::time::sleep(RETRY) => self.save(records, false, patience).await,
            }
        }
    }

    /// Whether all of it is on disk, as far as it is to be there.
    #[must_use]
    pub(crate) fn is_whole(&self) -> bool {
        self.heal_at().is_none()
    }

    /// When [`heal`](Self::heal) has something to do.
    pub(super) fn heal_at(&self) -> Option<Instant> {
        let on_disk = self.disk.as_ref()?;
        on_disk
            .disk
            .retry_at(self.next_seq())
            .map(Instant::from_std)
    }

    /// Writes what could not be written before, if it is time to try.
    pub(super) async fn heal(&self, patience: &Patience) {
        if self.heal_at().is_some_and(|at| at <= Instant::now()) {
            self.save(&Arc::default(), false, patience).await;
        }
    }

    /// Nothing more will be added, by this run: writes what could not be written
    /// before, and lets go of the memory. Where the disk takes nothing now, it
    /// does so when it can.
    pub(super) async fn close(self: &Arc<Self>, patience: &Patience) {
        if self.heal_at().is_some() {
            self.save(&Arc::default(), true, patience).await;
        }
        if self.heal_at().is_none() {
            self.shrink();
        } else {
            self.heal_in_time();
        }
    }

    /// Sees to it that what is not on disk is written when the disk takes it.
    pub(crate) fn heal_in_time(self: &Arc<Self>) {
        let lacks = self.heal_at().is_some();
        if lacks && !self.healing.swap(true, Ordering::Relaxed) {
            // One for each agent at most, until it is forgotten.
            let history = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(at) = history.heal_at() {
                    tokio::time::sleep_until(at).await;
                    history.heal(&Patience::default()).await;
                }
                history.healing.store(false, Ordering::Relaxed);
                // Who came meanwhile saw that somebody heals it.
                history.heal_in_time();
                history.shrink();
            });
        }
    }

    /// Lets go of the memory, where all is on disk.
    fn shrink(&self) {
        let Some(OnDisk { disk, .. }) = &self.disk else {
            return;
        };
        let mut tail = self.tail();
        if disk.next_seq() >= tail.next_seq() {
            tail.shrink(TAIL_AT_END);
        }
    }

    /// Writes these records, and before them those in memory that are not on
    /// disk yet.
    async fn save(&self, new: &Arc<Vec<Stored>>, now: bool, patience: &Patience) {
        let Some(OnDisk { disk, shelf }) = &self.disk else {
            return;
        };
        let Some(written) = disk.begin(now) else {
            return;
        };
        let (first_seq, records) = self.unsaved(written, new);
        if records.is_empty() && first_seq <= written {
            // Somebody else has written it meanwhile.
            disk.finish(&Ok(()));
            return;
        }
        let (done, is_done) = oneshot::channel();
        shelf.writers.write(Batch {
            disk: Arc::clone(disk),
            first_seq,
            records,
            done,
        });
        // What comes of it, the disk knows.
        tokio::select! {
            _ = tokio::time::timeout(PATIENCE, is_done) => {}
            () = patience.is_over() => {}
        }
    }

    fn unsaved(&self, written: u64, new: &Arc<Vec<Stored>>) -> (u64, Arc<Vec<Stored>>) {
        let tail = self.tail();
        if written == tail.next_seq() {
            return (written, Arc::clone(new));
        }
        let first_seq = written.max(tail.first_seq());
        // An attempt that failed may have written the first of the new ones.
        let there = usize::try_from(written.saturating_sub(tail.next_seq()));
        let new = new.iter().skip(there.unwrap_or(usize::MAX));
        let old = tail.from(written).map(|(_, record)| record);
        (first_seq, Arc::new(old.chain(new).cloned().collect()))
    }

    /// The records of these streams from `from_seq` on, until their bytes
    /// reach `max_bytes`; one is given however long it is. Reads the disk on
    /// another thread, where that is needed.
    ///
    /// # Errors
    /// If the disk cannot be read now.
    pub async fn window(
        self: &Arc<Self>,
        from_seq: u64,
        streams: &[Stream],
        max_bytes: u64,
    ) -> io::Result<Window> {
        let mut page = Page::new(self.agent, from_seq, streams, max_bytes);
        let Some(OnDisk { shelf, .. }) = &self.disk else {
            return self.read(page);
        };
        if let Recent::Read { end } = self.read_tail(&mut page) {
            return Ok(page.into_window(end));
        }
        let turn = Arc::clone(&shelf.reads).acquire_owned().await;
        let turn = turn.map_err(io::Error::other)?;
        let (history, streams) = (Arc::clone(self), streams.to_vec());
        let reading = tokio::task::spawn_blocking(move || {
            let window = history.read(Page::new(history.agent, from_seq, &streams, max_bytes));
            // Whoever asked may not wait for it any more: the thread is taken until now.
            drop(turn);
            window
        });
        reading.await.map_err(io::Error::other)?
    }

    /// Reads memory and disk by turns.
    fn read(&self, mut page: Page<'_>) -> io::Result<Window> {
        if let Some(OnDisk { disk, .. }) = &self.disk {
            disk.take_up()?;
        }
        loop {
            let (first_in_memory, end) = match self.read_tail(&mut page) {
                Recent::Read { end } => return Ok(page.into_window(end)),
                Recent::Older { first_seq, end } => (first_seq, end),
            };
            match &self.disk {
                Some(OnDisk { disk, .. }) => disk.read_on(&mut page, first_in_memory, end)?,
                None => page.skip_to(first_in_memory),
            }
            if page.is_full() {
                return Ok(page.into_window(end));
            }
        }
    }

    fn read_tail(&self, page: &mut Page<'_>) -> Recent {
        let tail = self.tail();
        let (first_seq, end) = (tail.first_seq(), tail.next_seq());
        if page.next_seq() < first_seq {
            return Recent::Older { first_seq, end };
        }
        for (seq, record) in tail.from(page.next_seq()) {
            if !page.take(seq, &record.entry()) {
                break;
            }
        }
        Recent::Read { end }
    }

    /// The agent is forgotten: what is on disk is removed, after this call.
    pub fn forget(&self) {
        if let Some(OnDisk { disk, shelf }) = &self.disk
            && disk.forget()
        {
            shelf.writers.remove([Removal::Log(Arc::clone(disk))]);
        }
    }
}

enum Recent {
    /// All that memory has from there on was read, as far as the page goes.
    Read { end: u64 },
    /// The page's next record is older than those in memory.
    Older { first_seq: u64, end: u64 },
}

impl Drop for History {
    fn drop(&mut self) {
        self.budget.give_back(self.record_bytes);
    }
}

#[cfg(test)]
mod tests;
