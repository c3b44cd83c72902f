//! Files that this command writes for an agent: each whole or not at all, and
//! nowhere but in the directory that was asked for, whatever a stranger calls
//! its files and whatever links lie there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, fchmod, linkat, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use skep_client::protocol::RequestId;
use skep_client::protocol::path::is_plain;

/// What becomes of a file that bears the name already. Nothing else ever goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InTheWay {
    /// The name is a stranger's choice.
    Stays,
    /// The person chose it.
    Goes,
}

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
    /// followed nor replaced, nor is a file: `AlreadyExists`.
    pub(super) fn enter(&self, name: &str) -> io::Result<Self> {
        check(name)?;
        match mkdirat(&self.0, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match openat(&self.0, name, flags, Mode::empty()) {
            Ok(dir) => Ok(Self(dir)),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(in_the_way()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A file within, which appears under its name once it is
    /// [whole](LocalFile::finish). `AlreadyExists` where that is taken.
    pub(super) fn create(&self, name: &str, before: InTheWay) -> io::Result<LocalFile<'_>> {
        check(name)?;
        let replaced = self.look(name, before)?;
        let temporary = format!(".skep-{}", RequestId::random());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = File::from(openat(&self.0, &*temporary, flags, mode)?);
        let created = LocalFile {
            dir: self,
            file,
            name: name.to_owned(),
            before,
            temporary: Some(temporary),
        };
        // What only its owner could read stays so.
        if let Some(mode) = replaced {
            fchmod(&created.file, mode)?;
        }
        Ok(created)
    }

    /// Whether the name may be given, and what permissions the file has that goes.
    fn look(&self, name: &str, before: InTheWay) -> io::Result<Option<Mode>> {
        let there = match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            there => there?,
        };
        let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        if is_file && before == InTheWay::Goes {
            Ok(Some(Mode::from_raw_mode(there.st_mode & 0o777)))
        } else {
            Err(in_the_way())
        }
    }
}

fn in_the_way() -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        "what is there already is not replaced",
    )
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
    before: InTheWay,
    temporary: Option<String>,
}

impl LocalFile<'_> {
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            let (dir, temporary, name) = (self.dir.0.as_fd(), &**temporary, &*self.name);
            match self.before {
                InTheWay::Goes => {
                    self.dir.look(name, InTheWay::Goes)?;
                    renameat(dir, temporary, dir, name)?;
                }
                InTheWay::Stays => {
                    match renameat_with(dir, temporary, dir, name, RenameFlags::NOREPLACE) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => return Err(in_the_way()),
                        // A file system that cannot do that. A second name is not given
                        // where there is one either; the first is left to the drop.
                        Err(Errno::INVAL) => {
                            return Ok(linkat(dir, temporary, dir, name, AtFlags::empty())?);
                        }
                        Err(errno) => return Err(errno.into()),
                    }
                }
            }
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
    use std::io::ErrorKind::AlreadyExists;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn kind<T>(done: io::Result<T>) -> Option<io::ErrorKind> {
        done.err().map(|error| error.kind())
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let mut file = local.create("a", InTheWay::Goes).unwrap();
        file.write(b"ne").unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        drop(file);
        assert_eq!(names(dir.path()), ["a"]);
        let mut file = local.create("a", InTheWay::Goes).unwrap();
        file.write(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn who_may_read_a_file_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalDir::open(dir.path()).unwrap();
        let path = dir.path().join("private");
        fs::write(&path, "old").unwrap();
        for mode in [0o600, 0o640, 0o755] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let file = local.create("private", InTheWay::Goes).unwrap();
            file.finish().unwrap();
            let now = path.metadata().unwrap().permissions().mode();
            assert_eq!(now & 0o777, mode);
        }
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
            assert!(local.create(name, InTheWay::Goes).is_err(), "{name}");
        }
        // A link that is in the way is neither replaced nor written through.
        for before in [InTheWay::Stays, InTheWay::Goes] {
            assert_eq!(kind(local.create("link", before)), Some(AlreadyExists));
        }
        assert_eq!(kind(local.enter("link")), Some(AlreadyExists));
        assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"alive");
        assert!(dir.path().join("link").is_symlink());
        let inner = local.enter("d").unwrap();
        inner
            .create("f", InTheWay::Stays)
            .unwrap()
            .finish()
            .unwrap();
        local
            .enter("d")
            .unwrap()
            .create("g", InTheWay::Stays)
            .unwrap()
            .finish()
            .unwrap();
        assert_eq!(names(&dir.path().join("d")), ["f", "g"]);
        assert_eq!(names(outside.path()), ["canary"]);
    }

    #[test]
    fn a_stranger_chooses_no_name_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("mine"), "mine").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        for name in ["mine", "dir"] {
            assert_eq!(
                kind(local.create(name, InTheWay::Stays)),
                Some(AlreadyExists)
            );
        }
        assert_eq!(kind(local.enter("mine")), Some(AlreadyExists));
        // Also where it is taken while the file is written.
        let mut file = local.create("late", InTheWay::Stays).unwrap();
        file.write(b"theirs").unwrap();
        fs::write(dir.path().join("late"), "mine").unwrap();
        assert_eq!(kind(file.finish()), Some(AlreadyExists));
        for name in ["mine", "late"] {
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"mine");
        }
        assert_eq!(names(dir.path()), ["dir", "late", "mine"]);
    }
}
