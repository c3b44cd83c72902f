//! The host's side of any wire: an inbox of requests that know how to be
//! answered, and a publisher. Whether sockets or a client in the same process
//! are at the other end is not visible here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::client::ConnectionState;
use crate::framing::{FramingError, check};
use crate::local::LocalPeer;
use crate::publisher::Publisher;
use crate::replies::SocketPeer;
use crate::stats::{Meter, ServerCounters};

/// What a host needs of the outside world.
#[derive(Debug)]
pub struct Wire {
    /// Requests, as they come.
    pub inbox: Inbox,
    /// Where events go.
    pub publisher: Publisher,
    /// What is counted on the way.
    pub meter: Meter,
}

/// The queue of requests. Bounded in messages and bytes; where it is full,
/// nothing more is read from any peer until there is room, while replies and
/// events still go out.
#[derive(Debug)]
pub struct Inbox {
    queue: mpsc::Receiver<Queued>,
    /// Tells a client in this process that the host is gone.
    gone: Option<watch::Sender<ConnectionState>>,
}

/// One control message.
#[derive(Debug)]
pub struct Inbound {
    /// The payload, or why there is none that could be decoded: the host answers
    /// that with `malformed` or `too_large`.
    pub payload: Result<Bytes, FramingError>,
    /// Who sent it.
    pub peer: Peer,
}

/// Whom to answer. One is given with each message; it is cheap to clone, may be
/// kept for as long as the answer takes, and outlives its connection harmlessly.
#[derive(Debug, Clone)]
pub struct Peer(pub(crate) PeerKind);

#[derive(Debug, Clone)]
pub(crate) enum PeerKind {
    Socket(SocketPeer),
    Local(LocalPeer),
}

impl Peer {
    /// Returns when nobody is left who would read a reply, as far as that is
    /// noticed: under a flood of connections it may not be. Never returns for a
    /// client in this process.
    pub async fn gone(&self) {
        match &self.0 {
            PeerKind::Socket(peer) => peer.gone().await,
            PeerKind::Local(_) => std::future::pending().await,
        }
    }

    /// Sends a reply. Never blocks and never fails: a peer that has gone gets
    /// nothing, and one that leaves so many replies unread that a bound is
    /// passed loses its connection (see [`ServerConfig`](crate::ServerConfig)).
    /// Both are counted. In both cases its client repeats the request under the
    /// old id and is given the answer that the host remembers.
    pub fn reply(&self, payload: impl Into<Bytes>) {
        match &self.0 {
            PeerKind::Socket(peer) => peer.reply(payload.into()),
            PeerKind::Local(peer) => peer.reply(payload.into()),
        }
    }
}

impl Inbox {
    /// The next message; `None` once the wire is closed and the queue is empty.
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<Inbound> {
        self.queue.recv().await.map(|queued| queued.inbound)
    }

    /// A message that is there already.
    pub fn try_recv(&mut self) -> Option<Inbound> {
        self.queue.try_recv().ok().map(|queued| queued.inbound)
    }
}

impl Inbox {
    pub(crate) fn on_drop(&mut self, gone: watch::Sender<ConnectionState>) {
        self.gone = Some(gone);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(gone) = &self.gone {
            gone.send_replace(ConnectionState::Disconnected);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queued {
    inbound: Inbound,
    /// Given back when the host takes the message.
    _room: OwnedSemaphorePermit,
}

/// The other end of an [`Inbox`].
#[derive(Debug, Clone)]
pub(crate) struct InboxSender {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    max_bytes: u32,
    counters: Arc<ServerCounters>,
}

/// The inbox is gone: the host has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InboxGone;

pub(crate) fn inbox(
    max_messages: usize,
    max_bytes: usize,
    counters: Arc<ServerCounters>,
) -> (InboxSender, Inbox) {
    // At the bound in messages, `send` waits; so it does at the bound in bytes.
    let (sender, receiver) = mpsc::channel(max_messages.max(1));
    let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
    let sender = InboxSender {
        queue: sender,
        room: Arc::new(Semaphore::new(max_bytes as usize)),
        max_bytes,
        counters,
    };
    let inbox = Inbox {
        queue: receiver,
        gone: None,
    };
    (sender, inbox)
}

impl InboxSender {
    /// Queues a message; waits for room. Cancelling it drops the message.
    pub(crate) async fn send(&self, inbound: Inbound) -> Result<(), InboxGone> {
        let malformed = inbound.payload.is_err();
        let bytes = inbound.payload.as_ref().map_or(0, Bytes::len);
        // A message over the whole bound takes all of it, and waits for that.
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(share)
            .await
            .map_err(|_| InboxGone)?;
        let place = self.queue.reserve().await.map_err(|_| InboxGone)?;
        // Counted before it can be seen, so that who has it finds it counted.
        self.counters.messages_in.one();
        self.counters.bytes_in.add(bytes);
        if malformed {
            self.counters.malformed.one();
        }
        place.send(Queued {
            inbound,
            _room: room,
        });
        Ok(())
    }

    /// Queues a message of a client in this process.
    pub(crate) async fn send_local(&self, payload: &Bytes, peer: Peer) -> Result<(), InboxGone> {
        let payload = check(payload);
        self.send(Inbound { payload, peer }).await
    }
}
