//! The interface as a guest calls it, without a guest.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use skep_protocol::spec::OnFuelExhausted;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, Host as _, HostDescriptor, HostDirectoryEntryStream,
    OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, StreamError};

use super::account::Amount;
use super::*;
use crate::runner::Access;
use crate::runner::wasm::fuel::Fuel;

type Fd = Resource<Descriptor>;

const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn meters() -> Arc<Meters> {
    Arc::new(Meters::new(Fuel::new(1, OnFuelExhausted::Exit)))
}

/// The files of an agent, and what its guest holds of them.
struct Agent {
    files: Files,
    table: ResourceTable,
    meters: Arc<Meters>,
}

impl Agent {
    fn new(host: &Path, access: Access, limits: Limits) -> Self {
        let granted = GrantedDir {
            host: host.to_owned(),
            guest: "/".to_owned(),
            access,
        };
        let meters = meters();
        let descriptors = Descriptors::new(1000);
        let files = Files::open(&[granted], &limits, &descriptors, Arc::clone(&meters)).unwrap();
        Self {
            files,
            table: ResourceTable::new(),
            meters,
        }
    }

    fn scratch(host: &Path, limits: Limits) -> Self {
        Self::new(host, Access::Scratch, limits)
    }

    fn view(&mut self) -> FilesView<'_> {
        FilesView {
            files: &self.files,
            table: &mut self.table,
        }
    }

    fn root(&mut self) -> Fd {
        self.view().get_directories().unwrap().remove(0).0
    }

    fn held(&self) -> Amount {
        let held = self.files.account.held();
        assert_eq!(self.meters.read().disk_bytes, Some(held.bytes));
        held
    }

    async fn open(&mut self, root: &Fd, path: &str) -> FsResult<Fd> {
        let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
        self.view()
            .open_at(
                again(root),
                PathFlags::empty(),
                path.to_owned(),
                OpenFlags::CREATE,
                flags,
            )
            .await
    }

    fn output(&mut self, stream: &Resource<DynOutputStream>) -> &mut DynOutputStream {
        self.table.get_mut(stream).unwrap()
    }

    fn input(&mut self, stream: &Resource<DynInputStream>) -> &mut DynInputStream {
        self.table.get_mut(stream).unwrap()
    }
}

fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

fn refusal<T>(result: FsResult<T>) -> FileError {
    match result {
        Ok(_) => panic!("not refused"),
        Err(error) => error.downcast().unwrap(),
    }
}

fn limits(disk_bytes: u64, files: u64, open_files: u64) -> Limits {
    Limits {
        disk_bytes,
        files,
        open_files,
        ..Limits::default()
    }
}

/// What there is, by a look at it: every name, and the bytes of every file once.
fn found(root: &Path) -> Amount {
    use std::os::unix::fs::MetadataExt;
    let mut sum = Amount::default();
    let mut seen = std::collections::HashSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in dir.read_dir().unwrap() {
            let entry = entry.unwrap();
            let data = entry.metadata().unwrap();
            sum.files += 1;
            if data.is_dir() {
                left.push(entry.path());
            } else if seen.insert(data.ino()) {
                sum.bytes += data.len();
            }
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_once_write_what_the_limit_allows_and_no_more() {
    const STREAMS_OF_FILE: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), limits(100_000, 10, 10));
    let root = agent.root();
    let mut streams = Vec::new();
    for name in ["a", "b"] {
        let fd = agent.open(&root, name).await.unwrap();
        for _ in 0..STREAMS_OF_FILE {
            streams.push(agent.view().append_via_stream(again(&fd)).unwrap());
        }
        for _ in 0..STREAMS_OF_FILE - 1 {
            streams.push(agent.view().write_via_stream(again(&fd), 0).unwrap());
        }
    }
    let mut failed = 0;
    while failed < streams.len() {
        // All are under way before the first is waited for.
        for stream in &streams {
            match agent.output(stream).check_write() {
                Ok(0) | Err(StreamError::Closed) => {}
                Ok(permit) => {
                    let data = vec![b'x'; permit.min(3000)];
                    agent.output(stream).write(data.into()).unwrap();
                }
                Err(StreamError::LastOperationFailed(error)) => {
                    failed += 1;
                    let error = agent.table.push(error).unwrap();
                    let code = agent.view().filesystem_error_code(error).unwrap();
                    assert_eq!(code, Some(FileError::InsufficientSpace));
                }
                Err(other) => panic!("{other}"),
            }
        }
        for stream in &streams {
            agent.output(stream).ready().await;
        }
        assert!(found(dir.path()).bytes <= 100_000);
        assert_eq!(found(dir.path()), agent.held());
    }
    assert!(agent.held().bytes > 97_000);
}

#[test]
fn a_host_without_descriptors_grants_no_directories() {
    let dir = tempfile::tempdir().unwrap();
    let granted = ["/a", "/b"].map(|guest| GrantedDir {
        host: dir.path().to_owned(),
        guest: guest.to_owned(),
        access: Access::Write,
    });
    let left = Descriptors::new(2);
    let open = || Files::open(&granted, &Limits::default(), &left, meters());
    let files = open().unwrap();
    let refusal = open().err().unwrap();
    assert_eq!(refusal.code, ErrorCode::Capacity);
    drop(files);
    open().unwrap();
}

#[tokio::test]
async fn a_stream_takes_what_it_permitted() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), Limits::default());
    let root = agent.root();
    let fd = agent.open(&root, "a").await.unwrap();
    let stream = agent.view().write_via_stream(again(&fd), 10).unwrap();
    let permit = agent.output(&stream).check_write().unwrap();
    let more = vec![0; permit + 1];
    assert!(matches!(
        agent.output(&stream).write(more.into()),
        Err(StreamError::Trap(_))
    ));
    agent
        .output(&stream)
        .write(vec![b'a'; permit].into())
        .unwrap();
    assert_eq!(agent.output(&stream).check_write().unwrap(), 0);
    let wait = agent.output(&stream).blocking_write_and_flush("end".into());
    wait.await.unwrap();
    let content = std::fs::read(dir.path().join("a")).unwrap();
    assert_eq!(content.len(), 10 + permit + 3);
    assert!(content.ends_with(b"aend"));

    let input = agent.view().read_via_stream(again(&fd), 9).unwrap();
    let first = agent.input(&input).blocking_read(3).await.unwrap();
    assert_eq!(first, &b"\0aa"[..]);
    let mut read = first.len();
    loop {
        agent.input(&input).ready().await;
        match agent.input(&input).read(usize::MAX) {
            Ok(data) => read += data.len(),
            Err(StreamError::Closed) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(read, content.len() - 9);

    let mut streams = Vec::new();
    let too_many = loop {
        match agent.view().append_via_stream(again(&fd)) {
            Ok(stream) => streams.push(stream),
            refused => break refusal(refused),
        }
    };
    assert_eq!(too_many, FileError::Quota);
    assert_eq!(streams.len(), streams::STREAMS - 2);
}

#[tokio::test]
async fn a_file_is_open_as_long_as_a_stream_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), limits(1000, 10, 1));
    let root = agent.root();
    let fd = agent.open(&root, "a").await.unwrap();
    let stream = agent.view().write_via_stream(again(&fd), 0).unwrap();
    HostDescriptor::drop(&mut agent.view(), fd).unwrap();
    let refused = agent.open(&root, "b").await;
    assert_eq!(refusal(refused), FileError::Quota);
    let mut view = agent.view();
    view.unlink_file_at(again(&root), "a".to_owned())
        .await
        .unwrap();
    let write = agent
        .output(&stream)
        .blocking_write_and_flush("more".into());
    write.await.unwrap();
    assert_eq!(agent.held(), Amount { files: 1, bytes: 4 });
    agent.table.delete(stream).unwrap().cancel().await;
    assert_eq!(agent.held(), Amount::default());
    agent.open(&root, "b").await.unwrap();
}

#[tokio::test]
async fn a_large_directory_is_listed_in_small_parts() {
    const NAMES: usize = 5000;
    let dir = tempfile::tempdir().unwrap();
    for number in 0..NAMES {
        std::fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("dir", dir.path().join("link")).unwrap();
    let mut agent = Agent::new(dir.path(), Access::Read, limits(1, 1, 2));
    let root = agent.root();
    let listing = agent.view().read_directory(again(&root)).await.unwrap();
    let other = agent.view().read_directory(again(&root)).await.unwrap();
    assert_eq!(
        refusal(agent.view().read_directory(again(&root)).await),
        FileError::Quota
    );
    let mut names = std::collections::HashSet::new();
    let mut most = 0;
    while let Some(entry) = agent
        .view()
        .read_directory_entry(Resource::new_borrow(listing.rep()))
        .await
        .unwrap()
    {
        let kind = match entry.name.as_str() {
            "dir" => DescriptorType::Directory,
            "link" => DescriptorType::SymbolicLink,
            _ => DescriptorType::RegularFile,
        };
        assert_eq!(entry.type_, kind);
        assert!(names.insert(entry.name));
        let held = Resource::<listing::Listing>::new_borrow(listing.rep());
        most = most.max(agent.table.get(&held).unwrap().held());
    }
    assert_eq!(names.len(), NAMES + 2);
    assert!((1..600).contains(&most), "{most}");
    HostDirectoryEntryStream::drop(&mut agent.view(), listing).unwrap();
    HostDirectoryEntryStream::drop(&mut agent.view(), other).unwrap();
    agent.view().read_directory(root).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_no_text_is_an_error_and_not_the_end() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"\xff");
    std::fs::write(dir.path().join(name), "").unwrap();
    std::fs::write(dir.path().join("text"), "").unwrap();
    let mut agent = Agent::new(dir.path(), Access::Read, Limits::default());
    let root = agent.root();
    let listing = agent.view().read_directory(root).await.unwrap();
    let mut seen = [0, 0];
    loop {
        let it = Resource::new_borrow(listing.rep());
        match agent.view().read_directory_entry(it).await {
            Ok(None) => break,
            Ok(Some(_)) => seen[0] += 1,
            error => {
                assert_eq!(refusal(error), FileError::IllegalByteSequence);
                seen[1] += 1;
            }
        }
    }
    assert_eq!(seen, [1, 1]);
}

/// A guest that leaves as many calls under way as it can takes one thread.
#[test]
fn many_streams_leave_the_threads_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .enable_time()
        .build()
        .unwrap();
    threads.block_on(async {
        let mut agent = Agent::scratch(dir.path(), limits(1 << 30, 100, 64));
        let root = agent.root();
        let mut streams = Vec::new();
        for number in 0..64 {
            let fd = agent.open(&root, &number.to_string()).await.unwrap();
            streams.push(agent.view().append_via_stream(fd).unwrap());
        }
        // Its turn is taken by a call that does not end.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let stuck = agent.files.turns.clone();
        let stuck = tokio::spawn(async move { stuck.take(move || wait.recv()).await });
        while agent.files.turns.is_free() {
            tokio::task::yield_now().await;
        }
        for stream in &streams {
            let permit = agent.output(stream).check_write().unwrap();
            agent.output(stream).write(vec![0; permit].into()).unwrap();
        }
        // Another agent works on.
        let mut other = Agent::scratch(dir.path(), Limits::default());
        let root = other.root();
        let opened = tokio::time::timeout(DEADLINE, other.open(&root, "other"));
        opened.await.expect("the threads are taken").unwrap();
        drop(release);
        stuck.await.unwrap().unwrap_err();
        for stream in &streams {
            agent.output(stream).ready().await;
        }
        assert!(agent.held().bytes >= 64 * 4096);
    });
}

/// What a guest may do to a few names.
#[derive(Debug, Clone)]
enum Step {
    Open {
        name: usize,
        truncate: bool,
    },
    Close {
        file: usize,
    },
    Write {
        file: usize,
        offset: u64,
        len: usize,
    },
    Append {
        file: usize,
        len: usize,
    },
    SetSize {
        file: usize,
        size: u64,
    },
    MakeDirectory {
        name: usize,
    },
    RemoveDirectory {
        name: usize,
    },
    Unlink {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Link {
        from: usize,
        to: usize,
    },
    Symlink {
        name: usize,
        target: usize,
    },
}

const NAMES: [&str; 10] = ["a", "b", "d", "d/a", "d/b", "e", "a/", "d/", "e/", "d/../b"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let file = || 0..8_usize;
    let step = prop_oneof![
        4 => (name(), any::<bool>()).prop_map(|(name, truncate)| Step::Open { name, truncate }),
        2 => file().prop_map(|file| Step::Close { file }),
        4 => (file(), 0..3000_u64, 0..2000_usize)
            .prop_map(|(file, offset, len)| Step::Write { file, offset, len }),
        3 => (file(), 0..2000_usize).prop_map(|(file, len)| Step::Append { file, len }),
        2 => (file(), 0..4000_u64).prop_map(|(file, size)| Step::SetSize { file, size }),
        2 => name().prop_map(|name| Step::MakeDirectory { name }),
        1 => name().prop_map(|name| Step::RemoveDirectory { name }),
        3 => name().prop_map(|name| Step::Unlink { name }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => (name(), name()).prop_map(|(name, target)| Step::Symlink { name, target }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Does it, whether it is allowed or not.
async fn step(agent: &mut Agent, root: &Fd, open: &mut Vec<Fd>, step: Step) {
    let path = |name: usize| NAMES[name].to_owned();
    let file = |open: &[Fd], file: usize| open.get(file % open.len().max(1)).map(again);
    match step {
        Step::Open { name, truncate } => {
            let open_flags = match truncate {
                true => OpenFlags::CREATE | OpenFlags::TRUNCATE,
                false => OpenFlags::CREATE,
            };
            let (root, flags) = (again(root), DescriptorFlags::READ | DescriptorFlags::WRITE);
            let follow = PathFlags::SYMLINK_FOLLOW;
            let mut view = agent.view();
            let opened = view.open_at(root, follow, path(name), open_flags, flags);
            open.extend(opened.await);
        }
        Step::Close { file } if !open.is_empty() => {
            let fd = open.swap_remove(file % open.len());
            HostDescriptor::drop(&mut agent.view(), fd).unwrap();
        }
        Step::Write {
            file: at,
            offset,
            len,
        } => {
            if let Some(fd) = file(open, at) {
                let _ = agent.view().write(fd, vec![b'x'; len], offset).await;
            }
        }
        Step::Append { file: at, len } => {
            if let Some(fd) = file(open, at)
                && let Ok(stream) = agent.view().append_via_stream(fd)
            {
                let data = vec![b'x'; len].into();
                let _ = agent.output(&stream).blocking_write_and_flush(data).await;
                agent.table.delete(stream).unwrap().cancel().await;
            }
        }
        Step::SetSize { file: at, size } => {
            if let Some(fd) = file(open, at) {
                let _ = agent.view().set_size(fd, size).await;
            }
        }
        Step::MakeDirectory { name } => {
            let _ = agent
                .view()
                .create_directory_at(again(root), path(name))
                .await;
        }
        Step::RemoveDirectory { name } => {
            let _ = agent
                .view()
                .remove_directory_at(again(root), path(name))
                .await;
        }
        Step::Unlink { name } => {
            let _ = agent.view().unlink_file_at(again(root), path(name)).await;
        }
        Step::Rename { from, to } => {
            let mut view = agent.view();
            let _ = view
                .rename_at(again(root), path(from), again(root), path(to))
                .await;
        }
        Step::Link { from, to } => {
            let (mut view, itself) = (agent.view(), PathFlags::empty());
            let _ = view
                .link_at(again(root), itself, path(from), again(root), path(to))
                .await;
        }
        Step::Symlink { name, target } => {
            let mut view = agent.view();
            let _ = view.symlink_at(again(root), path(target), path(name)).await;
        }
        Step::Close { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_account_is_what_is_there(steps in steps()) {
        const MOST: Amount = Amount { files: 6, bytes: 8000 };
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let limits = limits(MOST.bytes, MOST.files, 8);
            let mut agent = Agent::scratch(dir.path(), limits);
            let root = agent.root();
            let mut open = Vec::new();
            for one in steps {
                step(&mut agent, &root, &mut open, one).await;
                let (held, found) = (agent.held(), found(dir.path()));
                // Files that are open count without a name.
                prop_assert!(held.files >= found.files && held.bytes >= found.bytes);
                prop_assert!(held.files <= MOST.files && held.bytes <= MOST.bytes);
                if open.is_empty() {
                    prop_assert_eq!(held, found);
                }
            }
            for fd in open {
                HostDescriptor::drop(&mut agent.view(), fd).unwrap();
            }
            prop_assert_eq!(agent.held(), found(dir.path()));
            Ok(())
        })?;
    }
}
