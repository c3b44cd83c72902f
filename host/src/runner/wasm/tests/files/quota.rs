//! What is full, and what is given back.

use super::*;

#[tokio::test]
async fn a_gibibyte_ends_at_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let mut hand = in_scratch(scratch.path(), limits(8 * MIB, 10)).await;
    let file = hand.open("big", CREATE).await.unwrap();
    for _ in 0..8 {
        assert_eq!(hand.write(file, MIB).await, Ok(MIB));
    }
    assert_eq!(hand.disk_bytes(), 8 * MIB);
    // An error closes a stream, and a new place opens another.
    for bytes in [MIB, 1] {
        assert_eq!(hand.seek(file, 8 * MIB).await, Ok(8 * MIB));
        assert_eq!(hand.write(file, bytes).await, Err(NOSPC));
    }
    assert_eq!(size(&scratch.path().join("big")), 8 * MIB);
    // What is there may be written over, and its room used again.
    assert_eq!(hand.seek(file, MIB).await, Ok(MIB));
    assert_eq!(hand.write(file, MIB).await, Ok(MIB));
    hand.set_size(file, 0).await.unwrap();
    assert_eq!(hand.disk_bytes(), 0);
    assert_eq!(hand.seek(file, 0).await, Ok(0));
    assert_eq!(hand.write(file, MIB).await, Ok(MIB));
    hand.end().await;
}

#[tokio::test]
async fn a_hole_counts_as_what_it_seems() {
    let scratch = tempfile::tempdir().unwrap();
    let mut hand = in_scratch(scratch.path(), limits(1000, 10)).await;
    let file = hand.open("sparse", CREATE).await.unwrap();
    for size in [1 << 60, u64::MAX, 1001] {
        assert_eq!(hand.set_size(file, size).await, Err(NOSPC), "{size}");
    }
    assert_eq!(hand.seek(file, 1 << 60).await, Ok(1 << 60));
    assert_eq!(hand.write(file, 1).await, Err(NOSPC));
    assert_eq!(size(&scratch.path().join("sparse")), 0);
    hand.set_size(file, 1000).await.unwrap();
    assert_eq!(hand.disk_bytes(), 1000);
    hand.end().await;
}

#[tokio::test]
async fn what_goes_is_given_back() {
    let scratch = tempfile::tempdir().unwrap();
    let mut hand = in_scratch(scratch.path(), limits(10_000, 3)).await;
    for name in ["a", "b"] {
        let file = hand.open(name, CREATE).await.unwrap();
        hand.write(file, 4000).await.unwrap();
        hand.close(file).await;
    }
    assert_eq!(hand.disk_bytes(), 8000);
    // Another name, then one name for both.
    hand.link("a", ROOT, "c").await.unwrap();
    assert_eq!(hand.link("a", ROOT, "d").await, Err(NOSPC));
    hand.rename("a", ROOT, "c").await.unwrap();
    hand.unlink("a").await.unwrap();
    assert_eq!(hand.disk_bytes(), 8000);
    hand.rename("c", ROOT, "b").await.unwrap();
    assert_eq!(hand.disk_bytes(), 4000);
    // Open, it counts without a name; closed, no more.
    let file = hand.open_in(ROOT, "b", 0, APPEND).await.unwrap();
    hand.unlink("b").await.unwrap();
    hand.write(file, 1000).await.unwrap();
    assert_eq!(hand.disk_bytes(), 5000);
    hand.close(file).await;
    assert_eq!(hand.disk_bytes(), 0);
    // As many files as may be, again.
    for name in ["x", "y"] {
        hand.make_directory(ROOT, name).await.unwrap();
    }
    hand.symlink("z", "0123456789").await.unwrap();
    assert_eq!(hand.disk_bytes(), 10);
    assert_eq!(hand.make_directory(ROOT, "more").await, Err(NOSPC));
    assert_eq!(hand.symlink("more", "x").await, Err(NOSPC));
    assert_eq!(hand.open("more", CREATE).await, Err(NOSPC));
    hand.rename("x", ROOT, "y").await.unwrap();
    hand.remove_directory("y").await.unwrap();
    hand.unlink("z").await.unwrap();
    assert_eq!(hand.disk_bytes(), 0);
    // Cut off by opening it.
    let file = hand.open("more", CREATE).await.unwrap();
    hand.write(file, 10_000).await.unwrap();
    hand.close(file).await;
    let file = hand.open("more", TRUNCATE).await.unwrap();
    assert_eq!(hand.disk_bytes(), 0);
    hand.write(file, 10_000).await.unwrap();
    hand.end().await;
}

#[tokio::test]
async fn a_hundred_thousand_files() {
    let scratch = tempfile::tempdir().unwrap();
    let default = Limits::default();
    let mut hand = in_scratch(scratch.path(), default).await;
    let mut made = 0;
    for number in 0..100_000 {
        match hand.open(&number.to_string(), CREATE).await {
            Ok(file) => hand.close(file).await,
            Err(error) => {
                assert_eq!(error, NOSPC);
                break;
            }
        }
        made += 1;
    }
    assert_eq!(made, default.files);
    assert_eq!(
        scratch.path().read_dir().unwrap().count() as u64,
        default.files
    );
    hand.end().await;
}

#[tokio::test]
async fn a_deep_tree() {
    const DEPTH: u64 = 1000;
    let scratch = tempfile::tempdir().unwrap();
    let mut hand = in_scratch(scratch.path(), limits(1, DEPTH)).await;
    let mut at = ROOT;
    for _ in 0..DEPTH {
        hand.make_directory(at, "d").await.unwrap();
        let inner = hand.open_in(at, "d", DIRECTORY, 0).await.unwrap();
        if at != ROOT {
            hand.close(at).await;
        }
        at = inner;
    }
    assert_eq!(hand.make_directory(at, "d").await, Err(NOSPC));
    hand.end().await;
}

#[tokio::test]
async fn only_so_many_files_are_open() {
    let scratch = tempfile::tempdir().unwrap();
    let few = Limits {
        open_files: 3,
        ..Limits::default()
    };
    let mut hand = in_scratch(scratch.path(), few).await;
    let mut open = Vec::new();
    for name in ["a", "b", "c"] {
        open.push(hand.open(name, CREATE).await.unwrap());
    }
    assert_eq!(hand.open("d", CREATE).await, Err(DQUOT));
    assert!(!scratch.path().join("d").exists());
    hand.close(open.pop().unwrap()).await;
    hand.open("d", CREATE).await.unwrap();
    hand.end().await;
}

#[tokio::test]
async fn what_is_added_to_a_shared_directory_is_never_given_back() {
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("theirs"), [0; 5000]).unwrap();
    let granted = vec![dir(shared.path(), "/data", Access::Write)];
    let mut hand = Hand::new(granted, limits(1000, 2)).await;
    // What was there is not counted, nor is what is written over it.
    let file = hand.open("theirs", 0).await.unwrap();
    hand.write(file, 5000).await.unwrap();
    assert_eq!(hand.disk_bytes(), 0);
    hand.set_size(file, 100).await.unwrap();
    hand.set_size(file, 600).await.unwrap();
    assert_eq!(hand.disk_bytes(), 500);
    assert_eq!(hand.set_size(file, 1101).await, Err(NOSPC));
    hand.set_size(file, 1100).await.unwrap();
    hand.unlink("theirs").await.unwrap();
    hand.close(file).await;
    assert_eq!(hand.disk_bytes(), 1000);
    for _ in 0..2 {
        let file = hand.open("mine", CREATE).await.unwrap();
        assert_eq!(hand.write(file, 1).await, Err(NOSPC));
        hand.close(file).await;
        hand.unlink("mine").await.unwrap();
    }
    assert_eq!(hand.open("mine", CREATE).await, Err(NOSPC));
    hand.end().await;
}
