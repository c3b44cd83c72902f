//! Host and client over real sockets on loopback, over ipc, and within the
//! process. Nothing sleeps to wait: states and counters are awaited.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bounds;
mod client;
mod local;
mod server;
mod strangers;
mod support;
