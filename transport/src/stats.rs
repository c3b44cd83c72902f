//! What a wire counted since it began. Counters only grow and never wait; a
//! reading is not one instant's, each number is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::budget::Budget;

/// A counter that wraps after 584 years at a thousand million a second.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind [`ServerStats`].
#[derive(Debug, Default)]
pub(crate) struct ServerCounters {
    pub(crate) messages_in: Count,
    pub(crate) bytes_in: Count,
    pub(crate) malformed: Count,
    pub(crate) messages_out: Count,
    pub(crate) bytes_out: Count,
    pub(crate) replies_dropped: Count,
    pub(crate) replies_undeliverable: Count,
    pub(crate) peers_accepted: Count,
    pub(crate) peers_left: Count,
    pub(crate) handshakes_failed: Count,
    pub(crate) peers_cut: Count,
    pub(crate) resets: Count,
    pub(crate) events_published: Count,
    pub(crate) event_bytes: Count,
    pub(crate) events_dropped: Count,
    pub(crate) events_left_out: Count,
}

/// What a host's wire counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Control messages that reached the inbox, malformed ones too.
    pub messages_in: u64,
    /// Bytes of their payloads, without those of malformed ones.
    pub bytes_in: u64,
    /// Messages without exactly one payload frame, or with one over the cap.
    pub malformed: u64,
    /// Replies handed to their peer's socket.
    pub messages_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// Replies refused because their peer does not read, which cut that peer.
    pub replies_dropped: u64,
    /// Replies whose peer had gone.
    pub replies_undeliverable: u64,
    /// Control and event connections that finished their handshake.
    pub peers_accepted: u64,
    /// Connections that ended. Under heavy churn some are missed.
    pub peers_left: u64,
    /// Connections that ended in their handshake.
    pub handshakes_failed: u64,
    /// Peers cut because they did not read what they were sent.
    pub peers_cut: u64,
    /// How often all connections of a socket were ended because something of it panicked.
    pub resets: u64,
    /// Events taken for publishing.
    pub events_published: u64,
    /// Bytes of their payloads.
    pub event_bytes: u64,
    /// Events refused because too much is queued.
    pub events_dropped: u64,
    /// Events left out for one subscriber, because it did not take what it was sent.
    pub events_left_out: u64,
    /// Bytes of replies that are queued or not yet written, now.
    pub reply_bytes_held: u64,
    /// Bytes of events that are queued or not yet on their way to subscribers, now.
    pub event_bytes_held: u64,
}

/// Reads the counters of a wire; cheap to clone.
#[derive(Debug, Clone)]
pub struct Meter {
    pub(crate) counters: Arc<ServerCounters>,
    pub(crate) replies: Arc<Budget>,
    pub(crate) events: Arc<Budget>,
}

impl Meter {
    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> ServerStats {
        let c = &self.counters;
        ServerStats {
            messages_in: c.messages_in.get(),
            bytes_in: c.bytes_in.get(),
            malformed: c.malformed.get(),
            messages_out: c.messages_out.get(),
            bytes_out: c.bytes_out.get(),
            replies_dropped: c.replies_dropped.get(),
            replies_undeliverable: c.replies_undeliverable.get(),
            peers_accepted: c.peers_accepted.get(),
            peers_left: c.peers_left.get(),
            handshakes_failed: c.handshakes_failed.get(),
            peers_cut: c.peers_cut.get(),
            resets: c.resets.get(),
            events_published: c.events_published.get(),
            event_bytes: c.event_bytes.get(),
            events_dropped: c.events_dropped.get(),
            events_left_out: c.events_left_out.get(),
            reply_bytes_held: self.replies.bytes() as u64,
            event_bytes_held: self.events.bytes() as u64,
        }
    }
}
