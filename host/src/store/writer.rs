//! The thread that writes: it takes everything that waits into one transaction,
//! commits that, and then tells all who wait for it.
//!
//! Where the disk does not take it, what may be refused is refused, and what has
//! happened is owed: the ends of agents first of all. New agents and components
//! are refused all the while, so that no more can be owed than there are of them.
//! It is tried again and again, later each time, until it is written. The same holds
//! where the file is no longer where it was: no later host would find what is in it.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Unavailable;
use super::change::Change;
use super::transaction::{Written, WrittenReply, commit};
use super::upkeep::Upkeep;
use crate::state_dir::Claim;

/// What may wait to be written. Whoever comes then waits before that: their
/// agents are not acknowledged, their ends not told.
pub(super) const WAITING: usize = 1024;

/// Changes in one transaction: agents begin while those after them are written.
const BATCH: usize = 64;

/// How long after a failure the next attempt comes, the first and at most.
const RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Work {
    Write(Change, oneshot::Sender<Result<(), Unavailable>>),
    /// Write what is owed, and end.
    Close(oneshot::Sender<()>),
}

/// Why nothing can be written now.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    pub(super) fn read(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, cause: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut self.0.lock().unwrap_or_else(PoisonError::into_inner),
            cause,
        )
    }
}

/// How many bytes the files have, as of the last time they were written to.
#[derive(Debug, Clone, Default)]
pub(super) struct Size(Arc<AtomicU64>);

impl Size {
    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn measure(&self, files: &[PathBuf]) {
        let bytes = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        self.0
            .store(files.iter().map(bytes).sum(), Ordering::Relaxed);
    }
}

/// Who writes.
pub(super) struct Writer {
    db: Connection,
    work: mpsc::Receiver<Work>,
    trouble: Trouble,
    /// What has happened and is not written down, oldest first.
    owed: VecDeque<Change>,
    failed: Option<Failed>,
    /// Oldest first.
    replies: VecDeque<WrittenReply>,
    reply_bytes: usize,
    files: [PathBuf; 2],
    /// Which file the first of them is.
    identity: Option<(u64, u64)>,
    size: Size,
    upkeep: Upkeep,
    _claim: Claim,
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

#[derive(Clone, Copy)]
struct Failed {
    retry_at: Instant,
    wait: Duration,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        db: Connection,
        replies: VecDeque<WrittenReply>,
        claim: Claim,
        files: [PathBuf; 2],
    ) -> std::io::Result<(mpsc::Sender<Work>, Trouble, Size)> {
        let (sender, work) = mpsc::channel(WAITING);
        let writer = Self::new(db, work, replies, claim, files);
        let (trouble, size) = (writer.trouble.clone(), writer.size.clone());
        // A runtime of its own, for the clock: the thread waits for work, or for
        // the time to try again.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        std::thread::Builder::new()
            .name("skep-store".to_owned())
            .spawn(move || runtime.block_on(writer.serve()))?;
        Ok((sender, trouble, size))
    }

    fn new(
        db: Connection,
        work: mpsc::Receiver<Work>,
        replies: VecDeque<WrittenReply>,
        claim: Claim,
        files: [PathBuf; 2],
    ) -> Self {
        let size = Size::default();
        size.measure(&files);
        Self {
            db,
            work,
            trouble: Trouble::default(),
            owed: VecDeque::new(),
            failed: None,
            reply_bytes: replies.iter().map(|reply| reply.bytes).sum(),
            replies,
            identity: identity(&files[0]),
            files,
            size,
            upkeep: Upkeep::new(),
            _claim: claim,
        }
    }

    async fn serve(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let failed = self.failed;
            let upkeep_at = self.upkeep.due_at().filter(|_| failed.is_none());
            let closed = tokio::select! {
                biased;
                taken = self.work.recv_many(&mut batch, BATCH) => taken == 0,
                () = at(failed.map(|failed| failed.retry_at)) => false,
                () = at(upkeep_at) => {
                    self.upkeep.tidy(&self.db);
                    self.size.measure(&self.files);
                    continue;
                }
            };
            let mut closing = None;
            let mut writes = Vec::with_capacity(batch.len());
            for work in batch.drain(..) {
                match work {
                    Work::Write(change, done) => writes.push((change, done)),
                    Work::Close(done) => closing = Some(done),
                }
            }
            let last = closed || closing.is_some();
            if last {
                // The last attempt comes at once.
                self.failed = self.failed.map(|failed| Failed {
                    retry_at: Instant::now(),
                    ..failed
                });
            }
            self.write(writes);
            self.size.measure(&self.files);
            if last {
                if !self.owed.is_empty() {
                    tracing::error!(
                        changes = self.owed.len(),
                        "the host ends, and its store lacks what has happened last"
                    );
                }
                // What reads may be open still, and keeps the log from going.
                let _ = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(self);
                if let Some(done) = closing {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    fn write(&mut self, writes: Vec<(Change, oneshot::Sender<Result<(), Unavailable>>)>) {
        let too_early = (self.failed).is_some_and(|failed| Instant::now() < failed.retry_at);
        let moved = self.has_moved();
        let (writes, refused) = match &moved {
            Some(_) if !too_early => {
                (writes.into_iter()).partition(|(change, _): &(Change, _)| change.has_happened())
            }
            _ => (writes, Vec::new()),
        };
        let written = if too_early {
            Err(self.trouble.read().unwrap_or_default())
        } else {
            let changes = writes.iter().map(|(change, _)| change);
            let erases =
                |change: &Change| matches!(change, Change::Ended(_) | Change::Forgotten(_));
            let erases = changes.clone().chain(&self.owed).any(erases);
            self.upkeep.put_off(erases);
            let written = commit(
                &mut self.db,
                &self.owed,
                changes,
                &self.replies,
                self.reply_bytes,
            );
            self.note(written, moved.clone())
        };
        for (_, done) in refused {
            // Whoever waited may have gone.
            let _ = done.send(Err(Unavailable::Disk(moved.clone().unwrap_or_default())));
        }
        for (change, done) in writes {
            let told = written.clone().map_err(Unavailable::Disk);
            if told.is_err() && change.has_happened() {
                self.owed.push_back(change);
            }
            // Whoever waited may have gone.
            let _ = done.send(told);
        }
    }

    /// Why no later host would find what is written now.
    fn has_moved(&self) -> Option<String> {
        let [file, _] = &self.files;
        (identity(file) != self.identity).then(|| {
            format!(
                "{} is not the file that this host has open: put it back, or start the host again",
                file.display()
            )
        })
    }

    /// Tells the operator, once each time, and decides when to try again.
    fn note(
        &mut self,
        written: rusqlite::Result<Written>,
        moved: Option<String>,
    ) -> Result<(), String> {
        match written {
            Ok(written) => {
                self.owed.clear();
                for gone in self.replies.drain(..written.forgotten) {
                    self.reply_bytes -= gone.bytes;
                }
                for reply in written.replies {
                    self.reply_bytes += reply.bytes;
                    self.replies.push_back(reply);
                }
                match moved {
                    Some(cause) => self.fails(cause),
                    None => {
                        self.failed = None;
                        if self.trouble.set(None).is_some() {
                            tracing::info!("the store is written to again");
                        }
                    }
                }
                Ok(())
            }
            Err(error) => {
                let cause = error.to_string();
                self.fails(cause.clone());
                Err(cause)
            }
        }
    }

    fn fails(&mut self, cause: String) {
        let wait = (self.failed).map_or(RETRY, |failed| (failed.wait * 2).min(MAX_RETRY));
        self.failed = Some(Failed {
            retry_at: Instant::now() + wait,
            wait,
        });
        if self.trouble.set(Some(cause.clone())).is_none() {
            tracing::error!(
                error = %cause,
                "the store cannot be written to: agents that are there go on, new ones are \
                 refused, and it is tried again"
            );
        }
    }
}

/// Waits until then, or for ever.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use skep_protocol::{AgentId, Digest};

    use super::*;
    use crate::store::{KeptUpload, schema};

    #[tokio::test]
    async fn what_anybody_can_ask_for_is_not_owed() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::new(dir.path()).unwrap();
        let db = schema::open(dir.path()).unwrap();
        let (_sender, work) = mpsc::channel(1);
        let files = schema::files(dir.path());
        let mut writer = Writer::new(db, work, VecDeque::new(), claim, files);
        // As if there were no room.
        let other = schema::open(dir.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut refused = |change| {
            let (done, mut is_done) = oneshot::channel();
            writer.write(vec![(change, done)]);
            assert!(is_done.try_recv().unwrap().is_err());
            writer.owed.len()
        };
        let agent = AgentId::random();
        assert_eq!(refused(Change::Forgotten(vec![agent])), 1);
        // Uploads begun and deleted, or whole and not what they should be.
        for number in 0..1_000_u64 {
            let upload = KeptUpload {
                digest: Digest::of(&number.to_le_bytes()),
                size: 2,
                parts: vec![(0, 1)],
            };
            let digest = upload.digest;
            refused(Change::UploadGrew(upload));
            assert_eq!(refused(Change::UploadsGone(vec![digest])), 1);
        }
    }
}
