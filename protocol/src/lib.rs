//! The wire protocol of Skep, version 1: what a client and a host say to each
//! other, as plain data and as MessagePack bytes.
//!
//! This crate owns every name that is seen on the wire: operations, events,
//! outcomes, limits and error codes. It does no I/O and knows no runtime, no
//! socket and no engine. PROTOCOL.md tells the same to people.
//!
//! - [`codec`] turns bytes into an [`Envelope`](codec::Envelope) and back, with
//!   every cap applied before anything is allocated.
//! - [`op`] has one type per operation, [`event`] one per event.
//! - [`spec`], [`limits`], [`info`] and [`outcome`] are what they speak about.
//! - [`receipt`] is the record of a run, [`path`] what its files may be called.
//! - [`error`] has the codes that a refusal carries, [`text`] what of its words
//!   is not to be printed as it is.
#![warn(missing_docs)]

pub mod codec;
pub mod error;
pub mod event;
pub mod id;
pub mod info;
pub mod limits;
pub mod op;
pub mod outcome;
pub mod path;
pub mod receipt;
pub mod spec;
pub mod text;

pub use error::{ErrorCode, ErrorDetails, WireError};
pub use id::{AgentId, AgentName, Digest, RequestId};
pub use info::{AgentInfo, AgentState, Enforced, Enforcement, Usage};
pub use limits::{LimitName, Limits, LimitsAsk};
pub use outcome::{Outcome, Trap};
pub use receipt::Receipt;
pub use spec::{AgentSpec, RunnerKind};

/// The version of the protocol that this crate speaks.
pub const VERSION: u64 = 1;

/// The largest payload of a request, reply or event, in bytes (10 MiB).
pub const MAX_PAYLOAD: usize = 10 * 1024 * 1024;

/// How deep arrays and maps may nest in a payload.
pub const MAX_NESTING: usize = 32;

/// How many values one request may hold, the keys of maps among them. It stops
/// the request of a few megabytes that decodes into gigabytes of empty strings.
pub const MAX_VALUES: usize = 65_536;

/// How many values one reply or event may hold. A payload full of the shortest
/// log records has 1.5 million; what has more is not of a host.
pub const MAX_REPLY_VALUES: usize = 2 * 1024 * 1024;

/// The largest chunk that `component.put` takes and `agent.file` gives, in bytes
/// (1 MiB).
pub const MAX_CHUNK: usize = 1024 * 1024;

/// The longest piece of a line that one log record carries, in bytes (16 KiB).
pub const MAX_RECORD: usize = 16 * 1024;
