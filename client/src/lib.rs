//! The client of Skep: starts agents on a host, talks to them, follows what
//! they write, and learns how they end.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use skep_client::protocol::{AgentName, AgentSpec};
//! use skep_client::{Client, ConnectionConfig, FollowOptions, LogItem};
//!
//! let client = Client::connect(ConnectionConfig::new("tcp://127.0.0.1:5555".parse()?));
//! let digest = client.upload(&std::fs::read("hello.wasm")?).await?;
//! let mut spec = AgentSpec::named("hello".parse::<AgentName>()?);
//! spec.component = Some(skep_client::protocol::spec::ComponentRef::Digest(digest));
//! let agent = client.spawn(spec, None).await?;
//! let mut log = client.follow(agent.id, FollowOptions::default());
//! while let Some(item) = log.next().await? {
//!     if let LogItem::Record(record) = item {
//!         println!("{}", String::from_utf8_lossy(&record.data));
//!     }
//! }
//! let ended = client.wait(agent.id, None).await?;
//! println!("{:?}", ended.outcome);
//! # Ok(()) }
//! ```
//!
//! A [`Client`] is cheap to clone and needs a tokio runtime with a timer. Each
//! operation of the protocol is a method; a request without an answer is
//! repeated under its id, so nothing is done twice. [`Follow`] yields an agent's
//! output, every record once and in order, whatever is lost on the way.
#![warn(missing_docs)]

mod absence;
mod agents;
mod asking;
mod client;
mod error;
mod files;
mod follow;
mod poll;
mod seek;
mod upload;
mod watch;

pub use skep_protocol as protocol;
pub use skep_transport::{Connection, ConnectionConfig, ConnectionState, Endpoint, RequestError};

pub use absence::Absence;
pub use agents::AgentFilter;
pub use client::Client;
pub use error::ClientError;
pub use follow::{Follow, FollowOptions, LogItem};
pub use watch::{Watch, WatchEvent};

/// What a call of this library gives.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;
