//! A guest of WASI 0.1 that does to its files what the test says, call by call.

mod quota;
mod reach;

use std::path::Path;

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
