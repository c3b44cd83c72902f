//! A directory that an agent was given, and what may be done in it.

use rustix::fs::OFlags;
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::{FsPerms, OpenMode};

use crate::paths::open_without_links;
use crate::runner::{Access, GrantedDir};

/// How what happens in a tree is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    /// Nothing can be written.
    ReadOnly,
    /// What is added counts, and is never given back: others may have taken
    /// it away, or put it there.
    Shared,
    /// What is there counts. It was empty at the start, nobody else writes to
    /// it, and it goes with the agent.
    Scratch,
}

impl From<Access> for Tree {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::ReadOnly,
            Access::Write => Self::Shared,
            Access::Scratch => Self::Scratch,
        }
    }
}

/// Opens a granted directory.
pub(super) fn open(granted: &GrantedDir) -> std::io::Result<Dir> {
    let (perms, mode) = match granted.access {
        Access::Read => (FsPerms::ReadOnly, OpenMode::READ),
        Access::Write | Access::Scratch => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
    };
    let dir = open_without_links(&granted.host, OFlags::DIRECTORY)?;
    // It may block because it is only used in the agent's turn.
    Ok(Dir::new(dir.into(), perms, mode, true))
}
