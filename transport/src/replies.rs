//! The way of a reply from the host to the control thread, and what happens to
//! peers that do not read theirs. Owns the accounts; sends nothing itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use skep_protocol::MAX_PAYLOAD;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::stats::ServerCounters;

/// Beyond the bound of all replies together, only peers that hold less than
/// this are still answered, so that those who don't read cannot silence the rest.
const SMALL_PEER: usize = 64 * 1024;

/// What a reply counts besides its bytes, in bytes: zeromq and the allocator take some
/// 0.4 KiB for each.
const COST: usize = 512;

/// A reply on its way to the control thread.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) account: Arc<Account>,
    pub(crate) delimiter: bool,
    /// Bound to the budgets: they are relieved when zeromq has written it.
    pub(crate) payload: Bytes,
}

/// What one connection has not yet read.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) identity: Bytes,
    budget: Arc<Budget>,
    cut: AtomicBool,
    /// The connection has ended.
    gone: CancellationToken,
}

impl Account {
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

/// The sending side of the reply queue, shared by all peers.
#[derive(Debug)]
pub(crate) struct ReplyQueue {
    queue: mpsc::Sender<Reply>,
    /// Everything queued here or in zeromq.
    pub(crate) total: Arc<Budget>,
    max_peer_items: usize,
    max_peer_bytes: usize,
    /// Peers to be cut; each account comes here at most once.
    condemned: Mutex<Vec<Arc<Account>>>,
    condemn: Notify,
    pub(crate) counters: Arc<ServerCounters>,
}

/// A peer at the other end of a socket.
#[derive(Debug, Clone)]
pub(crate) struct SocketPeer {
    pub(crate) account: Arc<Account>,
    pub(crate) delimiter: bool,
    pub(crate) queue: Arc<ReplyQueue>,
}

impl SocketPeer {
    pub(crate) async fn gone(&self) {
        self.account.gone.cancelled().await;
    }

    pub(crate) fn reply(&self, payload: Bytes) {
        let counters = &self.queue.counters;
        let len = payload.len();
        if self.account.is_cut() {
            return counters.replies_dropped.one();
        }
        if len > MAX_PAYLOAD {
            tracing::error!(bytes = len, "a reply over the protocol's cap was not sent");
            return counters.replies_dropped.one();
        }
        let cost = len.saturating_add(COST);
        let Some(own) = self.account.budget.take(cost) else {
            return self.queue.condemn(&self.account);
        };
        let total = &self.queue.total;
        let small = self.account.budget.bytes() <= SMALL_PEER.max(cost);
        let all = match total.take(cost) {
            Some(all) => all,
            None if small => total.take_anyway(cost),
            None => return self.queue.condemn(&self.account),
        };
        let reply = Reply {
            account: Arc::clone(&self.account),
            delimiter: self.delimiter,
            // The account lives with what zeromq holds, else a peer that reads
            // nothing would begin a new one with each request.
            payload: own.bind(payload, (all, Arc::clone(&self.account))),
        };
        match self.queue.queue.try_send(reply) {
            Ok(()) => {}
            // As many replies wait as the queue holds: its peer asks again.
            Err(mpsc::error::TrySendError::Full(_)) => self.queue.condemn(&self.account),
            Err(mpsc::error::TrySendError::Closed(_)) => counters.replies_undeliverable.one(),
        }
    }
}

impl ReplyQueue {
    pub(crate) fn new(
        config: &crate::ServerConfig,
        counters: Arc<ServerCounters>,
    ) -> (Arc<Self>, mpsc::Receiver<Reply>) {
        let (sender, receiver) = mpsc::channel(config.max_replies.max(1));
        let queue = Arc::new(Self {
            queue: sender,
            total: Budget::new(usize::MAX, config.max_reply_bytes),
            max_peer_items: config.max_replies,
            max_peer_bytes: config.max_peer_reply_bytes,
            condemned: Mutex::new(Vec::new()),
            condemn: Notify::new(),
            counters,
        });
        (queue, receiver)
    }

    /// Drops a reply and its peer with it: acknowledged work is never lost in
    /// silence, the client sees the loss of its connection and repeats.
    fn condemn(&self, account: &Arc<Account>) {
        self.counters.replies_dropped.one();
        if !account.cut.swap(true, Ordering::Relaxed) {
            self.counters.peers_cut.one();
            self.condemned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::clone(account));
            self.condemn.notify_one();
        }
    }

    /// The peers to be cut; waits until there are some. Cancel-safe.
    pub(crate) async fn condemned(&self) -> Vec<Arc<Account>> {
        loop {
            let waiting = self.condemn.notified();
            let condemned = std::mem::take(
                &mut *self
                    .condemned
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            if !condemned.is_empty() {
                return condemned;
            }
            waiting.await;
        }
    }

    /// Cuts a peer whose socket takes no more.
    pub(crate) fn cut(&self, account: &Account) {
        self.counters.replies_dropped.one();
        if !account.cut.swap(true, Ordering::Relaxed) {
            self.counters.peers_cut.one();
        }
    }
}

/// The accounts of the peers that are being answered.
#[derive(Debug)]
pub(crate) struct Accounts {
    queue: Arc<ReplyQueue>,
    // Weak: an account lives as long as a request, a reply or a queued frame of
    // its peer. Dead ones are swept when their number has doubled.
    accounts: HashMap<Bytes, Weak<Account>>,
    sweep_at: usize,
}

impl Accounts {
    pub(crate) fn new(queue: Arc<ReplyQueue>) -> Self {
        Self {
            queue,
            accounts: HashMap::new(),
            sweep_at: 64,
        }
    }

    /// The connection of an identity has ended: what was read of it is all there
    /// will be. Not where a peer chose its identity, which another connection may have.
    pub(crate) fn gone(&self, identity: &[u8]) {
        if !is_given(identity) {
            return;
        }
        let account = self.accounts.get(identity).and_then(Weak::upgrade);
        if let Some(account) = account {
            account.gone.cancel();
        }
    }

    /// The peer behind an identity. One that has gone, or was cut, and came back
    /// under its old identity begins anew.
    pub(crate) fn peer(&mut self, identity: &Bytes, delimiter: bool) -> SocketPeer {
        let known = self.accounts.get(identity).and_then(Weak::upgrade);
        let account = match known {
            Some(account) if !account.is_cut() && !account.gone.is_cancelled() => account,
            _ => self.open(identity),
        };
        SocketPeer {
            account,
            delimiter,
            queue: Arc::clone(&self.queue),
        }
    }

    fn open(&mut self, identity: &Bytes) -> Arc<Account> {
        if self.accounts.len() >= self.sweep_at {
            self.accounts
                .retain(|_, account| account.strong_count() > 0);
            self.sweep_at = (self.accounts.len() * 2).max(64);
        }
        // A copy: the identity is a slice of the handshake's buffer.
        let identity = Bytes::copy_from_slice(identity);
        let account = Arc::new(Account {
            identity: identity.clone(),
            budget: Budget::new(self.queue.max_peer_items, self.queue.max_peer_bytes),
            cut: AtomicBool::new(false),
            gone: CancellationToken::new(),
        });
        self.accounts.insert(identity, Arc::downgrade(&account));
        account
    }
}

/// Whether zeromq has made the identity, of a peer that brought none: a random UUID,
/// which nobody else is told.
fn is_given(identity: &[u8]) -> bool {
    let version = identity.get(6).map(|byte| byte >> 4);
    let variant = identity.get(8).map(|byte| byte >> 6);
    identity.len() == 16 && version == Some(4) && variant == Some(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServerConfig};

    #[tokio::test]
    async fn whoever_chose_its_identity_is_never_gone() {
        let config = ServerConfig::new(Endpoint::loopback(0), None);
        let (queue, _replies) = ReplyQueue::new(&config, Arc::default());
        let mut accounts = Accounts::new(queue);
        let given = Bytes::from(zeromq::util::PeerIdentity::new().to_vec());
        for (identity, is_gone) in [(given, true), (Bytes::from_static(b"chosen"), false)] {
            let peer = accounts.peer(&identity, true);
            accounts.gone(&identity);
            assert_eq!(peer.account.gone.is_cancelled(), is_gone);
            let again = accounts.peer(&identity, true);
            assert_eq!(Arc::ptr_eq(&again.account, &peer.account), !is_gone);
        }
    }

    #[test]
    fn beyond_the_bound_of_all_only_those_who_read_are_answered() {
        const MIB: usize = 1024 * 1024;
        const PEERS: usize = 8;
        // Nobody reads what is queued.
        let config = ServerConfig::new(Endpoint::loopback(0), None);
        let counters = Arc::new(ServerCounters::default());
        let (queue, _replies) = ReplyQueue::new(&config, Arc::clone(&counters));
        let mut accounts = Accounts::new(Arc::clone(&queue));
        let mut peer =
            |name: &'static str| accounts.peer(&Bytes::from_static(name.as_bytes()), true);
        let reply = Bytes::from(vec![0; MIB - COST]);
        let deaf = ["a", "b", "c", "d", "e", "f", "g", "h"].map(&mut peer);
        assert_eq!(deaf.len(), PEERS);
        for _ in 0..config.max_reply_bytes / MIB / PEERS {
            for peer in &deaf {
                peer.reply(reply.clone());
            }
        }
        assert_eq!(queue.total.bytes(), 256 * MIB);
        assert_eq!(counters.peers_cut.get(), 0);
        for (number, peer) in deaf.iter().enumerate() {
            peer.reply(Bytes::from_static(b"more"));
            assert!(peer.account.is_cut());
            assert_eq!(counters.peers_cut.get(), number as u64 + 1);
        }
        let reads = peer("reads");
        reads.reply(Bytes::from_static(b"an answer"));
        assert!(!reads.account.is_cut());
        assert_eq!(queue.total.bytes(), 256 * MIB + COST + 9);
    }
}
