//! What an agent holds on disk, counted over all of its runs: a new run finds what
//! the ones before it left, and must not be given as much again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An amount of disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Names of files, directories and links.
    pub files: u64,
    /// Logical bytes: a hole counts as what it seems to hold.
    pub bytes: u64,
}

impl Amount {
    pub(super) const fn files(files: u64) -> Self {
        Self { files, bytes: 0 }
    }

    pub(super) const fn bytes(bytes: u64) -> Self {
        Self { files: 0, bytes }
    }
}

/// What one agent holds, shared by its runs. The lock is held for a few
/// instructions.
#[derive(Debug, Clone, Default)]
pub struct DiskUse(Arc<Mutex<Amount>>);

impl DiskUse {
    pub(super) fn lock(&self) -> MutexGuard<'_, Amount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
