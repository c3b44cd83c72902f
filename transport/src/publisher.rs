//! Where the host hands over events. Never waits; what does not fit is refused
//! and counted, and its reader finds it in the history.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::budget::Budget;
use crate::client::Hub;
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

/// An event on its way to the events thread.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: Bytes,
    /// Bound to the budget: relieved when every subscriber's socket has it.
    pub(crate) payload: Bytes,
}

#[derive(Debug, Clone)]
struct ToSocket {
    queue: mpsc::Sender<Outgoing>,
    budget: Arc<Budget>,
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
    /// [`max_event_bytes`](crate::ServerConfig::max_event_bytes) are queued.
    ///
    /// True promises nothing about subscribers. On a local wire it is always
    /// true: each subscription bounds and counts for itself.
    pub fn try_publish(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> bool {
        match &self.0 {
            Kind::Socket(socket) => socket.try_publish(topic.into(), payload.into()),
            Kind::Local(local) => {
                let payload = payload.into();
                local.counters.events_published.one();
                local.counters.event_bytes.add(payload.len());
                local.hub.0.deliver(&topic.into(), &payload);
                true
            }
            Kind::Nowhere => true,
        }
    }

    pub(crate) fn over_socket(
        budget: &Arc<Budget>,
        max_events: usize,
        counters: &Arc<ServerCounters>,
    ) -> (Self, mpsc::Receiver<Outgoing>) {
        // The budget is met first; the channel's own bound is the same.
        let (queue, receiver) = mpsc::channel(max_events.max(1));
        let socket = ToSocket {
            queue,
            budget: Arc::clone(budget),
            counters: Arc::clone(counters),
        };
        (Self(Kind::Socket(socket)), receiver)
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

impl ToSocket {
    fn try_publish(&self, topic: String, payload: Bytes) -> bool {
        let len = payload.len();
        let sent = self.budget.take(len + topic.len()).is_some_and(|held| {
            let event = Outgoing {
                topic: topic.into(),
                payload: held.bind(payload, ()),
            };
            self.queue.try_send(event).is_ok()
        });
        if sent {
            self.counters.events_published.one();
            self.counters.event_bytes.add(len);
        } else {
            self.counters.events_dropped.one();
        }
        sent
    }
}
