//! Where a call on files is made: on a thread for files, with wasmtime's own
//! implementation and a table that holds nothing but the descriptors of that
//! call. So a call takes one thread once, whatever it looks at on its way.

use std::fs::File as OpenFile;
use std::io;
use std::sync::Arc;

use futures_util::FutureExt;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir, File, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorStat, ErrorCode, HostDescriptor, PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};

use super::account::Identity;

/// The place of one call.
#[derive(Default)]
pub(super) struct Bench {
    ctx: WasiFilesystemCtx,
    table: ResourceTable,
}

/// A descriptor that lies on a bench.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fd(u32);

impl Fd {
    pub(super) fn it(self) -> Resource<Descriptor> {
        Resource::new_borrow(self.0)
    }
}

/// What was opened.
pub(super) struct Opened {
    pub(super) descriptor: Descriptor,
    pub(super) file: Arc<OpenFile>,
}

/// What a descriptor may be of.
pub(super) enum Kind {
    File,
    Directory,
    Other,
}

impl Opened {
    pub(super) fn kind(&self) -> io::Result<Kind> {
        let kind = self.file.metadata()?.file_type();
        Ok(if kind.is_file() {
            Kind::File
        } else if kind.is_dir() {
            Kind::Directory
        } else {
            Kind::Other
        })
    }
}

/// Runs a call to its end. None of them waits for anything but the system.
pub(super) fn run<R>(
    descriptor: Descriptor,
    call: impl AsyncFnOnce(&mut Bench, Fd) -> FsResult<R>,
) -> FsResult<R> {
    let mut bench = Bench::default();
    let fd = bench.put(descriptor)?;
    call(&mut bench, fd)
        .now_or_never()
        .unwrap_or_else(|| Err(trap("a call on files waited")))
}

fn trap(message: &'static str) -> FsError {
    FsError::trap(wasmtime::Error::msg(message))
}

impl Bench {
    pub(super) fn wasi(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView {
            ctx: &mut self.ctx,
            table: &mut self.table,
        }
    }

    pub(super) fn put(&mut self, descriptor: Descriptor) -> FsResult<Fd> {
        Ok(Fd(self.table.push(descriptor)?.rep()))
    }

    /// Takes what was opened here, and makes that it may be used on another
    /// bench.
    pub(super) fn take(&mut self, opened: Resource<Descriptor>) -> FsResult<Opened> {
        let alone = |file| Arc::into_inner(file).ok_or_else(|| trap("a new file is shared"));
        let (descriptor, file) = match self.table.delete(opened)? {
            Descriptor::File(file) => {
                let file = File::new(alone(file.file)?, file.perms, file.open_mode, true);
                let inner = Arc::clone(&file.file);
                (Descriptor::File(file), inner)
            }
            Descriptor::Dir(dir) => {
                let dir = Dir::new(alone(dir.dir)?, dir.perms, dir.open_mode, true);
                let inner = Arc::clone(&dir.dir);
                (Descriptor::Dir(dir), inner)
            }
        };
        Ok(Opened { descriptor, file })
    }

    pub(super) async fn identity(&mut self, opened: &Opened) -> FsResult<Identity> {
        let fd = self.put(opened.descriptor.clone())?;
        let hash = self.wasi().metadata_hash(fd.it()).await?;
        Ok(Identity(hash.lower, hash.upper))
    }

    /// What is there, if anything.
    pub(super) async fn stat(
        &mut self,
        dir: Fd,
        path_flags: PathFlags,
        path: &str,
    ) -> FsResult<Option<DescriptorStat>> {
        let path = path.to_owned();
        match self.wasi().stat_at(dir.it(), path_flags, path).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
