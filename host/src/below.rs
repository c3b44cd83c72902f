//! Looking into a directory that a stranger writes to: nothing outside of it is
//! reached, no link is followed, and nothing is opened that is no file or
//! directory. Every call blocks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::fs::{CWD, chmodat, fstat, openat, openat2, statat};
use rustix::io::Errno;
use rustix::path::Arg;
use skep_protocol::op::{FileChunk, FileInfo, FileKind, FilesPage};

/// A directory with more entries is not listed: each page reads all of it. An
/// agent's `files` is far below in most cases; a native one has no such limit.
const MAX_ENTRIES: usize = 262_144;

/// Why something below a directory is not shown.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The directory itself is not there.
    #[error("there is no such directory")]
    NoRoot,
    /// It is not there, or may not be reached.
    #[error("there is no such path, or a link lies on it")]
    NotThere,
    #[error("it is no {0}")]
    Not(&'static str),
    #[error("the directory has more than {MAX_ENTRIES} entries")]
    TooMany,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for LookError {
    fn from(errno: Errno) -> Self {
        match errno {
            // A socket cannot be opened, and says so with the last.
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::ACCESS
            | Errno::NAMETOOLONG
            | Errno::NXIO => Self::NotThere,
            errno => Self::Io(errno.into()),
        }
    }
}

/// Opens a directory itself; it is the host's own, and no link.
fn open_root(root: &Path) -> Result<OwnedFd, LookError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, root, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => LookError::NoRoot,
        errno => errno.into(),
    })
}

/// Opens what lies below, to be read. A pipe does not make it wait.
fn open(root: &Path, path: Option<&str>) -> Result<(OwnedFd, Stat), LookError> {
    let root = open_root(root)?;
    let opened = match path {
        None => root,
        Some(path) => {
            let flags = OFlags::RDONLY
                | OFlags::NONBLOCK
                | OFlags::NOFOLLOW
                | OFlags::NOCTTY
                | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(root, path, flags, Mode::empty(), within)?
        }
    };
    let stat = fstat(&opened)?;
    Ok((opened, stat))
}

/// Up to `limit` entries of a directory, by name, after a path of one of them.
///
/// # Errors
/// [`LookError`]
pub fn list(
    root: &Path,
    path: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<FilesPage, LookError> {
    let (dir, stat) = open(root, path)?;
    if kind(&stat) != FileKind::Dir {
        return Err(LookError::Not("directory"));
    }
    let of = |name: &str| match path {
        Some(path) => format!("{path}/{name}"),
        None => name.to_owned(),
    };
    // What a page needs, and one more: however many there are, no more is held.
    let mut found: BTreeMap<String, Option<OsString>> = BTreeMap::new();
    for (seen, entry) in Dir::read_from(&dir)?.enumerate() {
        // The first two are the directory and its parent.
        if seen >= MAX_ENTRIES + 2 {
            return Err(LookError::TooMany);
        }
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            continue;
        }
        let (path, name) = match name.into_string() {
            Ok(text) => (of(&text), Some(OsString::from(text))),
            Err(bytes) => (of(&bytes.to_string_lossy()), None),
        };
        if after.is_some_and(|after| *path <= *after) {
            continue;
        }
        found.insert(path, name);
        if found.len() > limit + 1 {
            found.pop_last();
        }
    }
    let more = found.len() > limit;
    if more {
        found.pop_last();
    }
    let next = found.last_key_value().map(|(path, _)| path.clone());
    Ok(FilesPage {
        files: found
            .into_iter()
            .filter_map(|(path, name)| shown(&dir, path, name))
            .collect(),
        next: next.filter(|_| more),
    })
}

/// What is told of an entry; nothing if it is gone by now.
fn shown(dir: &OwnedFd, path: String, name: Option<OsString>) -> Option<FileInfo> {
    let Some(name) = name else {
        return Some(FileInfo {
            path,
            size: 0,
            kind: FileKind::Other,
            modified_ms: 0,
        });
    };
    let stat = statat(dir.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileInfo {
        path,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        kind: kind(&stat),
        modified_ms: modified_ms(&stat),
    })
}

fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// A guest may set any time; what lies before the epoch is at it.
fn modified_ms(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(stat.st_mtime_nsec / 1_000_000)
}

/// Up to `max_bytes` of a file, from an offset on.
///
/// # Errors
/// [`LookError`]
pub fn read(
    root: &Path,
    path: &str,
    offset: u64,
    max_bytes: usize,
) -> Result<FileChunk, LookError> {
    let (file, stat) = open(root, Some(path))?;
    if kind(&stat) != FileKind::File {
        return Err(LookError::Not("regular file"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut data = vec![0; left.min(max_bytes)];
    let mut filled = 0;
    while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, offset + filled as u64) {
            // It was shortened meanwhile.
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    data.truncate(filled);
    Ok(FileChunk {
        eof: filled < max_bytes || offset + filled as u64 >= size,
        data: data.into(),
        size,
    })
}

/// What a directory holds on the disk, about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub entries: u64,
    pub bytes: u64,
}

/// What an entry counts besides its blocks, so that empty ones are not free.
const ENTRY_BYTES: u64 = 1024;

/// Measures a directory to which nobody writes any more, with one descriptor
/// and a stack on the heap, however deep it is. What its owner has closed is opened,
/// for its owner alone: an agent may have taken the host's user its own permissions.
///
/// # Errors
/// Those of the file system.
pub fn measure_and_open(root: &Path) -> Result<Size, LookError> {
    let mut size = Size::default();
    let root_mode = statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    open_up(CWD, root, root_mode)?;
    let mut dir = open_root(root)?;
    let mut levels = vec![level(&dir, &mut size)?];
    while let Some(unseen) = levels.last_mut() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Some(name) = unseen.pop() {
            dir = openat(&dir, &name, flags, Mode::empty())?;
            levels.push(level(&dir, &mut size)?);
        } else {
            levels.pop();
            if !levels.is_empty() {
                dir = openat(&dir, "..", flags, Mode::empty())?;
            }
        }
    }
    Ok(size)
}

/// Lets its owner read a file, and enter a directory. It is no link.
fn open_up(dir: BorrowedFd<'_>, name: impl Arg, mode: u32) -> Result<(), LookError> {
    let needed = match FileType::from_raw_mode(mode) {
        FileType::Directory => Mode::RWXU,
        FileType::RegularFile => Mode::RUSR,
        _ => return Ok(()),
    };
    let mode = Mode::from_raw_mode(mode);
    if !mode.contains(needed) {
        chmodat(dir, name, mode | needed, AtFlags::empty())?;
    }
    Ok(())
}

/// Counts the entries of a directory, and tells which are directories.
fn level(dir: &OwnedFd, size: &mut Size) -> Result<Vec<OsString>, LookError> {
    let mut inner = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            continue;
        }
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        size.entries += 1;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        size.bytes += ENTRY_BYTES + blocks.saturating_mul(512);
        open_up(dir.as_fd(), &name, stat.st_mode)?;
        if kind(&stat) == FileKind::Dir {
            inner.push(name);
        }
    }
    Ok(inner)
}

#[cfg(test)]
mod tests;
