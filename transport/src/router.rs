//! The control thread: ROUTER on one side, the inbox and the reply queue on the
//! other. Never decodes a payload and never waits for a peer.
//!
//! Receiving, replying and watching are polled together, so that a full inbox
//! stops only receiving. A ROUTER send is never awaited: with a full queue and
//! a half-closed peer that deadlocks, so it is tried, and the peer is cut where
//! it would wait.

use std::cell::RefCell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeromq::util::PeerIdentity;
use zeromq::{
    MultiPeerBackend, RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent,
    SocketRecv, SocketSend, ZmqMessage,
};

use crate::framing;
use crate::gate::{self, Door, Gate};
use crate::listener::Listener;
use crate::replies::{Account, Accounts, Reply, ReplyQueue};
use crate::server::ServerConfig;
use crate::stats::ServerCounters;
use crate::thread::{self, Closing, SocketThread};
use crate::wire::{Inbound, InboxSender, Peer, PeerKind};

/// Messages handled before others on the thread have their turn.
const BATCH: usize = 32;
/// How long a broken socket rests before it is tried again.
pub(crate) const REST: Duration = Duration::from_millis(100);

/// What the control thread owns.
#[derive(Debug)]
pub(crate) struct Control {
    listener: Listener,
    door: Arc<Door>,
    inbox: InboxSender,
    queue: Arc<ReplyQueue>,
    replies: mpsc::Receiver<Reply>,
    max_connections: usize,
    stuck_after: Duration,
    flush: Duration,
}

impl Control {
    pub(crate) fn new(
        listener: Listener,
        door: Arc<Door>,
        inbox: InboxSender,
        queue: Arc<ReplyQueue>,
        replies: mpsc::Receiver<Reply>,
        config: &ServerConfig,
    ) -> Self {
        Self {
            listener,
            door,
            inbox,
            queue,
            replies,
            max_connections: config.max_connections,
            stuck_after: config.stuck_after,
            flush: config.flush,
        }
    }

    pub(crate) fn start(mut self) -> std::io::Result<SocketThread> {
        SocketThread::spawn("skep-control", move |closing| {
            let counters = Arc::clone(&self.queue.counters);
            sessions(&counters, "control", |runtime| {
                thread::run(runtime, self.session(closing.clone()))
            });
        })
    }

    async fn session(&mut self, mut closing: Closing) -> Result<(), zeromq::ZmqError> {
        let mut router = RouterSocket::new();
        let monitor = router.monitor();
        let (gate, behind_it) = Gate::new(
            &self.listener,
            &self.door,
            &gate::Kind::Control,
            self.max_connections,
            &self.queue.counters,
        )?;
        router.bind_listener(behind_it).await?;
        let backend = router.backend();
        let (sender, mut receiver) = router.split();
        let mut outlet = Outlet {
            sender,
            backend,
            queue: Arc::clone(&self.queue),
        };
        let accounts = RefCell::new(Accounts::new(Arc::clone(&self.queue)));
        let left = |identity: &[u8]| accounts.borrow().gone(identity);
        tokio::select! {
            () = receive(&mut receiver, &self.inbox, &accounts) => {}
            () = outlet.send_all(&mut self.replies) => {}
            () = watch(monitor, &self.queue.counters, left) => {}
            never = relieve(&self.queue, &gate, self.stuck_after) => match never {},
            never = gate.accept() => match never {},
            () = closing.begun() => {}
        }
        gate.end_strangers();
        let flushed = outlet.flush(&mut self.replies, receiver);
        if tokio::time::timeout(self.flush, flushed).await.is_err() {
            tracing::warn!("closed before every connection had its replies");
        }
        Ok(())
    }
}

/// Runs sessions until one ends because the host closes.
pub(crate) fn sessions(
    counters: &ServerCounters,
    socket: &str,
    mut session: impl FnMut(tokio::runtime::Runtime) -> Result<(), zeromq::ZmqError>,
) {
    loop {
        let runtime = match thread::runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Without descriptors nothing can be served; some may come back.
                tracing::error!(socket, %error, "no runtime for a socket");
                std::thread::park_timeout(REST);
                continue;
            }
        };
        // No way is known to make zeromq's reader panic. Should there be one, its
        // connections end and the host goes on: what is ours stays whole.
        match catch_unwind(AssertUnwindSafe(|| session(runtime))) {
            Err(_told_by_the_hook) => {
                counters.resets.one();
                tracing::error!(socket, "a session panicked: its connections are ended");
            }
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(socket, %error, "a socket could not be set up");
                std::thread::park_timeout(REST);
            }
        }
    }
}

/// Moves messages into the inbox. Never returns.
async fn receive(receiver: &mut RouterRecvHalf, inbox: &InboxSender, accounts: &RefCell<Accounts>) {
    let mut since_yield = 0;
    loop {
        let message = match receiver.recv().await {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "receiving failed");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Some(framed) = framing::split(message.into_vecdeque()) else {
            continue;
        };
        let peer = accounts
            .borrow_mut()
            .peer(&framed.identity, framed.delimiter);
        let inbound = Inbound {
            payload: framed.payload,
            peer: Peer(PeerKind::Socket(peer)),
        };
        if inbox.send(inbound).await.is_err() {
            // The host no longer listens, but may still be answering.
            std::future::pending::<()>().await;
        }
        since_yield += 1;
        if since_yield == BATCH {
            since_yield = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The sending half of ROUTER, and what cuts its peers.
struct Outlet {
    sender: RouterSendHalf,
    backend: Arc<dyn MultiPeerBackend>,
    queue: Arc<ReplyQueue>,
}

impl Outlet {
    /// Sends replies and cuts peers as they come. No reply is lost when this
    /// is cancelled: it is cancelled only where it waits, with nothing in hand.
    async fn send_all(&mut self, replies: &mut mpsc::Receiver<Reply>) {
        let queue = Arc::clone(&self.queue);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                // Never ends: `queue` holds a sender.
                _ = replies.recv_many(&mut batch, BATCH) => {
                    for reply in batch.drain(..) {
                        self.send(reply);
                    }
                    tokio::task::yield_now().await;
                }
                condemned = queue.condemned() => {
                    for account in condemned {
                        self.disconnect(&account);
                    }
                }
            }
        }
    }

    fn send(&mut self, reply: Reply) {
        let counters = &self.queue.counters;
        let Reply {
            account,
            delimiter,
            payload,
        } = reply;
        if account.is_cut() {
            return counters.replies_dropped.one();
        }
        let len = payload.len();
        // Never an empty message, which panics zeromq's writer: three frames or two.
        let mut message = ZmqMessage::from(payload);
        if delimiter {
            message.push_front(Bytes::new());
        }
        message.push_front(account.identity.clone());
        match self.sender.send(message).now_or_never() {
            Some(Ok(())) => {
                counters.messages_out.one();
                counters.bytes_out.add(len);
            }
            Some(Err(_gone)) => counters.replies_undeliverable.one(),
            None => {
                self.queue.cut(&account);
                self.disconnect(&account);
            }
        }
    }

    /// Ends a connection. What zeromq holds for it stays until its writer gets on,
    /// which is for as long as the gate bears a peer that takes nothing.
    fn disconnect(&self, account: &Account) {
        match PeerIdentity::try_from(account.identity.clone()) {
            Ok(identity) => self.backend.peer_disconnected(&identity),
            Err(error) => tracing::error!(%error, "an identity that cannot be"),
        }
        tracing::warn!("a peer that does not read its replies was cut");
    }

    /// Sends what is queued and waits until zeromq has written it.
    async fn flush(mut self, replies: &mut mpsc::Receiver<Reply>, receiver: RouterRecvHalf) {
        let total = Arc::clone(&self.queue.total);
        // What comes from now on is counted as undeliverable.
        replies.close();
        while let Ok(reply) = replies.try_recv() {
            self.send(reply);
            tokio::task::yield_now().await;
        }
        while total.items() > 0 {
            total.released().await;
        }
        drop(receiver);
        drop(self);
        thread::quiet().await;
    }
}

/// Counts what zeromq tells of connections.
pub(crate) async fn watch(
    mut monitor: impl futures_util::Stream<Item = SocketEvent> + Unpin,
    counters: &ServerCounters,
    left: impl Fn(&[u8]),
) {
    while let Some(event) = monitor.next().await {
        match event {
            SocketEvent::Accepted(..) => counters.peers_accepted.one(),
            SocketEvent::Disconnected(identity) => {
                counters.peers_left.one();
                left(&Bytes::from(identity));
            }
            SocketEvent::AcceptFailed(error) => {
                counters.handshakes_failed.one();
                tracing::debug!(%error, "a connection failed in its handshake");
            }
            _ => {}
        }
    }
    std::future::pending::<()>().await;
}

/// Ends connections, those first that are behind for longest, where too much is held for
/// peers during the whole of `patience`.
async fn relieve(queue: &ReplyQueue, gate: &Gate, patience: Duration) -> Infallible {
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(patience / 8).await;
        if !queue.total.is_nearly_full() {
            since = Instant::now();
        } else if since.elapsed() >= patience {
            gate.end_slowest(patience);
        }
    }
}
