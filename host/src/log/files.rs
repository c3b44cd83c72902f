//! The directory of one agent's log: a file for each segment, named for its
//! first record. No descriptor is kept, so that a thousand agents hold none.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use cap_std::fs::{DirBuilder, DirBuilderExt, OpenOptions};

use super::root::{Root, to_make};
use super::segment::HEADER;
use crate::clock;

#[derive(Debug)]
pub(super) struct Files {
    root: Arc<Root>,
    dir: PathBuf,
}

impl Files {
    /// Those in a directory of this name.
    pub(super) fn new(root: &Arc<Root>, dir: impl Into<PathBuf>) -> Self {
        Self {
            root: Arc::clone(root),
            dir: dir.into(),
        }
    }

    /// What people are told of a segment.
    pub(super) fn path(&self, first_seq: u64) -> PathBuf {
        self.root.path(self.within(first_seq))
    }

    fn within(&self, first_seq: u64) -> PathBuf {
        self.dir.join(name(first_seq))
    }

    /// Writes at a place of a segment. What stands there is what an attempt
    /// that failed has left. A segment that is [gone](is_gone) is made anew by
    /// nobody: where its first records were, zeros would be.
    pub(super) fn write(&self, first_seq: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = if offset == 0 {
            self.make(first_seq)?
        } else {
            self.open_with(first_seq, OpenOptions::new().write(true))?
        };
        if file.metadata()?.len() < offset {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a log segment is shorter than what was written to it",
            ));
        }
        file.write_all_at(bytes, offset)
    }

    fn make(&self, first_seq: u64) -> io::Result<File> {
        match self.open_with(first_seq, &to_make()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut private = DirBuilder::new();
                private.mode(0o700);
                self.root.dir().create_dir_with(&self.dir, &private)?;
                self.open_with(first_seq, &to_make())
            }
            opened => opened,
        }
    }

    fn open_with(&self, first_seq: u64, options: &OpenOptions) -> io::Result<File> {
        let opened = (self.root.dir()).open_with(self.within(first_seq), options)?;
        Ok(opened.into_std())
    }

    pub(super) fn open(&self, first_seq: u64) -> io::Result<File> {
        self.open_with(first_seq, OpenOptions::new().read(true))
    }

    /// Cuts what follows the last record that can be read.
    pub(super) fn truncate(&self, first_seq: u64, bytes: u64) -> io::Result<()> {
        self.open_with(first_seq, OpenOptions::new().write(true))?
            .set_len(bytes)
    }

    /// Removes a segment. What cannot be removed is told, and goes with the
    /// directory.
    pub(super) fn remove(&self, first_seq: u64) {
        match self.root.dir().remove_file(self.within(first_seq)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path(first_seq);
                tracing::warn!(%error, path = %path.display(), "a log segment was not removed");
            }
            _ => {}
        }
    }

    /// Whether there is a segment of more than its header.
    pub(super) fn has_entries(&self) -> bool {
        let segments = self.list().unwrap_or_default();
        segments.into_iter().any(|first_seq| {
            let file = self.root.dir().metadata(self.within(first_seq));
            file.is_ok_and(|file| file.len() > HEADER as u64)
        })
    }

    /// When the last segment was written to, if there is one.
    pub(super) fn written_ms(&self) -> Option<u64> {
        let last = self.list().ok()?.pop()?;
        let file = self.root.dir().metadata(self.within(last));
        let written = file.and_then(|file| file.modified()).ok()?;
        Some(clock::ms_of(written.into_std()))
    }

    /// The first numbers of all segments, in their order.
    pub(super) fn list(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in self.root.dir().read_dir(&self.dir)? {
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

    /// Removes the directory. It has no directories of its own: one that has was
    /// made by somebody else, and is left where it is.
    pub(super) fn remove_all(&self) {
        let root = self.root.dir();
        let removed = || -> io::Result<()> {
            if root.symlink_metadata(&self.dir)?.is_symlink() {
                // Somebody else's, and so is what lies where it leads.
                return root.remove_file(&self.dir);
            }
            for entry in root.read_dir(&self.dir)? {
                entry?.remove_file()?;
            }
            root.remove_dir(&self.dir)
        };
        match removed() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.root.path(&self.dir);
                tracing::warn!(%error, path = %path.display(), "the log of a forgotten agent was not removed");
            }
            _ => {}
        }
    }
}

/// Whether a segment could not be written because somebody has removed it, or some
/// of it.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

/// As wide as the largest number, so that names sort as their numbers do.
fn name(first_seq: u64) -> String {
    format!("{first_seq:020}.log")
}
