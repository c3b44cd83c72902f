//! The threads that write the logs of all agents to disk, and remove them. A
//! batch is written at once where no other is; what an agent prints meanwhile
//! is its next batch, so that nothing waits for a time.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::disk::Disk;
use super::files::Files;
use super::tail::Stored;

/// While one waits for the disk, another can write what needs no waiting.
const THREADS: usize = 2;

/// A buffer that a flood has made larger than this is not kept.
const KEPT_BUFFER: usize = 1024 * 1024;

/// Records to be written, by who has the right to write them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) disk: Arc<Disk>,
    pub(super) first_seq: u64,
    pub(super) records: Arc<Vec<Stored>>,
    /// Told when it was written, or could not be.
    pub(super) done: oneshot::Sender<()>,
}

/// What is to be removed.
#[derive(Debug)]
pub(super) enum Removal {
    /// The log of an agent that was forgotten.
    Log(Arc<Disk>),
    /// The oldest segments of an agent that may go on.
    Expired(Arc<Disk>, Vec<u64>),
    /// One that a host before has left.
    Left(Files),
}

#[derive(Debug)]
pub(super) struct Writers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Whether a write has failed, and not all is written yet.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    /// One of each agent at most: it hands over no other before this is done.
    batches: VecDeque<Batch>,
    /// At most as many as there were logs, and as there were segments. A batch begins
    /// one at most and is written after one of these was removed, so that they do not
    /// grow.
    removals: VecDeque<Removal>,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writers {
    /// # Errors
    /// If the system has no more threads.
    pub(super) fn start() -> io::Result<Self> {
        let writers = Self {
            shared: Arc::default(),
        };
        for number in 0..THREADS {
            let shared = Arc::clone(&writers.shared);
            thread::Builder::new()
                .name(format!("skep-log-{number}"))
                .spawn(move || serve(&shared))?;
        }
        Ok(writers)
    }

    pub(super) fn write(&self, batch: Batch) {
        self.shared.queue().batches.push_back(batch);
        self.shared.work.notify_one();
    }

    /// Whether the operator was told that they cannot be written, and not yet that
    /// they are again.
    #[cfg(test)]
    pub(super) fn are_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Removes all these, after this call.
    pub(super) fn remove(&self, removals: impl IntoIterator<Item = Removal>) {
        self.shared.queue().removals.extend(removals);
        self.shared.work.notify_all();
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_all();
    }
}

fn serve(shared: &Shared) {
    let mut buffer = Vec::new();
    loop {
        let (removal, batch) = {
            let mut queue = shared.queue();
            loop {
                let work = (queue.removals.pop_front(), queue.batches.pop_front());
                if work.0.is_some() || work.1.is_some() {
                    break work;
                }
                if queue.closed {
                    return;
                }
                queue = shared
                    .work
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        match removal {
            Some(Removal::Log(disk)) => disk.remove(),
            Some(Removal::Expired(disk, segments)) => disk.remove_expired(segments),
            Some(Removal::Left(files)) => files.remove_all(),
            None => {}
        }
        if let Some(batch) = batch {
            shared.write(batch, &mut buffer);
        }
    }
}

impl Shared {
    fn write(&self, batch: Batch, buffer: &mut Vec<u8>) {
        let Batch {
            disk,
            first_seq,
            records,
            done,
        } = batch;
        // A panic is our bug, and must not be the end of every agent's log.
        let written = catch_unwind(AssertUnwindSafe(|| disk.write(first_seq, &records, buffer)));
        let result = written.unwrap_or_else(|_| Err(io::Error::other("a writer panicked")));
        if buffer.capacity() > KEPT_BUFFER {
            *buffer = Vec::new();
        }
        disk.finish(&result);
        self.note(&disk, &result);
        drop(records);
        // Whoever waited may have gone on without it.
        let _ = done.send(());
    }

    /// Tells the operator, once each time: a disk may take what some print, and not
    /// what others do.
    fn note(&self, disk: &Disk, result: &io::Result<()>) {
        match result {
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => tracing::error!(
                %error,
                "logs cannot be written to disk: the newest records are kept in memory, \
                 and agents go on"
            ),
            Ok(()) if self.failing.load(Ordering::Relaxed) && disk.is_none_ahead() => {
                self.failing.store(false, Ordering::Relaxed);
                tracing::info!("logs are written to disk again");
            }
            _ => {}
        }
    }
}
