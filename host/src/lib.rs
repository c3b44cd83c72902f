//! The host of Skep: runs agents that nobody has to trust.
//!
//! [`Host::start`] takes a checked [`Config`](config::Config) and a
//! [`Wire`](skep_transport::Wire), and answers what comes over it until it is told to end. The path
//! of an agent through the modules: [`server`] takes its payload, [`dispatch`]
//! decodes it, [`op`] carries it out, [`agent`] drives it, a [`runner`] runs
//! it, [`stdio`] carries its output to its [`log`], from where it is published
//! and read again.
//!
//! Which module may know which is told in ARCHITECTURE.md.

pub mod agent;
pub mod allocator;
pub mod audit;
pub mod below;
pub mod clock;
pub mod components;
pub mod config;
pub mod core;
pub mod dispatch;
pub mod health;
pub mod helper;
mod host;
pub mod inputs;
pub mod kept;
pub mod log;
pub mod op;
mod opening;
pub mod past;
pub mod paths;
pub mod registry;
pub mod replies;
pub mod retention;
pub mod runner;
pub mod scratch;
pub mod server;
pub mod state_dir;
pub mod stdio;
pub mod store;
pub mod tally;

pub use crate::core::Endpoints;
pub use crate::host::{Host, Purpose, StartError};

/// Names a failure of ours, and writes its cause to the log under that name:
/// a reply or an outcome bears the name alone.
#[must_use]
pub(crate) fn incident(cause: &str) -> String {
    let incident = uuid::Uuid::new_v4().to_string();
    tracing::error!(%incident, cause, "an incident");
    incident
}
