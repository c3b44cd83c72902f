//! Listing a directory, some names at a time: wasmtime reads all of them at
//! once, however many a directory has.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::account::Slot;

/// Bytes of names that are read at once, and the most that a listing holds:
/// some hundred names.
const BATCH: usize = 8 * 1024;

/// A directory being listed. It counts as an open file.
#[derive(Debug)]
pub(super) struct Listing {
    dir: Arc<OwnedFd>,
    names: VecDeque<Result<Name, ErrorCode>>,
    _slot: Slot,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Name {
    name: String,
    kind: DescriptorType,
}

impl From<Name> for DirectoryEntry {
    fn from(Name { name, kind }: Name) -> Self {
        Self { type_: kind, name }
    }
}

/// Names, or none at the end.
pub(super) type Batch = VecDeque<Result<Name, ErrorCode>>;

impl Listing {
    /// Opens a directory once more, since each listing has its own place in it.
    pub(super) fn open(dir: &Dir, slot: Slot) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = openat(&*dir.dir, ".", flags, Mode::empty())?;
        Ok(Self {
            dir: Arc::new(dir),
            names: VecDeque::new(),
            _slot: slot,
        })
    }

    /// The next name that was read already.
    pub(super) fn next(&mut self) -> Option<FsResult<DirectoryEntry>> {
        let name = self.names.pop_front()?;
        Some(name.map(Into::into).map_err(Into::into))
    }

    /// Reads more names: a call that blocks.
    pub(super) fn read(&self) -> impl FnOnce() -> io::Result<Batch> + Send + use<> {
        let dir = Arc::clone(&self.dir);
        move || read(&dir)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.names.len()
    }

    pub(super) fn extend(&mut self, batch: Batch) {
        self.names = batch;
    }
}

fn read(dir: &OwnedFd) -> io::Result<Batch> {
    let mut buffer = [const { MaybeUninit::uninit() }; BATCH];
    let mut names = VecDeque::new();
    let mut entries = RawDir::new(dir, &mut buffer);
    // `.` and `..` may be all that a batch held.
    while names.is_empty() || !entries.is_buffer_empty() {
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system tells.
            FileType::Unknown => match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        names.push_back(match OsStr::from_bytes(name.to_bytes()).to_str() {
            Some(name) => Ok(Name {
                name: name.to_owned(),
                kind: described(kind),
            }),
            None => Err(ErrorCode::IllegalByteSequence),
        });
    }
    Ok(names)
}

fn described(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        _ => DescriptorType::Unknown,
    }
}
