//! The logs of a host: in memory, or below one directory.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_protocol::AgentId;
use tokio::sync::Semaphore;

use super::allowance::Allowance;
use super::budget::Budget;
use super::disk::Disk;
use super::files::Files;
use super::history::{History, OnDisk};
use super::journal::Journal;
use super::root::Root;
use super::tail::Tail;
use super::writers::{Removal, Writers};

/// What an agent keeps in memory of a log that is on disk, so that those who
/// follow it closely never wait for the disk.
const TAIL: u64 = 256 * 1024;

/// The same, of all agents together. Beyond it, memory is for what is newest.
const TAILS: u64 = 256 * 1024 * 1024;

/// How many requests read the disk at once; each holds a page or two of memory.
const READS: usize = 4;

/// Why logs cannot be kept in a directory.
#[derive(Debug, thiserror::Error)]
#[error("logs cannot be kept in {}: {error}", path.display())]
pub struct OpenError {
    pub path: PathBuf,
    pub error: io::Error,
}

/// Where histories are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    budget: Arc<Budget>,
    shelf: Option<Arc<Shelf>>,
}

/// What all logs on disk have in common.
#[derive(Debug)]
pub(super) struct Shelf {
    root: Arc<Root>,
    pub(super) journal: Arc<Journal>,
    pub(super) allowance: Arc<Allowance>,
    tails: Arc<Budget>,
    pub(super) writers: Writers,
    pub(super) reads: Arc<Semaphore>,
}

impl Logs {
    /// Logs that end with the host.
    #[must_use]
    pub fn in_memory(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            shelf: None,
        }
    }

    /// Logs below a directory, which is made unless it is there, and is this
    /// host's alone: see [`state_dir`](crate::state_dir).
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn on_disk(root: &Path, budget: Arc<Budget>) -> Result<Self, OpenError> {
        let failed = |error| OpenError {
            path: root.to_owned(),
            error,
        };
        let mut dir = DirBuilder::new();
        (dir.mode(0o700).recursive(true).create(root)).map_err(failed)?;
        let root = Root::open(root).map_err(failed)?;
        let shelf = Shelf {
            journal: Arc::new(Journal::open(&root).map_err(failed)?),
            allowance: Arc::new(Allowance::open(&root).map_err(failed)?),
            root,
            tails: Budget::new(TAILS),
            writers: Writers::start().map_err(failed)?,
            reads: Arc::new(Semaphore::new(READS)),
        };
        Ok(Self {
            budget,
            shelf: Some(Arc::new(shelf)),
        })
    }

    /// The history of a new agent. Nothing is made for it before its first
    /// record.
    #[must_use]
    pub fn create(&self, agent: AgentId, bound: u64) -> History {
        let Some(shelf) = &self.shelf else {
            let tail = Tail::new(0, bound, Arc::clone(&self.budget));
            return History::new(agent, Arc::clone(&self.budget), tail, None);
        };
        self.history(
            shelf,
            agent,
            bound,
            shelf.disk(agent, bound, &self.budget),
            0,
        )
    }

    /// The history of an agent whose log an earlier host has written; it goes on
    /// after the last record that is whole, and past whatever that host may have
    /// published besides: records before `seen` at least. None if there is nothing
    /// of it. Reads all of it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn recover(&self, agent: AgentId, bound: u64, seen: u64) -> io::Result<Option<History>> {
        let Some(shelf) = &self.shelf else {
            return Ok(None);
        };
        let disk = shelf.disk(agent, bound, &self.budget);
        let found = disk.recover()?;
        let published = disk.next_seq().saturating_add(shelf.allowance.left());
        let next_seq = published.max(seen);
        disk.go_on_at(next_seq);
        let any = found || next_seq > 0;
        Ok(any.then(|| self.history(shelf, agent, bound, disk, next_seq)))
    }

    /// To be called when every agent of the host before that may run again, or
    /// whose end is to be told, was [recovered](Self::recover).
    pub fn took_up(&self) {
        if let Some(shelf) = &self.shelf {
            shelf.allowance.took_up();
        }
    }

    /// What is the matter with the disk of the logs, and what comes of it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shelf.as_ref()?.allowance.trouble()
    }

    /// Whether a host before has written records of that agent.
    #[must_use]
    pub fn has(&self, agent: &AgentId) -> bool {
        (self.shelf.as_ref()).is_some_and(|shelf| {
            shelf.journal.get(*agent).is_some() || shelf.files(*agent).has_entries()
        })
    }

    /// The history of an agent that has ended under a host before: its log is
    /// looked at when somebody reads it. Its bytes are the caller's to count.
    #[must_use]
    pub fn recall(&self, agent: AgentId, bound: u64, next_seq: u64) -> History {
        let uncounted = Budget::new(u64::MAX);
        let Some(shelf) = &self.shelf else {
            let tail = Tail::new(next_seq, bound, Arc::clone(&uncounted));
            return History::new(agent, uncounted, tail, None);
        };
        let tail = Tail::new(next_seq, bound.min(TAIL), Arc::clone(&shelf.tails));
        let on_disk = OnDisk {
            disk: Arc::new(shelf.disk(agent, bound, &uncounted).unread()),
            shelf: Arc::clone(shelf),
        };
        History::new(agent, uncounted, tail, Some(on_disk))
    }

    fn history(
        &self,
        shelf: &Arc<Shelf>,
        agent: AgentId,
        bound: u64,
        disk: Disk,
        next_seq: u64,
    ) -> History {
        let tail = Tail::new(next_seq, bound.min(TAIL), Arc::clone(&shelf.tails));
        let on_disk = OnDisk {
            disk: Arc::new(disk),
            shelf: Arc::clone(shelf),
        };
        History::new(agent, Arc::clone(&self.budget), tail, Some(on_disk))
    }

    /// When the newest log was written to of agents that are not known.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn newest_unknown_ms(
        &self,
        is_known: impl Fn(&AgentId) -> bool,
    ) -> io::Result<Option<u64>> {
        let Some(shelf) = &self.shelf else {
            return Ok(None);
        };
        let of_files = (shelf.unknown(&is_known)?.into_iter())
            .filter_map(|agent| shelf.files(agent).written_ms())
            .max();
        let of_small = shelf.journal.newest_ms_of(|agent| !is_known(agent));
        Ok(of_files.max(of_small))
    }

    /// Moves the logs of agents that are not known into a directory, with the files
    /// in which the small ones of all are. To be called before the first agent.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn set_aside(&self, is_known: impl Fn(&AgentId) -> bool, aside: &Path) -> io::Result<()> {
        let Some(shelf) = &self.shelf else {
            return Ok(());
        };
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(aside)?;
        let (from, into) = (shelf.root.dir(), Root::open(aside)?);
        // First, since a host that fails here finds no agents that it does not know once
        // their directories are moved. The next journal is another file. A disk that is
        // full has room for a name; a file system without hard links, for a copy.
        for name in shelf.journal.left() {
            let linked = from.hard_link(&name, into.dir(), &name);
            linked.or_else(|_| from.copy(&name, into.dir(), &name).map(drop))?;
        }
        for agent in shelf.unknown(&is_known)? {
            let name = agent.to_string();
            from.rename(&name, into.dir(), &name)?;
        }
        Ok(())
    }

    /// Removes the logs of agents that are not known any more, after this call,
    /// and says how many there are. To be called before the first agent.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn sweep(&self, is_known: impl Fn(&AgentId) -> bool) -> io::Result<usize> {
        let Some(shelf) = &self.shelf else {
            return Ok(0);
        };
        let orphans = shelf.unknown(&is_known)?;
        let count = orphans.len() + shelf.journal.sweep(is_known);
        let left = |agent| Removal::Left(shelf.files(agent));
        let removals: Vec<_> = orphans.into_iter().map(left).collect();
        shelf.writers.remove(removals);
        Ok(count)
    }
}

impl Shelf {
    /// Agents that are not known and have files here. What else lies here is not
    /// ours.
    fn unknown(&self, is_known: impl Fn(&AgentId) -> bool) -> io::Result<Vec<AgentId>> {
        let mut unknown = Vec::new();
        for entry in self.root.dir().entries()? {
            let name = entry?.file_name();
            let agent = name.to_str().and_then(|name| name.parse().ok());
            unknown.extend(agent.filter(|agent| !is_known(agent)));
        }
        Ok(unknown)
    }

    fn files(&self, agent: AgentId) -> Files {
        Files::new(&self.root, agent.to_string())
    }

    fn disk(&self, agent: AgentId, bound: u64, budget: &Arc<Budget>) -> Disk {
        Disk::new(
            agent,
            self.files(agent),
            Arc::clone(&self.journal),
            Arc::clone(&self.allowance),
            bound,
            Arc::clone(budget),
        )
    }
}
