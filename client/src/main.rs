//! The command `skep`.

use std::process::ExitCode;

mod build;
mod cli;

/// A host frees what thousands of agents had, in pieces of all sizes. The C
/// library's allocator kept 40 MiB of that after two thousand agents, and up to a
/// gigabyte after many long logs; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is free is given back within a second, instead of ten, as more is asked for, and
/// by a host also by itself: of messages that a thousand peers begin and do not end, four
/// times as much was kept as they may hold.
#[expect(unsafe_code, reason = "jemalloc reads its options from this name")]
// SAFETY: nothing else has the name; it is a pointer to a string that ends with 0, as
// jemalloc wants.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 20] = b"dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    // Before anything else: a helper must have one thread and nothing open.
    skep_host::helper::serve_if_asked();
    cli::main()
}
