//! Where the host hands over events. Never waits; what does not fit is refused
//! and counted, and its reader finds it in the history.

use std::sync::Arc;

use bytes::Bytes;

use crate::client::Hub;
use crate::lanes::{Lane, Lanes};
use crate::stats::ServerCounters;

/// Publishes events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Socket(ToSocket),
    Local(ToLocal),
    Nowhere,
}

#[derive(Debug, Clone)]
struct ToSocket {
    lane: Arc<Lane>,
    counters: Arc<ServerCounters>,
}

#[derive(Debug, Clone)]
struct ToLocal {
    hub: Arc<HubOwner>,
    counters: Arc<ServerCounters>,
}

/// Ends all subscriptions when the last publisher is gone.
#[derive(Debug)]
struct HubOwner(Arc<Hub>);

impl Drop for HubOwner {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Publisher {
    /// Publishes an event; false if it was dropped (and counted) because
    /// [`max_events`](crate::ServerConfig::max_events) or
    /// [`max_event_bytes`](crate::ServerConfig::max_event_bytes) are queued, or its
    /// source has its share of them.
    ///
    /// True promises nothing about subscribers. On a local wire it is always
    /// true: each subscription bounds and counts for itself.
    pub fn try_publish(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> bool {
        self.publish(topic.into(), payload.into(), Lane::push)
    }

    /// The same, and the share of its source does not count: for what is seldom published
    /// and tells of what was before it. It comes after that.
    pub fn try_publish_beyond_share(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> bool {
        self.publish(topic.into(), payload.into(), Lane::push_beyond_share)
    }

    fn publish(
        &self,
        topic: String,
        payload: Bytes,
        push: fn(&Lane, String, Bytes) -> bool,
    ) -> bool {
        match &self.0 {
            Kind::Socket(socket) => {
                let len = payload.len();
                let sent = push(&socket.lane, topic, payload);
                if sent {
                    socket.counters.events_published.one();
                    socket.counters.event_bytes.add(len);
                } else {
                    socket.counters.events_dropped.one();
                }
                sent
            }
            Kind::Local(local) => {
                local.counters.events_published.one();
                local.counters.event_bytes.add(payload.len());
                local.hub.0.deliver(&topic, &payload);
                true
            }
            Kind::Nowhere => true,
        }
    }

    /// One for a source of its own. Each source has its share of what may be queued, and
    /// as much of the way as others, in bytes: a flood of one holds up no other. What
    /// comes from different sources may arrive in another order than it was published in.
    #[must_use]
    pub fn of_its_own(&self) -> Self {
        match &self.0 {
            Kind::Socket(socket) => Self(Kind::Socket(ToSocket {
                lane: Arc::new(socket.lane.another()),
                counters: Arc::clone(&socket.counters),
            })),
            // There each subscription has a queue of its own.
            Kind::Local(_) | Kind::Nowhere => self.clone(),
        }
    }

    pub(crate) fn over_socket(lanes: &Arc<Lanes>, counters: &Arc<ServerCounters>) -> Self {
        Self(Kind::Socket(ToSocket {
            lane: Arc::new(lanes.open()),
            counters: Arc::clone(counters),
        }))
    }

    pub(crate) fn into_hub(hub: Arc<Hub>, counters: Arc<ServerCounters>) -> Self {
        Self(Kind::Local(ToLocal {
            hub: Arc::new(HubOwner(hub)),
            counters,
        }))
    }
}

/// A publisher whose events nobody can subscribe to.
pub(crate) fn nowhere() -> Publisher {
    Publisher(Kind::Nowhere)
}
