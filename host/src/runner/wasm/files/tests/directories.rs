//! Directories: granted, and listed.

use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, HostDirectoryEntryStream};

use super::*;

#[test]
fn a_host_without_descriptors_grants_no_directories() {
    let dir = tempfile::tempdir().unwrap();
    let granted = ["/a", "/b"].map(|guest| GrantedDir {
        host: dir.path().to_owned(),
        guest: guest.to_owned(),
        access: Access::Write,
    });
    let left = Descriptors::new(2);
    let open = || {
        Files::open(
            &granted,
            &Limits::default(),
            DiskUse::default(),
            &left,
            meters(),
        )
    };
    let files = open().unwrap();
    let refusal = open().err().unwrap();
    assert_eq!(refusal.code, ErrorCode::Capacity);
    drop(files);
    open().unwrap();
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
