//! The operations: what each does, in terms of the host's parts. They know
//! nothing of envelopes and replies; [`dispatch`](crate::dispatch) does.

mod admissible;
pub mod agents;
mod assemble;
pub mod check;
pub(crate) mod comeback;
pub mod component;
pub mod control;
pub mod files;
pub mod gc;
pub mod host;
pub(crate) mod life;
pub mod output;
mod pages;
pub mod spawn;

use skep_protocol::{AgentId, AgentState, Digest, LimitName};

use crate::agent::admission::Full;
use crate::agent::handle::Declined;
use crate::agent::spec::Denied;
use crate::components::StoreError;
use crate::runner::native::Refused as ProgramRefused;
use crate::runner::wasm::{Failure, Refusal};
use crate::store::Unavailable;

/// Why an operation was refused or failed. Each says who can mend it, by the
/// error code that dispatch gives it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no agent {0} here: it was forgotten, or never was")]
    NoAgent(AgentId),
    #[error(
        "there is no component {0} here: upload it with component.put, or spawn it with its data"
    )]
    NoComponent(Digest),
    #[error("the input `{path}` is {digest}, and that is not here: upload it with component.put")]
    NoInput { path: String, digest: Digest },
    #[error(
        "the inputs have {needed} bytes in all, and the limit disk_bytes is {limit}: ask for more"
    )]
    InputsTooLarge { needed: u64, limit: u64 },
    #[error("the agent keeps no files here: {0}")]
    NoFiles(&'static str),
    #[error("`path`: {message}")]
    NoPath { message: String },
    #[error("the agent is {state}: {message}")]
    WrongState {
        state: AgentState,
        message: &'static str,
    },
    #[error("`{field}`: {message}")]
    Invalid {
        field: &'static str,
        message: String,
    },
    #[error("{0} is not supported by this build")]
    Unsupported(&'static str),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}", .0.message)]
    Component(Box<Refusal>),
    #[error("the component has {asked} bytes, and the limit component_bytes is {ceiling}")]
    ComponentTooLarge { asked: u64, ceiling: u64 },
    #[error(transparent)]
    Full(#[from] Full),
    #[error("native agents are off on this host: its operator sets [native] enabled")]
    NativeOff,
    #[error(transparent)]
    Program(#[from] ProgramRefused),
    #[error("the host takes no more agents, since it is to end: spawn on another, or later")]
    ShuttingDown,
    #[error(
        "the host is shutting down, and leaves the agent to the one that comes after: ask that one"
    )]
    LeftBehind,
    #[error("the host cannot make a scratch directory for the agent; its log says why")]
    Storage(#[source] std::io::Error),
    #[error("the host cannot read the agent's log from its disk; its own log says why")]
    Log(#[source] std::io::Error),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the host cannot look into the agent's files; its log says why")]
    Files(#[source] std::io::Error),
    #[error("a part of the host failed: {0}")]
    Internal(&'static str),
}

impl From<Declined> for Error {
    fn from(declined: Declined) -> Self {
        match declined {
            Declined::WrongState { state, message } => Self::WrongState { state, message },
            Declined::Unable(feature) => Self::Unsupported(feature),
            Declined::OverCeiling { asked, ceiling } => Self::Denied(Denied::OverCeiling {
                limit: LimitName::Fuel,
                asked,
                ceiling,
            }),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::Fault { .. } => {
                Self::Internal("a component could not be checked; the host's log says why")
            }
            Failure::Unwanted => Self::ShuttingDown,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        // It is the largest by far, and would be carried by every result.
        Self::Component(Box::new(refusal))
    }
}

#[cfg(test)]
mod tests;
