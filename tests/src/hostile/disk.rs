//! Filling a scratch directory in every way.

use super::wat::core_module;
use super::{Case, Ends, MIB};

/// What a guest of WASI 0.1 is told.
const QUOTA: u32 = 19;
const NO_SPACE: u32 = 51;
/// And what it asks.
const CREATE: u32 = 1;
const DIRECTORY: u32 = 2;

const PIECE: u32 = 65_536;
/// Where the first name is, and the numbered ones.
const NAME: u32 = 1024;
const NUMBER: u32 = 512;

const LOCALS: &str = "(local $n i32) (local $at i32)";

/// Calls that end it with 1 at the first refusal that was expected, and with a
/// trap at any other.
const CALLS: &str = r#"
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory"
        (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size"
        (func $set_size (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (func $done (param $answer i32) (param $expected i32)
        (if (local.get $answer) (then
            (if (i32.eq (local.get $answer) (local.get $expected)) (then (call $exit (i32.const 1))))
            unreachable)))
    (func $close (param $fd i32)
        (if (call $fd_close (local.get $fd)) (then unreachable)))
    ;; The descriptor is left at 16.
    (func $open (param $dir i32) (param $name i32) (param $how i32) (result i32)
        (call $path_open (local.get $dir) (i32.const 0) (local.get $name) (i32.const 4)
            (local.get $how)
            (select (i64.const 0) (i64.const -1) (i32.eq (local.get $how) (i32.const 2)))
            (i64.const -1) (i32.const 0) (i32.const 16)))"#;

pub(super) fn cases() -> Vec<Case> {
    let case = |what, start: &str, ends| {
        let spec = core_module(CALLS, b"name", &format!("{LOCALS} {start}"));
        let mut case = Case::new("disk", what, spec, ends);
        case.spec.grants.scratch = true;
        case.guarding()
    };
    let disk = |mut case: Case, bytes| {
        case.spec.limits.disk_bytes = Some(bytes);
        case
    };
    let files = |mut case: Case, count| {
        case.spec.limits.files = Some(count);
        case
    };
    let (refused, fits) = (Ends::Exited(1), Ends::Exited(0));
    vec![
        disk(case("a write of 1 GiB", &write(16_384), refused), 4 * MIB),
        disk(case("a write of 4 MiB", &write(64), fits), 4 * MIB),
        disk(case("a size of 1 EiB", &size(1 << 60), refused), 4 * MIB),
        disk(
            case("one byte too many", &size(4 * MIB + 1), refused),
            4 * MIB,
        ),
        disk(case("a size of 4 MiB", &size(4 * MIB), fits), 4 * MIB),
        case("100,000 files", &many(100_000, true, NO_SPACE), refused),
        files(
            case("one file too many", &many(501, true, NO_SPACE), refused),
            500,
        ),
        files(case("500 files", &many(500, true, NO_SPACE), fits), 500),
        files(case("1,001 deep", &deep(1001), refused), 1000),
        files(case("1,000 deep", &deep(1000), fits), 1000),
        case("a file too many is open", &many(65, false, QUOTA), refused),
        case("64 files are open", &many(64, false, QUOTA), fits),
    ]
}

/// So many times what is done with `$n`, from 0 on.
fn times(count: u32, body: &str) -> String {
    format!(
        "(local.set $at (i32.const 3)) \
         (loop $l {body} (local.set $n (i32.add (local.get $n) (i32.const 1))) \
            (br_if $l (i32.lt_u (local.get $n) (i32.const {count}))))"
    )
}

fn write(pieces: u32) -> String {
    let open = format!(
        "(if (i32.eqz (local.get $n)) (then {}))",
        done(&open(NAME), NO_SPACE)
    );
    let piece = format!(
        "(i32.store (i32.const 0) (i32.const {PIECE})) \
         (i32.store (i32.const 4) (i32.const {PIECE})) \
         {} (if (i32.ne (i32.load (i32.const 8)) (i32.const {PIECE})) (then unreachable))",
        done(
            "(call $fd_write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8))",
            NO_SPACE
        )
    );
    times(pieces, &format!("{open} {piece}"))
}

fn size(bytes: u64) -> String {
    let set = format!("(call $set_size (i32.load (i32.const 16)) (i64.const {bytes}))");
    format!("{} {}", done(&open(NAME), NO_SPACE), done(&set, NO_SPACE))
}

/// Files whose names are numbers of four bytes.
fn many(count: u32, closes: bool, refusal: u32) -> String {
    let close = if closes {
        "(call $close (i32.load (i32.const 16)))"
    } else {
        ""
    };
    // Six bits in each byte, from '0' on: no slash is among them.
    let name: String = (0..4)
        .map(|at| {
            format!(
                "(i32.store8 (i32.const {}) (i32.add (i32.const 48) (i32.and (i32.const 63) \
                 (i32.shr_u (local.get $n) (i32.const {})))))",
                NUMBER + at,
                at * 6
            )
        })
        .collect();
    times(
        count,
        &format!("{name} {} {close}", done(&open(NUMBER), refusal)),
    )
}

fn deep(levels: u32) -> String {
    let make = format!("(call $mkdir (local.get $at) (i32.const {NAME}) (i32.const 4))");
    let enter = format!(
        "(call $done (call $open (local.get $at) (i32.const {NAME}) (i32.const {DIRECTORY})) \
         (i32.const {NO_SPACE}))"
    );
    times(
        levels,
        &format!(
            "{} {enter} (if (i32.ne (local.get $at) (i32.const 3)) \
             (then (call $close (local.get $at)))) \
             (local.set $at (i32.load (i32.const 16)))",
            done(&make, NO_SPACE)
        ),
    )
}

fn open(name: u32) -> String {
    format!("(call $open (i32.const 3) (i32.const {name}) (i32.const {CREATE}))")
}

fn done(call: &str, refusal: u32) -> String {
    format!("(call $done {call} (i32.const {refusal}))")
}
