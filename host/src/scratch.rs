//! An agent's private writable directory: made before it starts, removed with
//! all that is in it when it ends.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use skep_protocol::AgentId;

/// A scratch directory that is removed on drop. Removing costs as much as the
/// agent put there: drop it where that may block.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `root/<agent>`, for the host's user alone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(root: &Path, agent: AgentId) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).recursive(true).create(root)?;
        std::fs::set_permissions(root, Permissions::from_mode(0o700))?;
        let path = root.join(agent.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::error!(%error, path = %self.path.display(), "a scratch directory was not removed");
        }
    }
}

/// Removes a directory with all that is in it, in a stack and a number of
/// descriptors that do not grow with its depth: `remove_dir_all` recurses, and a
/// tree of ten thousand levels, which any guest can make, would end the host.
/// What lies deeper is moved up to the top first. No link is followed.
fn remove_tree(root: &Path) -> io::Result<()> {
    let mut moved = 0u64;
    loop {
        let mut empty = true;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            empty = false;
            if entry.file_type()?.is_dir() {
                remove_level(root, &entry.path(), &mut moved)?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        if empty {
            return std::fs::remove_dir(root);
        }
    }
}

/// Removes one directory, after its own directories were moved to the top.
fn remove_level(top: &Path, directory: &Path, moved: &mut u64) -> io::Result<()> {
    // A native agent may have taken the host's user its own permissions.
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            loop {
                *moved += 1;
                match std::fs::rename(entry.path(), top.join(format!("moved-{moved}"))) {
                    // The agent has made something of that name.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::DirectoryNotEmpty
                                | io::ErrorKind::AlreadyExists
                                | io::ErrorKind::NotADirectory
                        ) => {}
                    renamed => break renamed?,
                }
            }
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_with_its_content_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("canary"), "alive").unwrap();
        let scratch = Scratch::make(&root.path().join("scratch"), AgentId::random()).unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.path(), path.join("a/out")).unwrap();
        drop(scratch);
        assert!(!path.exists());
        assert!(root.path().join("canary").exists());
    }

    #[test]
    fn a_deep_tree_is_removed_in_a_small_stack() {
        const DEPTH: usize = 5_000;
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(root.path(), AgentId::random()).unwrap();
        // Made from the inside out, since no path may be as long as the tree
        // is deep.
        let (inner, outer) = (scratch.path().join("moved-1"), scratch.path().join("outer"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("file"), "deep").unwrap();
        for _ in 0..DEPTH {
            std::fs::create_dir(&outer).unwrap();
            std::fs::rename(&inner, outer.join("d")).unwrap();
            std::fs::rename(&outer, &inner).unwrap();
        }
        let path = scratch.path().to_owned();
        let removing = std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(|| drop(scratch));
        removing.unwrap().join().unwrap();
        assert!(!path.exists());
    }
}
