//! `wasi:filesystem` itself: which call counts what, and which goes to wasmtime
//! as it came.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::bench::{self, Bench};
use super::handle::{At, Handle};
use super::listing::Listing;
use super::names::{Counting, Open};
use super::streams::{Reader, STREAMS, Writer};
use super::tree::Tree;
use super::{FilesView, Node};

type Fd = Resource<Descriptor>;

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let granted = self.files.granted.iter().map(|granted| {
            let node = Node {
                descriptor: Descriptor::Dir(granted.dir.clone()),
                tree: granted.tree,
                handle: None,
            };
            (node, granted.guest.clone())
        });
        let granted: Vec<_> = granted.collect();
        let push = |(node, guest)| Ok((self.push(node)?, guest));
        granted.into_iter().map(push).collect()
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        // The errors of the streams over files, and of nothing else.
        Ok(error.downcast_ref::<std::io::Error>().map(ErrorCode::from))
    }
}

/// The bytes of a path, as for Linux. A longer one is refused here, where it has
/// been copied once: calls wait for their turn with their paths.
const PATH_BYTES: usize = 4096;

fn short(path: String) -> Result<String, ErrorCode> {
    if path.len() > PATH_BYTES {
        return Err(ErrorCode::NameTooLong);
    }
    Ok(path)
}

/// One more stream of an open file.
fn shared(handle: &Arc<Handle>) -> Result<Arc<Handle>, ErrorCode> {
    if Arc::strong_count(handle) > STREAMS {
        return Err(ErrorCode::Quota);
    }
    Ok(Arc::clone(handle))
}

impl FilesView<'_> {
    /// Two directories, and the tree of the first. Between what is counted in
    /// different ways, nothing is moved or linked, as if they were on two
    /// disks: a guest then copies it.
    fn pair(&self, fd: &Fd, other: &Fd) -> FsResult<(Tree, Descriptor)> {
        let (one, two) = (self.node(fd)?, self.node(other)?);
        one.dir()?;
        two.dir()?;
        let counted = one.tree != Tree::ReadOnly && two.tree != Tree::ReadOnly;
        if counted && one.tree != two.tree {
            return Err(ErrorCode::CrossDevice.into());
        }
        Ok((one.tree, two.descriptor.clone()))
    }

    /// Makes a call that counts what it does in a directory.
    async fn counted(
        &mut self,
        fd: &Fd,
        call: impl AsyncFnOnce(&Counting, &mut Bench, bench::Fd) -> FsResult<()> + Send + 'static,
    ) -> FsResult<()> {
        let counting = self.counting(self.node(fd)?.tree);
        self.on(fd, async move |bench, fd| call(&counting, bench, fd).await)
            .await
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn advise(
        &mut self,
        fd: Fd,
        offset: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.on(&fd, async move |bench, fd| {
            bench.wasi().advise(fd.it(), offset, len, advice).await
        })
        .await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.on(&fd, async |bench, fd| bench.wasi().sync_data(fd.it()).await)
            .await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.on(&fd, async |bench, fd| bench.wasi().get_flags(fd.it()).await)
            .await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.on(&fd, async |bench, fd| bench.wasi().get_type(fd.it()).await)
            .await
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let handle = Arc::clone(self.node(&fd)?.writable()?);
        let turns = self.files.turns.clone();
        Ok(turns.take(move || handle.set_size(size)).await?)
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.on(&fd, async move |bench, fd| {
            bench.wasi().set_times(fd.it(), accessed, modified).await
        })
        .await
    }

    async fn read(&mut self, fd: Fd, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.on(&fd, async move |bench, fd| {
            bench.wasi().read(fd.it(), len, offset).await
        })
        .await
    }

    async fn write(&mut self, fd: Fd, data: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let handle = Arc::clone(self.node(&fd)?.writable()?);
        let turns = self.files.turns.clone();
        let write = move || handle.write(&data, At::Offset(offset));
        Ok(turns.take(write).await? as u64)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        let dir = self.node(&fd)?.dir()?.clone();
        let slot = self.slot()?;
        let turns = self.files.turns.clone();
        let listing = turns.take(move || Listing::open(&dir, slot)).await?;
        Ok(Resource::new_own(self.table.push(listing)?.rep()))
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.on(&fd, async |bench, fd| bench.wasi().sync(fd.it()).await)
            .await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let path = short(path)?;
        self.counted(&fd, async move |counting, bench, fd| {
            counting.make_directory(bench, fd, path).await
        })
        .await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.on(&fd, async |bench, fd| bench.wasi().stat(fd.it()).await)
            .await
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let path = short(path)?;
        self.on(&fd, async move |bench, fd| {
            bench.wasi().stat_at(fd.it(), path_flags, path).await
        })
        .await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let path = short(path)?;
        self.on(&fd, async move |bench, fd| {
            let mut wasi = bench.wasi();
            wasi.set_times_at(fd.it(), path_flags, path, accessed, modified)
                .await
        })
        .await
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        let path = short(path)?;
        let new_path = short(new_path)?;
        let (tree, new_dir) = self.pair(&fd, &new_fd)?;
        let counting = self.counting(tree);
        self.on(&fd, async move |bench, fd| {
            let new = (bench.put(new_dir)?, new_path);
            counting.make_link(bench, (fd, path_flags, path), new).await
        })
        .await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let path = short(path)?;
        let node = self.node(&fd)?;
        node.dir()?;
        let tree = node.tree;
        let counting = self.counting(tree);
        let ask = Open {
            path_flags,
            path,
            open_flags,
            flags,
        };
        let (descriptor, handle) = self
            .on(&fd, async move |bench, fd| {
                counting.open(bench, fd, ask).await
            })
            .await?;
        let node = Node {
            descriptor,
            tree,
            handle: Some(handle),
        };
        self.push(node).map_err(FsError::trap)
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Node>::new_own(fd.rep()))?;
        Ok(())
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        let path = short(path)?;
        self.on(&fd, async move |bench, fd| {
            bench.wasi().readlink_at(fd.it(), path).await
        })
        .await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let path = short(path)?;
        self.counted(&fd, async move |counting, bench, fd| {
            counting.remove_directory(bench, fd, path).await
        })
        .await
    }

    async fn rename_at(
        &mut self,
        fd: Fd,
        path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        let path = short(path)?;
        let new_path = short(new_path)?;
        let (tree, new_dir) = self.pair(&fd, &new_fd)?;
        let counting = self.counting(tree);
        self.on(&fd, async move |bench, fd| {
            let new = (bench.put(new_dir)?, new_path);
            counting.rename(bench, (fd, path), new).await
        })
        .await
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, path: String) -> FsResult<()> {
        let target = short(target)?;
        let path = short(path)?;
        self.counted(&fd, async move |counting, bench, fd| {
            counting.make_symlink(bench, fd, target, path).await
        })
        .await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let path = short(path)?;
        self.counted(&fd, async move |counting, bench, fd| {
            counting.unlink(bench, fd, path).await
        })
        .await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let node = self.node(&fd)?;
        if node.dir().is_ok() {
            return Err(ErrorCode::IsDirectory.into());
        }
        let handle = shared(node.file()?)?;
        let reader = Reader::new(handle, self.files.turns.clone(), offset);
        Ok(self.table.push(Box::new(reader) as DynInputStream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Fd,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let handle = shared(self.node(&fd)?.writable()?)?;
        let writer = Writer::new(handle, self.files.turns.clone(), At::Offset(offset));
        Ok(self.table.push(Box::new(writer) as DynOutputStream)?)
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let handle = shared(self.node(&fd)?.writable()?)?;
        let writer = Writer::new(handle, self.files.turns.clone(), At::End);
        Ok(self.table.push(Box::new(writer) as DynOutputStream)?)
    }

    async fn is_same_object(&mut self, one: Fd, other: Fd) -> wasmtime::Result<bool> {
        let compare = async |view: &mut Self| -> FsResult<bool> {
            let other = view.node(&other)?.descriptor.clone();
            view.on(&one, async move |bench, one| {
                let other = bench.put(other)?;
                let same = bench.wasi().is_same_object(one.it(), other.it()).await;
                same.map_err(FsError::trap)
            })
            .await
        };
        match compare(self).await {
            Ok(same) => Ok(same),
            Err(error) => Err(match error.downcast() {
                Ok(code) => code.into(),
                Err(trap) => trap,
            }),
        }
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.on(&fd, async |bench, fd| {
            bench.wasi().metadata_hash(fd.it()).await
        })
        .await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let path = short(path)?;
        self.on(&fd, async move |bench, fd| {
            bench
                .wasi()
                .metadata_hash_at(fd.it(), path_flags, path)
                .await
        })
        .await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let turns = self.files.turns.clone();
        let listing = self
            .table
            .get_mut(&Resource::<Listing>::new_borrow(stream.rep()))?;
        if let Some(entry) = listing.next() {
            return entry.map(Some);
        }
        let batch = turns.take(listing.read()).await?;
        listing.extend(batch);
        listing.next().transpose()
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table
            .delete(Resource::<Listing>::new_own(stream.rep()))?;
        Ok(())
    }
}
