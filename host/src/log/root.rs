//! The directory of all logs, held open: if another is mounted or moved in its
//! place, logs go on in the one that they are in. What is made by its path would be
//! written where no later host finds it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

#[derive(Debug)]
pub(super) struct Root {
    dir: Dir,
    path: PathBuf,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            dir: Dir::open_ambient_dir(path, ambient_authority())?,
            path: path.to_owned(),
        }))
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What people are told of something in it.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// To make a file for the host's user alone, or write to one.
pub(super) fn to_make() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}
