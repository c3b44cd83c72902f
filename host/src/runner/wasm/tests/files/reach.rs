//! What a guest does not get to.

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

#[tokio::test]
async fn scratch_and_shared_are_two_disks() {
    let (scratch, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let granted = vec![
        dir(scratch.path(), "/", Access::Scratch),
        dir(shared.path(), "/data", Access::Write),
    ];
    let mut hand = Hand::new(granted, Limits::default()).await;
    let file = hand.open("file", CREATE).await.unwrap();
    hand.close(file).await;
    assert_eq!(hand.rename("file", SECOND, "file").await, Err(XDEV));
    assert_eq!(hand.link("file", SECOND, "file").await, Err(XDEV));
    assert!(scratch.path().join("file").exists());
    assert!(!shared.path().join("file").exists());
    hand.end().await;
}

#[tokio::test]
async fn pipes_sockets_and_devices_are_not_opened() {
    let shared = tempfile::tempdir().unwrap();
    let path = |name: &str| shared.path().join(name);
    mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    symlink("pipe", path("link")).unwrap();
    // Only root makes one.
    let null = rustix::fs::makedev(1, 3);
    let device = mknodat(
        CWD,
        path("device"),
        FileType::CharacterDevice,
        Mode::RWXU,
        null,
    );
    let granted = vec![dir(shared.path(), "/data", Access::Write)];
    let mut hand = Hand::new(granted, Limits::default()).await;
    for how in [0, CREATE, TRUNCATE] {
        for name in ["pipe", "socket", "link"] {
            assert_eq!(hand.open(name, how).await, Err(PERM), "{name} {how}");
        }
        if device.is_ok() {
            assert_eq!(hand.open("device", how).await, Err(PERM));
        }
    }
    hand.rename("pipe", ROOT, "moved").await.unwrap();
    hand.unlink("moved").await.unwrap();
    hand.end().await;
}

#[tokio::test]
async fn nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let scratch = outside.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let whole = canary.to_str().unwrap();
    let mut hand = in_scratch(&scratch, Limits::default()).await;
    hand.make_directory(ROOT, "d").await.unwrap();
    let file = hand.open("mine", CREATE).await.unwrap();
    hand.close(file).await;
    let made = hand.symlink("absolute", whole).await;
    assert_eq!(made, Err(PERM), "an absolute target");
    for (name, target) in [
        ("up", ".."),
        ("out", "../canary"),
        ("chain", "out"),
        ("down", "d/../../canary"),
    ] {
        hand.symlink(name, target).await.unwrap();
    }
    for way in [
        "../canary",
        "d/../../canary",
        "up/canary",
        "out",
        "out/",
        "chain",
        "down",
        "..",
        "../",
        "up/",
        "d/../../",
        whole,
        "/canary",
        "d/../up/canary",
    ] {
        for how in [0, CREATE, TRUNCATE, DIRECTORY] {
            let opened = hand.open(way, how).await;
            assert!(opened.is_err(), "{way} {how}: {opened:?}");
        }
        if !matches!(way, "out" | "chain" | "down") {
            let removed = hand.unlink(way).await;
            assert!(removed.is_err(), "{way}");
            for new in [
                hand.rename("mine", ROOT, way).await,
                hand.link("mine", ROOT, way).await,
            ] {
                assert!(new.is_err(), "{way}");
            }
            assert!(hand.rename(way, ROOT, "stolen").await.is_err(), "{way}");
            assert!(hand.link(way, ROOT, "stolen").await.is_err(), "{way}");
            assert!(hand.make_directory(ROOT, way).await.is_err(), "{way}");
        }
    }
    hand.end().await;
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
    assert_eq!(outside.path().read_dir().unwrap().count(), 2);
}
