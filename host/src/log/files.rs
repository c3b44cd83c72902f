//! The directory of one agent's log: a file for each segment, named for its
//! first record. No descriptor is kept, so that a thousand agents hold none.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::segment::HEADER;
use crate::clock;

#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, first_seq: u64) -> PathBuf {
        self.dir.join(name(first_seq))
    }

    /// Writes at a place of a segment. What stands there is what an attempt
    /// that failed has left.
    pub(super) fn write(&self, first_seq: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(first_seq);
        let open = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(&self.dir)?;
                open()?
            }
            opened => opened?,
        };
        file.write_all_at(bytes, offset)
    }

    pub(super) fn open(&self, first_seq: u64) -> io::Result<File> {
        File::open(self.path(first_seq))
    }

    /// Cuts what follows the last record that can be read.
    pub(super) fn truncate(&self, first_seq: u64, bytes: u64) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(self.path(first_seq))?
            .set_len(bytes)
    }

    /// Removes a segment. What cannot be removed is told, and goes with the
    /// directory.
    pub(super) fn remove(&self, first_seq: u64) {
        let path = self.path(first_seq);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a log segment was not removed");
            }
            _ => {}
        }
    }

    /// Whether there is a segment of more than its header.
    pub(super) fn has_entries(&self) -> bool {
        let segments = self.list().unwrap_or_default();
        segments.into_iter().any(|first_seq| {
            let file = self.path(first_seq).metadata();
            file.is_ok_and(|file| file.len() > HEADER as u64)
        })
    }

    /// When the last segment was written to, if there is one.
    pub(super) fn written_ms(&self) -> Option<u64> {
        let last = self.list().ok()?.pop()?;
        let written = self.path(last).metadata().and_then(|file| file.modified());
        written.ok().map(clock::ms_of)
    }

    /// The first numbers of all segments, in their order.
    pub(super) fn list(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let file = entry?.file_name();
            let number = (file.to_str())
                .and_then(|file| file.strip_suffix(".log"))
                .and_then(|number| number.parse().ok())
                .filter(|&number| *file == *name(number));
            found.extend(number);
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// As wide as the largest number, so that names sort as their numbers do.
fn name(first_seq: u64) -> String {
    format!("{first_seq:020}.log")
}

/// Removes an agent's directory. It has no directories of its own: one that has
/// was made by somebody else, and is left where it is.
pub(super) fn remove_directory(dir: &Path) {
    let removed = || -> io::Result<()> {
        if std::fs::symlink_metadata(dir)?.is_symlink() {
            // Somebody else's, and so is what lies where it leads.
            return std::fs::remove_file(dir);
        }
        for entry in std::fs::read_dir(dir)? {
            std::fs::remove_file(entry?.path())?;
        }
        std::fs::remove_dir(dir)
    };
    match removed() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %dir.display(), "the log of a forgotten agent was not removed");
        }
        _ => {}
    }
}
