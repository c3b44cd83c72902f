//! The files of a guest: WASI's filesystem as wasmtime implements it, within
//! limits that wasmtime does not know.
//!
//! - `account`: how much the agent holds, and how many files it has open
//! - `descriptors`: how many files all agents have open
//! - `turns` and `bench`: one blocking call of an agent at a time, and where it
//!   is made
//! - `tree`, `names` and `handle`: what is granted, and what is counted of what
//!   happens to names and to open files
//! - `streams` and `listing`: what goes on between calls
//! - `interface`: `wasi:filesystem` itself
//!
//! A guest's paths are resolved by wasmtime alone. A call costs one hop to a
//! thread for files, as it does without limits, and no lock is shared between
//! agents.

mod account;
mod bench;
mod descriptors;
mod handle;
mod interface;
mod listing;
mod names;
mod streams;
#[cfg(test)]
mod tests;
mod tree;
mod turns;

use std::sync::Arc;

use skep_protocol::{ErrorCode, Limits};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode as FileError;
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};

use self::account::{Account, Slot};
use self::bench::{Bench, Fd};
pub(super) use self::descriptors::Descriptors;
use self::descriptors::Taken;
use self::handle::Handle;
use self::names::Counting;
use self::tree::Tree;
use self::turns::Turns;
use super::refusal::Refusal;
use super::store::Held;
use super::usage::Meters;
use crate::runner::{DiskUse, GrantedDir};

/// The files of one agent.
pub(super) struct Files {
    granted: Vec<Granted>,
    _descriptors: Taken,
    account: Arc<Account>,
    turns: Turns,
}

struct Granted {
    dir: Dir,
    guest: String,
    tree: Tree,
}

impl Files {
    /// Opens the directories that were granted.
    pub(super) fn open(
        dirs: &[GrantedDir],
        limits: &Limits,
        held: DiskUse,
        descriptors: &Descriptors,
        meters: Arc<Meters>,
    ) -> Result<Self, Refusal> {
        let Some(taken) = descriptors.take(dirs.len()) else {
            let message = "the host has no room for more open files";
            return Err(Refusal::of(ErrorCode::Capacity, message));
        };
        let open = |dir: &GrantedDir| match tree::open(dir) {
            Ok(opened) => Ok(Granted {
                dir: opened,
                guest: dir.guest.clone(),
                tree: dir.access.into(),
            }),
            Err(error) => {
                // The path on the host is none of the submitter's business.
                let message = format!("the directory for {} cannot be opened: {error}", dir.guest);
                Err(Refusal::of(ErrorCode::StorageUnavailable, message))
            }
        };
        let turns = Turns::new(Arc::clone(&meters));
        Ok(Self {
            granted: dirs.iter().map(open).collect::<Result<_, _>>()?,
            _descriptors: taken,
            account: Arc::new(Account::new(limits, held, descriptors.clone(), meters)),
            turns,
        })
    }
}

/// The files of an agent, with the table in which its guest finds them.
pub(super) struct FilesView<'a> {
    pub(super) files: &'a Files,
    pub(super) table: &'a mut ResourceTable,
}

struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = FilesView<'a>;
}

/// Puts these files in the place of wasmtime's.
pub(super) fn link(linker: &mut Linker<Held>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<Held, HasFiles>(linker, Held::files)?;
    preopens::add_to_linker::<Held, HasFiles>(linker, Held::files)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What stands in the table for a descriptor. The bindings name wasmtime's own
/// type, of which there is none in it: a guest's handle leads here, whatever it
/// is called.
#[derive(Clone)]
struct Node {
    descriptor: Descriptor,
    tree: Tree,
    /// What was opened; a granted directory was not.
    handle: Option<Arc<Handle>>,
}

impl Node {
    fn of(fd: &Resource<Descriptor>) -> Resource<Self> {
        Resource::new_borrow(fd.rep())
    }

    fn file(&self) -> Result<&Arc<Handle>, FileError> {
        match (&self.descriptor, &self.handle) {
            (Descriptor::File(_), Some(handle)) => Ok(handle),
            _ => Err(FileError::BadDescriptor),
        }
    }

    fn writable(&self) -> Result<&Arc<Handle>, FileError> {
        let handle = self.file()?;
        match self.tree {
            Tree::ReadOnly => Err(FileError::NotPermitted),
            Tree::Shared | Tree::Scratch => Ok(handle),
        }
    }

    fn dir(&self) -> Result<&Dir, FileError> {
        match &self.descriptor {
            Descriptor::Dir(dir) => Ok(dir),
            Descriptor::File(_) => Err(FileError::NotDirectory),
        }
    }
}

impl FilesView<'_> {
    fn node(&self, fd: &Resource<Descriptor>) -> FsResult<&Node> {
        Ok(self.table.get(&Node::of(fd))?)
    }

    fn push(&mut self, node: Node) -> wasmtime::Result<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(node)?.rep()))
    }

    fn counting(&self, tree: Tree) -> Counting {
        Counting {
            tree,
            account: Arc::clone(&self.files.account),
        }
    }

    fn slot(&self) -> Result<Slot, FileError> {
        self.files.account.open().map_err(account::too_many)
    }

    /// Makes a call in the agent's turn.
    async fn on<R: Send + 'static>(
        &mut self,
        fd: &Resource<Descriptor>,
        call: impl AsyncFnOnce(&mut Bench, Fd) -> FsResult<R> + Send + 'static,
    ) -> FsResult<R> {
        let descriptor = self.node(fd)?.descriptor.clone();
        let turns = self.files.turns.clone();
        turns.take(move || bench::run(descriptor, call)).await
    }
}
