//! The interface as a guest calls it, without a guest.

mod directories;
mod steps;
mod streaming;

use std::path::Path;

use futures_util::FutureExt as _;
use skep_protocol::spec::OnFuelExhausted;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, Host as _, HostDescriptor, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::*;
use crate::runner::wasm::fuel::Fuel;
use crate::runner::{Access, Amount};

type Fd = Resource<Descriptor>;

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
        let files = Files::open(
            &[granted],
            &limits,
            DiskUse::default(),
            &descriptors,
            Arc::clone(&meters),
        )
        .unwrap();
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

#[tokio::test]
async fn a_path_that_is_too_long_waits_for_no_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), Limits::default());
    let root = agent.root();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let turns = agent.files.turns.clone();
    let busy = tokio::spawn(async move {
        turns
            .take(move || {
                begun.send(()).unwrap();
                gate.recv().unwrap();
            })
            .await;
    });
    has_begun.await.unwrap();
    let path = |bytes: usize| "x/".repeat(bytes / 2);
    let no = PathFlags::empty();
    let (one, two) = (|| again(&root), || again(&root));
    let mut view = agent.view();
    macro_rules! refused {
        ($call:expr) => {
            let answer = $call.now_or_never().expect("it waits for its turn");
            assert_eq!(refusal(answer), FileError::NameTooLong);
        };
    }
    let (long, short) = (|| path(4098), || path(8));
    refused!(view.create_directory_at(one(), long()));
    refused!(view.remove_directory_at(one(), long()));
    refused!(view.unlink_file_at(one(), long()));
    refused!(view.readlink_at(one(), long()));
    refused!(view.stat_at(one(), no, long()));
    refused!(view.metadata_hash_at(one(), no, long()));
    refused!(view.set_times_at(one(), no, long(), NewTimestamp::Now, NewTimestamp::Now));
    refused!(view.symlink_at(one(), long(), short()));
    refused!(view.symlink_at(one(), short(), long()));
    refused!(view.rename_at(one(), long(), two(), short()));
    refused!(view.rename_at(one(), short(), two(), long()));
    refused!(view.link_at(one(), no, long(), two(), short()));
    refused!(view.link_at(one(), no, short(), two(), long()));
    refused!(view.open_at(one(), no, long(), OpenFlags::empty(), DescriptorFlags::READ));
    // The twin waits.
    assert!(view.stat_at(one(), no, path(4096)).now_or_never().is_none());
    go.send(()).unwrap();
    busy.await.unwrap();
}
