//! A guest of WASI 0.1 that does to its files what the test says, call by call.

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::runner::{Access, GrantedDir};

/// Bytes of a call: operation, descriptor, two numbers, and two texts with
/// their lengths.
const CALL: usize = 1024;
/// Bytes of an answer: the error number, and a number.
const ANSWER: usize = 16;

const HAND: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $size (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename"
        (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link"
        (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink"
        (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 20)
    (func $fd (result i32) (i32.load (i32.const 4)))
    (func $a (result i64) (i64.load (i32.const 8)))
    (func $len (result i32) (i32.load (i32.const 24)))
    (func $len2 (result i32) (i32.load (i32.const 28)))
    ;; A directory is not opened for writing.
    (func $rights (result i64)
        (select (i64.const 0) (i64.const -1) (i32.wrap_i64 (i64.and (call $a) (i64.const 2)))))
    (func $call (result i32)
        (block $b12 (block $b11 (block $b10 (block $b9 (block $b8 (block $b7 (block $b6 (block $b5
        (block $b4 (block $b3 (block $b2 (block $b1
            (br_table $b1 $b2 $b3 $b4 $b5 $b6 $b7 $b8 $b9 $b10 $b11 $b12 (i32.load (i32.const 0))))
        (return (call $open (call $fd) (i32.load (i32.const 1008)) (i32.const 32) (call $len)
            (i32.wrap_i64 (call $a)) (call $rights) (i64.const -1)
            (i32.wrap_i64 (i64.load (i32.const 16))) (i32.const 1032))))
        (i32.store (i32.const 1040) (i32.const 65536))
        (i32.store (i32.const 1044) (i32.wrap_i64 (call $a)))
        (return (call $write (call $fd) (i32.const 1040) (i32.const 1) (i32.const 1032))))
        (return (call $size (call $fd) (call $a))))
        (return (call $close (call $fd))))
        (return (call $seek (call $fd) (call $a) (i32.const 0) (i32.const 1032))))
        (return (call $unlink (call $fd) (i32.const 32) (call $len))))
        (return (call $mkdir (call $fd) (i32.const 32) (call $len))))
        (return (call $rmdir (call $fd) (i32.const 32) (call $len))))
        (return (call $rename (call $fd) (i32.const 32) (call $len)
            (i32.wrap_i64 (call $a)) (i32.const 512) (call $len2))))
        (return (call $link (call $fd) (i32.const 0) (i32.const 32) (call $len)
            (i32.wrap_i64 (call $a)) (i32.const 512) (call $len2))))
        (return (call $symlink (i32.const 512) (call $len2) (call $fd) (i32.const 32) (call $len))))
        (unreachable))
    (func (export "_start") (local $got i32)
        (loop $next
            (local.set $got (i32.const 0))
            (loop $more
                (i32.store (i32.const 1040) (local.get $got))
                (i32.store (i32.const 1044) (i32.sub (i32.const 1024) (local.get $got)))
                (drop (call $read (i32.const 0) (i32.const 1040) (i32.const 1) (i32.const 1048)))
                (if (i32.eqz (i32.load (i32.const 1048))) (then return))
                (local.set $got (i32.add (local.get $got) (i32.load (i32.const 1048))))
                (br_if $more (i32.lt_u (local.get $got) (i32.const 1024))))
            (i64.store (i32.const 1032) (i64.const 0))
            (i64.store (i32.const 1024) (i64.extend_i32_u (call $call)))
            (i32.store (i32.const 1040) (i32.const 1024))
            (i32.store (i32.const 1044) (i32.const 16))
            (drop (call $write (i32.const 1) (i32.const 1040) (i32.const 1) (i32.const 1048)))
            (br $next))))"#;

/// What a call is answered: a number, or an error of WASI 0.1.
type Answer = Result<u64, Errno>;

/// An error number of WASI 0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Errno(u64);

const DQUOT: Errno = Errno(19);
const NOSPC: Errno = Errno(51);
const PERM: Errno = Errno(63);
const XDEV: Errno = Errno(75);

const CREATE: u64 = 1;
const DIRECTORY: u64 = 2;
const TRUNCATE: u64 = 8;
const APPEND: u64 = 1;

/// The guest, and what it has answered.
struct Hand {
    started: Started,
    answered: Vec<u8>,
}

impl Hand {
    async fn new(dirs: Vec<GrantedDir>, limits: Limits) -> Self {
        let mut started = Ask {
            dirs,
            limits,
            ..ask(wat(HAND))
        }
        .start();
        started.running().await;
        Self {
            started,
            answered: Vec::new(),
        }
    }

    async fn call(&mut self, op: u32, fd: u64, numbers: (u64, u64), texts: (&str, &str)) -> Answer {
        let mut call = vec![0; CALL];
        call[0..4].copy_from_slice(&op.to_le_bytes());
        call[4..8].copy_from_slice(&u32::try_from(fd).unwrap().to_le_bytes());
        call[8..16].copy_from_slice(&numbers.0.to_le_bytes());
        call[16..24].copy_from_slice(&numbers.1.to_le_bytes());
        let (one, two) = texts;
        call[24..28].copy_from_slice(&u32::try_from(one.len()).unwrap().to_le_bytes());
        call[28..32].copy_from_slice(&u32::try_from(two.len()).unwrap().to_le_bytes());
        call[32..32 + one.len()].copy_from_slice(one.as_bytes());
        call[512..512 + two.len()].copy_from_slice(two.as_bytes());
        // Links are followed.
        call[1008] = 1;
        assert_eq!(self.started.stdin.offer(&call), CALL);
        while self.answered.len() < ANSWER {
            let chunks = tokio::time::timeout(DEADLINE, self.started.output.recv()).await;
            for chunk in chunks.unwrap().expect("the guest ended") {
                self.answered.extend(chunk.data);
            }
        }
        let answer: Vec<u8> = self.answered.drain(..ANSWER).collect();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        match number(&answer[..8]) {
            0 => Ok(number(&answer[8..])),
            errno => Err(Errno(errno)),
        }
    }

    async fn open_in(&mut self, dir: u64, path: &str, how: u64, flags: u64) -> Answer {
        self.call(0, dir, (how, flags), (path, "")).await
    }

    async fn open(&mut self, path: &str, how: u64) -> Answer {
        self.open_in(ROOT, path, how, 0).await
    }

    async fn write(&mut self, fd: u64, bytes: u64) -> Answer {
        self.call(1, fd, (bytes, 0), ("", "")).await
    }

    async fn set_size(&mut self, fd: u64, size: u64) -> Answer {
        self.call(2, fd, (size, 0), ("", "")).await
    }

    async fn close(&mut self, fd: u64) {
        self.call(3, fd, (0, 0), ("", "")).await.unwrap();
    }

    async fn seek(&mut self, fd: u64, to: u64) -> Answer {
        self.call(4, fd, (to, 0), ("", "")).await
    }

    async fn unlink(&mut self, path: &str) -> Answer {
        self.call(5, ROOT, (0, 0), (path, "")).await
    }

    async fn make_directory(&mut self, dir: u64, path: &str) -> Answer {
        self.call(6, dir, (0, 0), (path, "")).await
    }

    async fn remove_directory(&mut self, path: &str) -> Answer {
        self.call(7, ROOT, (0, 0), (path, "")).await
    }

    async fn rename(&mut self, path: &str, dir: u64, new: &str) -> Answer {
        self.call(8, ROOT, (dir, 0), (path, new)).await
    }

    async fn link(&mut self, path: &str, dir: u64, new: &str) -> Answer {
        self.call(9, ROOT, (dir, 0), (path, new)).await
    }

    async fn symlink(&mut self, path: &str, target: &str) -> Answer {
        self.call(10, ROOT, (0, 0), (path, target)).await
    }

    fn disk_bytes(&self) -> u64 {
        self.started.guest.control.usage().disk_bytes.unwrap()
    }

    /// Lets it end by itself, and the next guest run.
    async fn end(self) {
        self.started.stdin.close();
        assert_eq!(self.started.ended().await.end, End::Exited(0));
        still_runs().await;
    }
}

/// The first directory that was granted.
const ROOT: u64 = 3;
const SECOND: u64 = 4;

fn dir(host: &Path, guest: &str, access: Access) -> GrantedDir {
    GrantedDir {
        host: host.to_owned(),
        guest: guest.to_owned(),
        access,
    }
}

async fn in_scratch(scratch: &Path, limits: Limits) -> Hand {
    Hand::new(vec![dir(scratch, "/", Access::Scratch)], limits).await
}

fn limits(disk_bytes: u64, files: u64) -> Limits {
    Limits {
        disk_bytes,
        files,
        ..Limits::default()
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}

const MIB: u64 = 1024 * 1024;

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
