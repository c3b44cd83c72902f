//! The command `skep`.
#![expect(
    clippy::print_stderr,
    reason = "a command tells what went wrong on stderr"
)]

use std::process::ExitCode;

use skep_host::runner::native::SHIM_ARG;
use skep_host::runner::native::shim::shim_main;

mod build;
mod cli;

fn main() -> ExitCode {
    // Before anything else: a shim must have one thread and nothing open.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == SHIM_ARG)
    {
        shim_main();
    }
    cli::main()
}
