//! Where a person wants one file to be written. What they named is theirs to
//! replace, as with `cp`; a link of theirs is followed.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::local::{InTheWay, LocalDir, LocalFile};
use super::text;

#[derive(Debug)]
pub(super) enum Target {
    /// A name in a directory, and the path that was given.
    File {
        dir: LocalDir,
        name: String,
        path: PathBuf,
    },
    /// A device or a pipe, which is written into: it would be lost if a file took
    /// its name.
    Special(PathBuf),
}

impl Target {
    /// `to`, or in `to` if that is a directory. It is looked at now, so that a
    /// wrong one is told of early.
    pub(super) fn of(to: &Path, from: &str) -> Result<Self, Failure> {
        let failed = |error| unwritten(to, &error);
        let to = if to.is_dir() {
            &to.join(from.rsplit('/').next().unwrap_or(from))
        } else if names_directory(to) {
            return Err(Failure::of_skep(format!(
                "{} is no directory: make it first",
                to.display()
            )));
        } else {
            to
        };
        let path = match to.metadata() {
            Ok(there) if there.is_file() => &to.canonicalize().map_err(failed)?,
            Ok(there) if there.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(_) => return Ok(Self::Special(to.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => to,
            Err(error) => return Err(failed(error)),
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name =
            name.ok_or_else(|| Failure::of_skep(format!("{} is no name of a file", to.display())))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        Ok(Self::File {
            dir: LocalDir::open(dir).map_err(failed)?,
            name: name.to_owned(),
            path: to.to_owned(),
        })
    }

    pub(super) fn begin(&self) -> io::Result<Writing<'_>> {
        match self {
            Self::File { dir, name, .. } => dir.create(name, InTheWay::Goes).map(Writing::File),
            Self::Special(path) => {
                let file = OpenOptions::new().write(true).open(path)?;
                Ok(Writing::Special(file))
            }
        }
    }

    /// As the person knows it.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Special(path) => path,
        }
    }
}

/// What is being written there.
#[derive(Debug)]
pub(super) enum Writing<'a> {
    File(LocalFile<'a>),
    Special(std::fs::File),
}

impl Writing<'_> {
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write(data),
            Self::Special(file) => file.write_all(data),
        }
    }

    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::File(file) => file.finish(),
            Self::Special(_) => Ok(()),
        }
    }
}

/// Whether it is written as a directory is: `DIR/` and `DIR/.`, of which the path
/// of a file would make `DIR`.
fn names_directory(path: &Path) -> bool {
    let written = path.as_os_str().as_encoded_bytes();
    let mut parts = written.rsplit(|&byte| byte == b'/');
    let last = parts.next().unwrap_or_default();
    parts.next().is_some() && matches!(last, b"" | b".")
}

pub(super) fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::of_skep(format!(
        "{} cannot be written: {error}",
        text::clean(&path.to_string_lossy())
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    fn write(to: &Path, data: &[u8]) -> io::Result<()> {
        let target = Target::of(to, "dir/named").unwrap();
        let mut writing = target.begin()?;
        writing.write(data)?;
        writing.finish()
    }

    #[test]
    fn what_a_person_names_is_replaced_if_it_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for data in [b"one", b"two"] {
            write(&path("file"), data).unwrap();
            write(dir.path(), data).unwrap();
        }
        assert_eq!(fs::read(path("file")).unwrap(), b"two");
        assert_eq!(fs::read(path("named")).unwrap(), b"two");
        symlink(path("file"), path("link")).unwrap();
        write(&path("link"), b"linked").unwrap();
        assert_eq!(fs::read(path("file")).unwrap(), b"linked");
        assert!(path("link").is_symlink());
        symlink(path("nothing"), path("astray")).unwrap();
        let refused = write(&path("astray"), b"x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let target = Target::of(&path("astray"), "x").unwrap();
        assert_eq!(target.path(), path("astray"));
        let target = Target::of(dir.path(), "dir/new").unwrap();
        assert_eq!(target.path(), path("new"));
        assert!(path("astray").is_symlink() && !path("nothing").exists());
        assert!(Target::of(&path("no/dir"), "x").is_err());
        assert!(Target::of(dir.path(), "..").is_err());
        for missing in ["missing/", "missing/.", "file/"] {
            let refused = Target::of(&path(missing), "x").unwrap_err();
            assert!(
                format!("{refused:?}").contains("is no directory"),
                "{refused:?}"
            );
        }
        assert!(!path("missing").exists());
    }

    #[test]
    fn devices_and_pipes_are_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut read = Vec::new();
                fs::File::open(pipe)
                    .unwrap()
                    .read_to_end(&mut read)
                    .unwrap();
                read
            })
        };
        write(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        write(Path::new("/dev/null"), b"x").unwrap();
        let null = fs::symlink_metadata("/dev/null").unwrap();
        assert!(null.file_type().is_char_device());
    }
}
