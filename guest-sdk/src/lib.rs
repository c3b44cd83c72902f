//! Write agents for Skep in ordinary Rust.
//!
//! An agent is a program with a plain `fn main()`: its arguments, environment,
//! files and standard streams are those of `std`. This crate adds what a Skep
//! host offers beyond them:
//!
//! - [`task`] says what the agent was asked to do,
//! - [`Progress`] tells those who watch how far it has come,
//! - [`stop_requested`] says that it is time to finish,
//! - [`exit`] ends it with any exit code.
//!
//! ```no_run
//! use skep_guest::Progress;
//!
//! fn main() {
//!     let task = skep_guest::task();
//!     let words: Vec<&str> = task.task.split_whitespace().collect();
//!     for (done, word) in words.iter().enumerate() {
//!         if skep_guest::stop_requested() {
//!             skep_guest::exit(3);
//!         }
//!         println!("{word}");
//!         Progress::stage("read")
//!             .step(done as u64 + 1)
//!             .of(words.len() as u64)
//!             .report();
//!     }
//! }
//! ```
//!
//! # What an agent imports
//! A component imports only what it calls. One that calls neither
//! [`stop_requested`] nor [`exit`] doesn't import `skep:agent/control`, so its
//! host knows that it cannot be asked to stop, and ends it at once instead.
//!
//! # Without a host
//! Built for anything but WebAssembly, for ordinary tests or to run an agent by
//! hand, the same functions stand on their own: [`task`] reads `SKEP_NAME`,
//! `SKEP_TASK`, `SKEP_CONTEXT`, `SKEP_SYSTEM_PROMPT` and `SKEP_MODEL`, progress
//! goes to stderr, [`stop_requested`] is `false`, and [`exit`] ends the process.

#[cfg_attr(target_family = "wasm", path = "wasm.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "native.rs")]
mod host;
mod progress;
mod task;

pub use progress::{Preview, Progress};
pub use task::{Task, task};

use std::io::Write;

/// Whether the host has asked this agent to stop.
///
/// Once `true`, it stays `true`. The agent then has the grace that its host
/// gives (5 seconds unless asked otherwise) to finish and return. The call is
/// cheap, yet not free: once per unit of work is right, once per byte is not.
///
/// Without a host it is `false`.
pub fn stop_requested() -> bool {
    host::stop_requested()
}

/// Ends the agent with `code`, after flushing stdout.
///
/// `std::process::exit` cannot do this: with WASI 0.2 it tells the host only
/// success or failure, so every code but 0 arrives as 1. As with that function,
/// no destructors run.
pub fn exit(code: u8) -> ! {
    // The host ends the instance inside the call, so nobody else would flush.
    // A closed stdout is no reason to lose the exit code.
    let _ = std::io::stdout().flush();
    host::exit(code)
}
