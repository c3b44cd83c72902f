//! A private directory of an agent: made before it starts, and removed with all
//! that is in it. What an earlier host left of agents that nobody knows any more
//! is removed by the next one.

use std::collections::HashSet;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use skep_protocol::AgentId;

use crate::clock;

/// A directory that is removed on drop. Removing costs as much as the agent put
/// there: drop it where that may block.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    stays: bool,
}

impl Scratch {
    /// Makes `root/<agent>`, for the host's user alone. Without the root it makes
    /// none: what would be made in its place could be away with the next mount.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(root: &Path, agent: AgentId) -> io::Result<Self> {
        let path = root.join(agent.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self::found(path))
    }

    /// One that is there already.
    #[must_use]
    pub const fn found(path: PathBuf) -> Self {
        Self { path, stays: false }
    }

    /// Gives it another name, under which no agent's is looked for.
    ///
    /// # Errors
    /// Those of the file system; then it is removed.
    pub fn set_aside(mut self) -> io::Result<Self> {
        let name = format!("{ASIDE}{}", uuid::Uuid::new_v4());
        let aside = self.path.with_file_name(name);
        std::fs::rename(&self.path, &aside)?;
        self.path = aside;
        Ok(self)
    }

    /// Lets it lie there.
    pub fn leave(mut self) {
        self.stays = true;
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How the names of directories begin that are to be removed.
const ASIDE: &str = "left-";

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::error!(%error, path = %self.path.display(), "a directory of an agent was not removed");
        }
    }
}

/// Where the directories of agents are made.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
    made_when_needed: bool,
}

impl Root {
    /// One that a host finds, or makes, when it starts; or unless it keeps anything,
    /// when an agent needs it.
    #[must_use]
    pub const fn new(path: PathBuf, host_keeps: bool) -> Self {
        Self {
            path,
            made_when_needed: !host_keeps,
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, to make something there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn ready(&self) -> io::Result<&Path> {
        if self.made_when_needed {
            make_root(&self.path)?;
        }
        Ok(&self.path)
    }
}

fn make_root(root: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(root)?;
    std::fs::set_permissions(root, Permissions::from_mode(0o700))
}

/// What agents of a host before have left below a root.
#[derive(Debug, Default)]
pub struct LeftBehind {
    /// Of agents that are known: where, to be [found](Scratch::found) by who keeps
    /// it. It stays if nobody does.
    pub known: Vec<(AgentId, PathBuf)>,
    /// Of nobody.
    pub orphans: Vec<Scratch>,
}

/// Makes the root, and finds what agents of a host before have left: the caller
/// is the only one who has it.
///
/// # Errors
/// Those of the file system.
pub fn left_behind(root: &Path, known: &HashSet<AgentId>) -> io::Result<LeftBehind> {
    make_root(root)?;
    let mut left = LeftBehind::default();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let (Some(name), true) = (name.to_str(), entry.file_type()?.is_dir()) else {
            // What has another name is not ours, and no link is followed.
            continue;
        };
        match name.parse::<AgentId>() {
            Ok(agent) if known.contains(&agent) => left.known.push((agent, entry.path())),
            // An agent that waits again makes one of the same name.
            Ok(_) => (left.orphans).push(Scratch::found(entry.path()).set_aside()?),
            Err(_) if name.starts_with(ASIDE) => left.orphans.push(Scratch::found(entry.path())),
            Err(_) => {}
        }
    }
    Ok(left)
}

/// When an agent that is not known last made something at the top of its
/// directory, or removed it. An empty one may be of an agent that never began.
pub fn newest_unknown_ms(root: &Path, known: &HashSet<AgentId>) -> Option<u64> {
    let unknown = std::fs::read_dir(root).ok()?.flatten().filter(|entry| {
        let agent = (entry.file_name().to_str()).and_then(|name| name.parse().ok());
        agent.is_some_and(|agent| !known.contains(&agent))
    });
    let written = unknown.filter_map(|entry| {
        let path = entry.path();
        let is_empty = std::fs::read_dir(&path).ok()?.next().is_none();
        let metadata = entry.metadata().ok()?;
        // An agent can set the first of the two to what it likes.
        let modified = clock::ms_of(metadata.modified().ok()?);
        let changed = u64::try_from(metadata.ctime()).ok()? * 1000
            + u64::try_from(metadata.ctime_nsec()).ok()? / 1_000_000;
        (!is_empty).then(|| modified.min(changed))
    });
    written.max()
}

/// Moves directories of agents that are not known from a root into another
/// directory, which is made.
///
/// # Errors
/// Those of the file system.
pub fn set_aside_unknown(root: &Path, known: &HashSet<AgentId>, aside: &Path) -> io::Result<()> {
    make_root(root)?;
    make_root(aside)?;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let agent = name.to_str().and_then(|name| name.parse().ok());
        if agent.is_some_and(|agent| !known.contains(&agent)) && entry.file_type()?.is_dir() {
            std::fs::rename(entry.path(), aside.join(name))?;
        }
    }
    Ok(())
}

/// How often something may appear in a directory that was just emptied: a
/// guest's last call can still be under way, but not for ever.
const LAST_CALLS: usize = 100;

/// Removes a directory with all that is in it, in a stack and a number of
/// descriptors that do not grow with its depth: `remove_dir_all` recurses, and a
/// tree of ten thousand levels, which any guest can make, would end the host.
/// What lies deeper is moved up to the top first. No link is followed.
fn remove_tree(root: &Path) -> io::Result<()> {
    let mut moved = 0u64;
    let mut late = 0;
    // A native agent may have taken the host's user its own permissions.
    let open =
        |directory: &Path| std::fs::set_permissions(directory, Permissions::from_mode(0o700));
    loop {
        open(root)?;
        let mut empty = true;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            empty = false;
            if entry.file_type()?.is_dir() {
                open(&entry.path())?;
                remove_level(root, &entry.path(), &mut moved)?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        if empty {
            match std::fs::remove_dir(root) {
                Err(error)
                    if error.kind() == io::ErrorKind::DirectoryNotEmpty && late < LAST_CALLS =>
                {
                    late += 1;
                }
                removed => return removed,
            }
        }
    }
}

/// Removes one directory, after its own directories were moved to the top.
fn remove_level(top: &Path, directory: &Path, moved: &mut u64) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            // To be moved, it has to let its `..` be written.
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
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
        let scratch = Scratch::make(root.path(), AgentId::random()).unwrap();
        let away = Scratch::make(&root.path().join("away"), AgentId::random()).unwrap_err();
        assert_eq!(away.kind(), io::ErrorKind::NotFound);
        let path = scratch.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.path(), path.join("a/out")).unwrap();
        drop(scratch);
        assert!(!path.exists());
        assert!(root.path().join("canary").exists());
    }

    #[test]
    fn what_a_dead_host_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("scratch");
        let nobody = HashSet::new();
        assert!(left_behind(&root, &nobody).unwrap().orphans.is_empty());
        let agent = AgentId::random();
        let stale = Scratch::make(&root, agent).unwrap();
        std::fs::write(stale.path().join("file"), "left").unwrap();
        let path = stale.path().to_owned();
        std::mem::forget(stale);
        let others = [root.join("notes"), root.join("link")];
        std::fs::create_dir(&others[0]).unwrap();
        let linked = root.join(AgentId::random().to_string());
        std::os::unix::fs::symlink(dir.path(), &linked).unwrap();
        std::os::unix::fs::symlink(&path, &others[1]).unwrap();

        let left = left_behind(&root, &[agent].into()).unwrap();
        assert!(left.orphans.is_empty());
        assert_eq!(left.known, [(agent, path.clone())]);

        let left = left_behind(&root, &nobody).unwrap().orphans;
        assert_eq!(left.len(), 1);
        assert!(!path.exists(), "its name is free at once");
        // This one dies too, before all is removed.
        std::mem::forget(left);
        let left = left_behind(&root, &nobody).unwrap().orphans;
        assert_eq!(left.len(), 1);
        drop(left);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 3);
        for kept in [&linked, &others[0], &others[1]] {
            assert!(kept.symlink_metadata().is_ok(), "{}", kept.display());
        }
    }

    #[test]
    fn no_agent_says_when_it_last_wrote() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(root.path(), AgentId::random()).unwrap();
        std::fs::write(scratch.path().join("file"), "left").unwrap();
        let now = std::time::SystemTime::now();
        let dir = std::fs::File::open(scratch.path()).unwrap();
        dir.set_modified(now + std::time::Duration::from_hours(1))
            .unwrap();
        let newest = newest_unknown_ms(root.path(), &HashSet::new()).unwrap();
        assert!(newest.abs_diff(clock::ms_of(now)) < 60_000, "{newest}");
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
