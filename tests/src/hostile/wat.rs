//! Guests as text.

use serde_bytes::ByteBuf;
use skep_client::protocol::{AgentName, AgentSpec};
use skep_protocol::spec::ComponentRef;

/// Binary WebAssembly of a text.
///
/// # Panics
/// If it is none.
pub(super) fn parse(text: &str) -> Vec<u8> {
    match wat::parse_str(text) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{error}"),
    }
}

/// A spec that runs these bytes.
pub(super) fn of_bytes(bytes: Vec<u8>) -> AgentSpec {
    let mut spec = AgentSpec::named(AgentName::from_lossy("hostile"));
    spec.component = Some(ComponentRef::Data(ByteBuf::from(bytes)));
    spec
}

/// A component whose `run` has this body, with more of the same core module.
#[must_use]
pub fn command(body: &str, module: &str) -> AgentSpec {
    commanding("", body, module)
}

/// The same, with something before the module.
pub(super) fn commanding(before: &str, body: &str, module: &str) -> AgentSpec {
    of_bytes(parse(&format!(
        r#"(component
            {before}
            (core module $main
                (func $run (export "run") (result i32) {body})
                {module})
            (core instance $i (instantiate $main))
            {RUN})"#
    )))
}

/// What makes a command of the core instance `$i`.
const RUN: &str = r#"
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $e (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $e))"#;

/// A component that calls the host: what it imports; its core functions, made
/// by `lower` and named there and in `given`; and the body of `run`, which
/// comes with imports of its own and a memory of so many pages.
pub(super) fn calling(
    imports: &str,
    lower: &str,
    given: &[&str],
    pages: u32,
    module: &str,
) -> AgentSpec {
    let given: String = given
        .iter()
        .map(|name| format!("(export \"{name}\" (func ${name}))"))
        .collect();
    of_bytes(parse(&format!(
        r#"(component
            {imports}
            (core module $libc
                (memory (export "memory") {pages})
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $libc (instantiate $libc))
            {lower}
            (core module $main {module})
            (core instance $i (instantiate $main (with "" (instance
                (export "memory" (memory $libc "memory")) {given}))))
            {RUN})"#
    )))
}

/// The import of `skep:agent/progress` as `$progress`, for a component.
pub const PROGRESS: &str = include_str!("../../../host/src/runner/wasm/tests/progress.wat");

/// The imports of functions of WASI 0.1 that change files, for a
/// [`core_module`], each of which is called by its short name: `(call $rename …)`.
///
/// # Panics
/// If there is none of such a name.
#[must_use]
pub fn preview1(names: &[&str]) -> String {
    let import = |short: &&str| {
        let (name, params) = match *short {
            "rename" => ("path_rename", "i32 i32 i32 i32 i32 i32"),
            "link" => ("path_link", "i32 i32 i32 i32 i32 i32 i32"),
            "unlink" => ("path_unlink_file", "i32 i32 i32"),
            "mkdir" => ("path_create_directory", "i32 i32 i32"),
            "symlink" => ("path_symlink", "i32 i32 i32 i32 i32"),
            "open" => ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
            "times" => ("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32"),
            "resize" => ("fd_filestat_set_size", "i32 i64"),
            other => panic!("no function of WASI 0.1 is called {other} here"),
        };
        format!(
            "(import \"wasi_snapshot_preview1\" \"{name}\" \
             (func ${short} (param {params}) (result i32)))"
        )
    };
    names.iter().map(import).collect()
}

/// A program of WASI 0.1: its memory of one page, with these bytes from 1024
/// on, and the body of `_start`. `$write` writes so many bytes from an address
/// to stdout.
#[must_use]
pub fn core_module(imports: &str, data: &[u8], start: &str) -> AgentSpec {
    let data: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    of_bytes(parse(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $fd_write (param i32 i32 i32 i32) (result i32)))
            {imports}
            (memory (export "memory") 2)
            (data (i32.const 1024) "{data}")
            (func $write (param $from i32) (param $count i32)
                (loop $more
                    (i32.store (i32.const 0) (local.get $from))
                    (i32.store (i32.const 4) (local.get $count))
                    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
                        (then unreachable))
                    (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
                    (local.set $count (i32.sub (local.get $count) (i32.load (i32.const 8))))
                    (br_if $more (local.get $count))))
            (func (export "_start") {start}))"#
    )))
}
