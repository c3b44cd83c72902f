//! The client's side: a connection that outlives its sockets, and what is
//! received over it.

mod backoff;
mod config;
mod connection;
mod control;
mod events;
mod hub;
mod link;
mod mailbox;
mod stats;
mod table;

pub use config::ConnectionConfig;
pub use connection::{Connection, ConnectionState};
pub use hub::Subscription;
pub use mailbox::Event;
pub use stats::ConnectionStats;
pub use table::RequestError;

pub(crate) use hub::Hub;
pub(crate) use stats::Counters;
pub(crate) use table::{Serial, Table, Ticket};
