//! The command `skep`.

use std::process::ExitCode;

mod build;
mod cli;

/// A host frees what thousands of agents had, in pieces of all sizes. The C
/// library's allocator kept 40 MiB of that after two thousand agents, and up to a
/// gigabyte after many long logs; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything else: a helper must have one thread and nothing open.
    skep_host::helper::serve_if_asked();
    cli::main()
}
