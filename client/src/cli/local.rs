//! Files that this command writes for an agent: each whole or not at all, and
//! nowhere but in the directory that was asked for, whatever a stranger calls
//! its files and whatever links lie there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use skep_client::protocol::RequestId;
use skep_client::protocol::path::is_plain;

/// A directory to write to.
#[derive(Debug)]
pub(super) struct LocalDir(OwnedFd);

impl LocalDir {
    /// A directory that the person named; their links are theirs to follow.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// A directory within, which is made unless it is there. A link is neither
    /// followed nor replaced.
    pub(super) fn enter(&self, name: &str) -> io::Result<Self> {
        check(name)?;
        match mkdirat(&self.0, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// A file within, which appears under its name once it is
    /// [whole](LocalFile::finish), in place of what was there.
    pub(super) fn create(&self, name: &str) -> io::Result<LocalFile<'_>> {
        check(name)?;
        let temporary = format!(".skep-{}", RequestId::random());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = openat(&self.0, &*temporary, flags, mode)?;
        Ok(LocalFile {
            dir: self,
            file: File::from(file),
            name: name.to_owned(),
            temporary: Some(temporary),
        })
    }
}

/// One part of a path and nothing more.
fn check(name: &str) -> io::Result<()> {
    if is_plain(name) && !name.contains('/') {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "its name is not one that a file may have",
    ))
}

/// A file that is being written. One that is dropped before it is finished
/// leaves nothing.
#[derive(Debug)]
pub(super) struct LocalFile<'a> {
    dir: &'a LocalDir,
    file: File,
    name: String,
    temporary: Option<String>,
}

impl LocalFile<'_> {
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            let dir = self.dir.0.as_fd();
            renameat(dir, &**temporary, dir, &*self.name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for LocalFile<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It may be gone, with its directory.
            let _ = unlinkat(&self.dir.0, &**temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let mut file = local.create("a").unwrap();
        file.write(b"ne").unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        drop(file);
        assert_eq!(names(dir.path()), ["a"]);
        let mut file = local.create("a").unwrap();
        file.write(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), "alive").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink(outside.path().join("canary"), dir.path().join("link")).unwrap();
        let local = LocalDir::open(dir.path()).unwrap();
        assert!(local.enter("out").is_err());
        for name in ["..", ".", "", "a/b", "/etc/x", "../x", "a\0"] {
            assert!(local.enter(name).is_err(), "{name}");
            assert!(local.create(name).is_err(), "{name}");
        }
        // A link that is in the way is replaced, and not written through.
        let mut file = local.create("link").unwrap();
        file.write(b"mine").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"alive");
        assert!(
            dir.path()
                .join("link")
                .symlink_metadata()
                .unwrap()
                .is_file()
        );
        let inner = local.enter("d").unwrap();
        inner.create("f").unwrap().finish().unwrap();
        local
            .enter("d")
            .unwrap()
            .create("g")
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(names(&dir.path().join("d")), ["f", "g"]);
        assert_eq!(names(outside.path()), ["canary"]);
    }
}
