//! Writing in every shape.

use super::wat::core_module;
use super::{Case, Ends, MIB};
use crate::guests::probe;

/// A piece that is written again and again.
const PIECE: usize = 16 * 1024;
const EMPTY_LINES: usize = 64 * PIECE;

pub(super) fn cases() -> Vec<Case> {
    let case = |what, spec, stdout| {
        let mut case = Case::new("output", what, spec, Ends::Exited(0)).writing(stdout);
        // A record counts 64 bytes besides its own.
        case.spec.limits.output_history_bytes = Some(128 * MIB);
        case
    };
    let exact = |bytes: &[u8]| {
        let start = format!("(call $write (i32.const 1024) (i32.const {}))", bytes.len());
        (core_module("", bytes, &start), bytes.to_vec())
    };
    let (invalid, invalid_bytes) = exact(b"\xff\xfe\n\xc3(\n\xf0\x9f\x98\0\n\x80");
    let split = core_module(
        "",
        "é🐝\n".as_bytes(),
        &(0..7)
            .map(|at| format!("(call $write (i32.const {}) (i32.const 1))", 1024 + at))
            .collect::<String>(),
    );
    vec![
        case(
            "without a newline",
            probe(&["flood", "1000000"]),
            vec![b'x'; 1_000_000],
        ),
        case(
            "one line of 10 MB",
            again(b'x', 610, b"\n"),
            [vec![b'x'; 610 * PIECE], b"\n".to_vec()].concat(),
        ),
        case(
            "a million empty lines",
            again(b'\n', 64, b""),
            vec![b'\n'; EMPTY_LINES],
        ),
        case("invalid UTF-8", invalid, invalid_bytes),
        case("characters in pieces", split, "é🐝\n".as_bytes().to_vec()),
        exits_after_its_last_write(),
    ]
}

/// Writes pieces of one byte, `times` times, then what ends it.
fn again(byte: u8, times: u32, end: &[u8]) -> skep_client::protocol::AgentSpec {
    let start = format!(
        "(local $left i32) (local.set $left (i32.const {times})) \
         (memory.fill (i32.const 4096) (i32.const {byte}) (i32.const {PIECE})) \
         (loop $l (call $write (i32.const 4096) (i32.const {PIECE})) \
            (local.set $left (i32.sub (local.get $left) (i32.const 1))) \
            (br_if $l (local.get $left))) \
         (if (i32.const {0}) (then (call $write (i32.const 1024) (i32.const {0}))))",
        end.len()
    );
    core_module("", end, &start)
}

fn exits_after_its_last_write() -> Case {
    let line = b"these are the last words of somebody in a hurry\n";
    let words = format!("(call $write (i32.const 1024) (i32.const {}))", line.len());
    let start = format!("{} (call $exit (i32.const 1))", words.repeat(100));
    let exit = "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))";
    let spec = core_module(exit, line, &start);
    Case::new(
        "output",
        "ends right after its last write",
        spec,
        Ends::Exited(1),
    )
    .writing(line.repeat(100))
}
