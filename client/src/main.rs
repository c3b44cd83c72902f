//! The command `skep`.
#![expect(
    clippy::print_stderr,
    reason = "a command tells what went wrong on stderr"
)]

use std::process::ExitCode;

mod build;
mod cli;

fn main() -> ExitCode {
    // Before anything else: a helper must have one thread and nothing open.
    skep_host::helper::serve_if_asked();
    cli::main()
}
