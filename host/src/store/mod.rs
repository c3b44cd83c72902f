//! What outlives the host: agents with their specs and their ends, components,
//! and the answers that were given. One thread writes, in batches; whoever must
//! know that something is written down waits for it. A host without a state
//! directory has a store that keeps nothing, and whoever uses it need not know.
//!
//! What is lost with the machine's power, and not with the host's process, are
//! the last moments: a commit is not waited for until it is on the medium.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use skep_protocol::{AgentId, AgentName};
use tokio::sync::{Mutex, mpsc, oneshot};

mod blobs;
mod change;
mod components;
mod recover;
mod schema;
mod tables;
mod transaction;
mod upkeep;
mod writer;

pub use change::{Born, Change, Ended, KeptComponent, KeptUpload, Known, Reply, Spawned};
pub use recover::{Comeback, EndedBefore, Left, Recovered};

use crate::state_dir::Claim;
use blobs::Blobs;
use components::Files;
use recover::Found;
use writer::{Size, Trouble, Work, Writer};

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} cannot be used: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} cannot be used: {error}: is there room on its disk, and may it be written to?", path.display())]
    Sql {
        path: PathBuf,
        error: rusqlite::Error,
    },
    #[error("{} is damaged: {found}", path.display())]
    Damaged { path: PathBuf, found: String },
    #[error(
        "{} has version {version}, and this build knows up to {newest}: use a newer build, or \
         another state directory", path.display()
    )]
    Newer {
        path: PathBuf,
        version: i64,
        newest: i64,
    },
}

/// Something could not be written down, or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error(
        "the host cannot use its state directory ({0}): ask its operator to see to its disk, and \
         try again"
    )]
    Disk(String),
    #[error(
        "what the host has written down of agent {agent} cannot be read ({why}): it is damaged, or \
         of another build. It is there until agent {agent} is forgotten"
    )]
    Record { agent: AgentId, why: String },
}

impl Unavailable {
    /// An agent of a host before is there, but could not be taken up yet.
    #[must_use]
    pub fn yet() -> Self {
        Self::of(&"the agent could not be taken up from it yet")
    }

    fn of(error: &dyn std::fmt::Display) -> Self {
        Self::Disk(error.to_string())
    }
}

/// What is written down of one agent, as far as that can be read.
pub type Record = (AgentId, Result<(Born, Known), Unavailable>);

/// Opens the file of a directory and reads what is in it.
fn read(dir: &Path) -> Result<(Connection, Found), OpenError> {
    let db = schema::open(dir)?;
    let found = recover::recover(&db);
    let found = found.map_err(|error| schema::failed(&dir.join(schema::FILE), error))?;
    Ok((db, found))
}

/// How long what has happened waits for a disk that does not answer, before it is
/// told all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same, for all that is left to be written when the host ends.
const LAST: Duration = Duration::from_secs(10);

/// A cheap reference to a store.
#[derive(Debug, Clone, Default)]
pub struct Store(Option<Arc<Kept>>);

/// A store that keeps something.
#[derive(Debug)]
struct Kept {
    work: mpsc::Sender<Work>,
    trouble: Trouble,
    size: Size,
    reader: Arc<Mutex<Connection>>,
    files: Files,
}

impl Store {
    /// A store that keeps nothing: all is well at once, and nothing is found.
    #[must_use]
    pub fn absent() -> Self {
        Self(None)
    }

    /// Whether a host that comes after finds what is written.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.0.is_some()
    }

    /// Opens the store of a state directory, and gives what a host before has
    /// left there. A damaged one is set aside, and begun anew.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(dir: &Path, claim: Claim) -> Result<(Self, Recovered), OpenError> {
        let (db, (mut recovered, replies)) = match read(dir) {
            Err(error @ OpenError::Damaged { .. }) => {
                let aside = schema::set_aside(dir)?;
                tracing::warn!(
                    %error, path = %aside.display(),
                    "the store was damaged and is set aside, with the logs, scratch directories \
                     and components of its agents: the host begins without them, and never \
                     removes what is set aside"
                );
                read(dir)?
            }
            found => found?,
        };
        let of_dir = |error| OpenError::Io {
            path: dir.to_owned(),
            error,
        };
        let reader = schema::open_reader(dir)?;
        let blobs = Blobs::open(dir.join("components")).map_err(of_dir)?;
        let gone = blobs.sweep(&recovered.components, &recovered.uploads);
        let gone = gone.map_err(of_dir)?;
        (recovered.components).retain(|component| !gone.contains(&component.digest));
        recovered.gone.extend(gone);
        let (work, trouble, size) =
            Writer::start(db, replies, claim, schema::files(dir)).map_err(of_dir)?;
        let kept = Kept {
            work,
            trouble,
            size,
            reader: Arc::new(Mutex::new(reader)),
            files: Files::new(blobs),
        };
        Ok((Self(Some(Arc::new(kept))), recovered))
    }

    /// Why nothing can be written now, if that is so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.as_ref()?.trouble.read()
    }

    /// How large its files are, but for the bytes of components.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |kept| kept.size.read())
    }

    /// Makes a change, and returns when it is written down.
    ///
    /// # Errors
    /// If it cannot be written now. What has happened is written later then;
    /// all else is as if it had not been asked for.
    pub async fn write(&self, change: Change) -> Result<(), Unavailable> {
        match self.send(change).await {
            Some(done) => done
                .await
                .unwrap_or_else(|_| Err(Unavailable::of(&"the store is closed"))),
            None => Ok(()),
        }
    }

    /// Makes a change that has happened whether or not it is written down. Waits for
    /// that, but not for a disk that does not answer: when it does, it is written.
    /// Whether it is by now.
    pub async fn write_what_happened(&self, change: Change) -> bool {
        if !self.keeps() {
            return true;
        }
        let store = self.clone();
        // As many at a time as there are agents, since each happens once to one.
        let writing = tokio::spawn(async move { store.write(change).await });
        let written = tokio::time::timeout(PATIENCE, writing).await;
        matches!(written, Ok(Ok(Ok(()))))
    }

    /// Makes a change that is of use to the next host, but not promised, and waits
    /// for that likewise. If the disk does not answer, it may be that it is not
    /// written at all.
    pub async fn write_if_possible(&self, change: Change) {
        let _ = tokio::time::timeout(PATIENCE, self.write(change)).await;
    }

    /// Makes a change that nobody waits for; it is written in its turn.
    pub async fn note(&self, change: Change) {
        let _ = self.send(change).await;
    }

    async fn send(&self, change: Change) -> Option<oneshot::Receiver<Result<(), Unavailable>>> {
        let kept = self.0.as_ref()?;
        let (done, is_done) = oneshot::channel();
        // Once it is closed, the answer is that nobody answers.
        let _ = kept.work.send(Work::Write(change, done)).await;
        Some(is_done)
    }

    /// Writes what waits, and closes the file. Nothing can be written after. A disk
    /// that does not answer is waited for 10 s at most.
    pub async fn close(&self) {
        let Some(kept) = &self.0 else { return };
        let (done, is_done) = oneshot::channel();
        let closing = async {
            let _ = kept.work.send(Work::Close(done)).await;
            let _ = is_done.await;
        };
        if tokio::time::timeout(LAST, closing).await.is_err() {
            tracing::error!(
                "the disk of the store did not answer: what happened last is not in it"
            );
        }
    }

    /// Reads the file on another thread, one at a time. The others wait without
    /// one: a client that asks for everything at once does not take all threads
    /// from who reads files.
    async fn read<T: Send + 'static>(
        &self,
        absent: T,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let Some(kept) = &self.0 else {
            return Ok(absent);
        };
        let reader = Arc::clone(&kept.reader).lock_owned().await;
        let read = tokio::task::spawn_blocking(move || work(&reader)).await;
        let read = read.map_err(|error| Unavailable::of(&error))?;
        read.map_err(|error| Unavailable::of(&error))
    }

    /// The records of agents that have ended, as far as they are there. One that
    /// cannot be read does not hide the others.
    ///
    /// # Errors
    /// If they cannot be read now.
    pub async fn recall(&self, ids: Vec<AgentId>) -> Result<Vec<Record>, Unavailable> {
        self.read(Vec::new(), move |db| {
            let mut records = Vec::with_capacity(ids.len());
            for id in ids {
                let found = match recover::recall(db, id) {
                    Err(error) if recover::is_of_record(&error) || schema::is_damage(&error) => {
                        let why = error.to_string();
                        Err(Unavailable::Record { agent: id, why })
                    }
                    found => match found? {
                        Some(found) => Ok(found),
                        None => continue,
                    },
                };
                records.push((id, found));
            }
            Ok(records)
        })
        .await
    }

    /// The agents of this name that have ended.
    ///
    /// # Errors
    /// If they cannot be read now.
    pub async fn named(&self, name: AgentName) -> Result<Vec<AgentId>, Unavailable> {
        self.read(Vec::new(), move |db| recover::named(db, name.as_str()))
            .await
    }
}

#[cfg(test)]
mod tests;
