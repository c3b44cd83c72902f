//! An open file: what is written to it is counted before it is written.

use std::fs::File;
use std::io;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::account::{Full, Identity, Slot};
use super::tree::Tree;
use crate::runner::Amount;

impl From<Full> for io::Error {
    fn from(_: Full) -> Self {
        Errno::NOSPC.into()
    }
}

/// Where a write begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Offset(u64),
    End,
}

/// A file or directory that an agent opened, for as long as a descriptor or a
/// stream of it lives. Its calls block, and are made in the agent's turn.
#[derive(Debug)]
pub(super) struct Handle {
    file: Arc<File>,
    tree: Tree,
    /// Of a file in the scratch directory, which may be removed while it is
    /// open.
    identity: Option<Identity>,
    slot: Slot,
}

impl Handle {
    pub(super) fn new(file: Arc<File>, tree: Tree, identity: Option<Identity>, slot: Slot) -> Self {
        if let Some(identity) = identity {
            slot.account().opened(identity);
        }
        Self {
            file,
            tree,
            identity,
            slot,
        }
    }

    pub(super) fn read(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Writes some of the data. What does not fit in the agent's limit is
    /// refused as a whole.
    pub(super) fn write(&self, data: &[u8], at: At) -> io::Result<usize> {
        let size = self.file.metadata()?.len();
        let start = match at {
            At::Offset(offset) => offset,
            At::End => size,
        };
        // A write of nothing makes no file longer.
        let growth = |written: usize| match written {
            0 => Ok(0),
            written => start
                .checked_add(written as u64)
                .map(|end| end.saturating_sub(size))
                .ok_or(Errno::FBIG),
        };
        let reserved = (self.slot.account()).reserve(Amount::bytes(growth(data.len())?))?;
        let written = match at {
            At::Offset(offset) => self.file.write_at(data, offset),
            At::End => self.append(data, size),
        }?;
        reserved.keep_bytes(growth(written)?);
        Ok(written)
    }

    fn append(&self, data: &[u8], size: u64) -> io::Result<usize> {
        match pwritev2(
            &*self.file,
            &[IoSlice::new(data)],
            0,
            ReadWriteFlags::APPEND,
        ) {
            // Not every file system and kernel knows it.
            Err(Errno::NOSYS | Errno::NOTSUP) => self.file.write_at(data, size),
            written => Ok(written?),
        }
    }

    pub(super) fn write_all(&self, mut data: &[u8], at: At) -> io::Result<()> {
        let mut written = 0;
        while !data.is_empty() {
            let at = match at {
                At::Offset(offset) => At::Offset(offset.saturating_add(written)),
                At::End => At::End,
            };
            match self.write(data, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => {
                    data = data.get(some..).unwrap_or_default();
                    written += some as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn set_size(&self, size: u64) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let account = self.slot.account();
        let reserved = account.reserve(Amount::bytes(size.saturating_sub(before)))?;
        self.file.set_len(size)?;
        reserved.keep();
        if self.tree == Tree::Scratch {
            account.give_back(Amount::bytes(before.saturating_sub(size)));
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(identity) = self.identity {
            let bytes = self.file.metadata().map_or(0, |file| file.len());
            self.slot.account().closed(identity, bytes);
        }
    }
}
