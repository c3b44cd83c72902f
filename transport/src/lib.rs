//! Everything ZeroMQ in Skep: the sockets of a host and the connection of a
//! client. It moves opaque payloads; of the protocol it knows the id of an
//! envelope and the cap of a payload, nothing else. The only crate that names
//! `zeromq`.
//!
//! # Host
//! ```no_run
//! # async fn host() -> Result<(), Box<dyn std::error::Error>> {
//! use skep_transport::{ServerConfig, serve};
//! let config = ServerConfig::new(
//!     "tcp://127.0.0.1:5555".parse()?,
//!     Some("tcp://127.0.0.1:5556".parse()?),
//! );
//! let (mut wire, sockets) = serve(config)?;
//! while let Some(message) = wire.inbox.recv().await {
//!     match message.payload {
//!         Ok(payload) => message.peer.reply(payload),
//!         Err(framing) => message.peer.reply(framing.to_string()),
//!     }
//!     wire.publisher.try_publish("status.1", "answered");
//! }
//! sockets.close().await;
//! # Ok(()) }
//! ```
//! [`serve`] binds and starts a thread for each socket, [`Wire`] is what a host
//! works with, [`Sockets`] ends it. A host in the client's own process gets its
//! wire from [`local`].
//!
//! # Client
//! [`Connection::connect`] returns at once and keeps itself connected;
//! [`Connection::request`] finds the reply by its id; [`Connection::subscribe`]
//! gives events by the prefix of their topic.
//!
//! # What it costs and holds
//! Each socket has one thread with a current-thread runtime. Every queue has a
//! bound, told beside the field that sets it: [`ServerConfig`] and
//! [`ConnectionConfig`]. At the bound, requests wait, replies cost their peer
//! its connection, events are dropped and counted.
//!
//! # What stands before it
//! zeromq believes what it reads: a frame header that claims 2^40 bytes aborts the
//! process, and messages of endless frames and endless subscriptions have no bound. So
//! a gate accepts the connections, and passes on to zeromq what keeps to its bounds.
//! It does not ask who connects: listen on loopback or ipc ([`Endpoint::is_local`]).

mod budget;
mod client;
mod endpoint;
mod events;
mod framing;
mod gate;
mod lanes;
mod listener;
mod local;
mod publisher;
mod replies;
mod router;
mod server;
mod stats;
mod thread;
mod wire;

pub use client::{
    Connection, ConnectionConfig, ConnectionState, ConnectionStats, Event, RequestError,
    Subscription,
};
pub use endpoint::{Endpoint, EndpointError, Host};
pub use framing::FramingError;
pub use listener::BindError;
pub use local::local;
pub use publisher::Publisher;
pub use server::{ServerConfig, Sockets, serve};
pub use stats::{Meter, ServerStats};
pub use wire::{Inbound, Inbox, Peer, Wire};
