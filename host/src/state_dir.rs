//! The directory in which a host keeps what outlives it, and the one lock over
//! all of that: store, logs, components and scratch directories.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// Why a host cannot have a state directory.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("another host uses {}: stop it, or use another state directory", .0.display())]
    InUse(PathBuf),
    #[error("the state directory {} cannot be used: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// A host's word that the directory is its own. It lasts until it is dropped, or
/// the process ends, however it does.
#[derive(Debug)]
pub struct Claim {
    _file: File,
    _dir: Option<File>,
}

impl Claim {
    /// Claims a directory, which is made unless it is there.
    ///
    /// # Errors
    /// If another host has it, or it cannot be used.
    pub fn new(dir: &Path) -> Result<Self, ClaimError> {
        let open = || {
            DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            options.open(dir.join(LOCK))
        };
        let claimed = open().map_err(TryLockError::Error).and_then(|file| {
            file.try_lock()?;
            // Somebody may remove the file, and the next host would lock another.
            let itself = File::open(dir).map_err(TryLockError::Error)?;
            let itself = match itself.try_lock() {
                Ok(()) => Some(itself),
                Err(TryLockError::WouldBlock) => return Err(TryLockError::WouldBlock),
                // Not every file system locks directories, for one over a network.
                Err(TryLockError::Error(_)) => None,
            };
            Ok((file, itself))
        });
        match claimed {
            Ok((file, itself)) => Ok(Self {
                _file: file,
                _dir: itself,
            }),
            Err(TryLockError::WouldBlock) => Err(ClaimError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(ClaimError::Io {
                path: dir.to_owned(),
                error,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_host() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Claim::new(&state).unwrap();
        assert_eq!(
            state.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        let second = Claim::new(&state).unwrap_err();
        assert!(matches!(second, ClaimError::InUse(_)), "{second}");
        assert!(second.to_string().contains("another host"), "{second}");
        std::fs::remove_file(state.join(LOCK)).unwrap();
        let second = Claim::new(&state).unwrap_err();
        assert!(matches!(second, ClaimError::InUse(_)), "{second}");
        drop(first);
        // Another test may be starting a process, which has the lock until it
        // runs its program.
        let start = std::time::Instant::now();
        while Claim::new(&state).is_err() {
            assert!(start.elapsed() < std::time::Duration::from_secs(10));
            std::thread::yield_now();
        }
    }
}
