//! What makes, replaces and removes names, and counts them. All of it runs on
//! a thread for files, in the agent's turn: between a look at a name and what
//! is done to it, the agent does nothing else. Each call is wasmtime's own.
//!
//! In a shared directory others may come between, to no avail: what they take
//! away is not given back.

use std::sync::Arc;

use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, HostDescriptor, OpenFlags,
    PathFlags,
};

use super::account::{Account, Full, Identity, Removed, Reserved, too_many};
use super::bench::{Bench, Fd, Kind};
use super::handle::Handle;
use super::tree::Tree;
use crate::runner::Amount;

impl From<Full> for ErrorCode {
    fn from(_: Full) -> Self {
        Self::InsufficientSpace
    }
}

fn code<T>(code: ErrorCode) -> FsResult<T> {
    Err(code.into())
}

/// What an open asks for.
pub(super) struct Open {
    pub(super) path_flags: PathFlags,
    pub(super) path: String,
    pub(super) open_flags: OpenFlags,
    pub(super) flags: DescriptorFlags,
}

/// A tree, and the account of what is done in it.
#[derive(Clone)]
pub(super) struct Counting {
    pub(super) tree: Tree,
    pub(super) account: Arc<Account>,
}

impl Counting {
    fn reserve(&self, amount: Amount) -> FsResult<Reserved<'_>> {
        // Wasmtime refuses what would be done there.
        let amount = match self.tree {
            Tree::ReadOnly => Amount::default(),
            Tree::Shared | Tree::Scratch => amount,
        };
        Ok(self.account.reserve(amount).map_err(ErrorCode::from)?)
    }

    fn gives_back(&self) -> bool {
        self.tree == Tree::Scratch
    }

    /// Opens a file, which may make it or cut it off.
    pub(super) async fn open(
        &self,
        bench: &mut Bench,
        dir: Fd,
        ask: Open,
    ) -> FsResult<(Descriptor, Arc<Handle>)> {
        let slot = self.account.open().map_err(too_many)?;
        let before = bench.stat(dir, ask.path_flags, &ask.path).await?;
        if let Some(before) = &before {
            openable(before)?;
        }
        let made = match &before {
            None if ask.open_flags.contains(OpenFlags::CREATE) => Amount::files(1),
            _ => Amount::default(),
        };
        let reserved = self.reserve(made)?;
        let opened = bench
            .wasi()
            .open_at(
                dir.it(),
                ask.path_flags,
                ask.path,
                ask.open_flags,
                ask.flags,
            )
            .await?;
        reserved.keep();
        if let Some(before) = before
            && self.gives_back()
            && ask.open_flags.contains(OpenFlags::TRUNCATE)
        {
            self.account.give_back(Amount::bytes(before.size));
        }
        let opened = bench.take(opened)?;
        // Another process may have put something else there since.
        if !matches!(opened.kind()?, Kind::File | Kind::Directory) {
            return code(ErrorCode::NotPermitted);
        }
        let identity = match opened.kind()? {
            Kind::File if self.gives_back() => Some(bench.identity(&opened).await?),
            _ => None,
        };
        let handle = Handle::new(opened.file, self.tree, identity, slot);
        Ok((opened.descriptor, Arc::new(handle)))
    }

    pub(super) async fn make_directory(
        &self,
        bench: &mut Bench,
        dir: Fd,
        path: String,
    ) -> FsResult<()> {
        let reserved = self.reserve(Amount::files(1))?;
        bench.wasi().create_directory_at(dir.it(), path).await?;
        reserved.keep();
        Ok(())
    }

    pub(super) async fn make_symlink(
        &self,
        bench: &mut Bench,
        dir: Fd,
        target: String,
        path: String,
    ) -> FsResult<()> {
        let reserved = self.reserve(Amount {
            files: 1,
            bytes: target.len() as u64,
        })?;
        bench.wasi().symlink_at(dir.it(), target, path).await?;
        reserved.keep();
        Ok(())
    }

    pub(super) async fn make_link(
        &self,
        bench: &mut Bench,
        old: (Fd, PathFlags, String),
        new: (Fd, String),
    ) -> FsResult<()> {
        let reserved = self.reserve(Amount::files(1))?;
        let (dir, path_flags, path) = old;
        let (new_dir, new_path) = new;
        bench
            .wasi()
            .link_at(dir.it(), path_flags, path, new_dir.it(), new_path)
            .await?;
        reserved.keep();
        Ok(())
    }

    pub(super) async fn remove_directory(
        &self,
        bench: &mut Bench,
        dir: Fd,
        path: String,
    ) -> FsResult<()> {
        bench.wasi().remove_directory_at(dir.it(), path).await?;
        if self.gives_back() {
            self.account.give_back(Amount::files(1));
        }
        Ok(())
    }

    pub(super) async fn unlink(&self, bench: &mut Bench, dir: Fd, path: String) -> FsResult<()> {
        let before = self.look(bench, dir, &path).await?;
        bench.wasi().unlink_file_at(dir.it(), path).await?;
        if let Some(removed) = before {
            self.account.removed(removed);
        }
        Ok(())
    }

    pub(super) async fn rename(
        &self,
        bench: &mut Bench,
        (dir, path): (Fd, String),
        (new_dir, new_path): (Fd, String),
    ) -> FsResult<()> {
        let old = self.look(bench, dir, &path).await?;
        let replaced = self.look(bench, new_dir, &new_path).await?;
        bench
            .wasi()
            .rename_at(dir.it(), path, new_dir.it(), new_path)
            .await?;
        if let (Some(old), Some(replaced)) = (old, replaced)
            // Two names of one file both stay.
            && old.identity != replaced.identity
        {
            self.account.removed(replaced);
        }
        Ok(())
    }

    /// What is behind a name, where it counts that it goes.
    async fn look(&self, bench: &mut Bench, dir: Fd, path: &str) -> FsResult<Option<Removed>> {
        if !self.gives_back() {
            return Ok(None);
        }
        let itself = PathFlags::empty();
        let Some(stat) = bench.stat(dir, itself, path).await? else {
            return Ok(None);
        };
        let hash = bench
            .wasi()
            .metadata_hash_at(dir.it(), itself, path.to_owned())
            .await?;
        let directory = stat.type_ == DescriptorType::Directory;
        Ok(Some(Removed {
            identity: Identity(hash.lower, hash.upper),
            bytes: if directory { 0 } else { stat.size },
            last: directory || stat.link_count <= 1,
        }))
    }
}

/// Opening a pipe waits for its other end, for ever if there is none, and
/// opening a device does whatever that device does.
fn openable(before: &DescriptorStat) -> FsResult<()> {
    match before.type_ {
        DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink => {
            Ok(())
        }
        _ => code(ErrorCode::NotPermitted),
    }
}
