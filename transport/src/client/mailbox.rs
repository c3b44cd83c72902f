//! The bounded queue of one subscription.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// An event as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its topic, whole.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
}

impl Event {
    fn cost(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Bounded in events and bytes. Where it is full the new event is dropped and
/// counted: its reader fills the hole from the history, and reads the older
/// ones meanwhile.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    arrived: Notify,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    bytes: usize,
    lagged: u64,
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            max_events,
            max_bytes,
        }
    }

    /// Queues an event; false if there was no room.
    pub(crate) fn put(&self, event: Event) -> bool {
        let mut state = self.lock();
        if state.queue.len() >= self.max_events || state.bytes + event.cost() > self.max_bytes {
            state.lagged += 1;
            return false;
        }
        state.bytes += event.cost();
        state.queue.push_back(event);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// The next event; `None` once closed and empty. Cancel-safe. One reader.
    pub(crate) async fn take(&self) -> Option<Event> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.lock();
                if let Some(event) = state.queue.pop_front() {
                    state.bytes -= event.cost();
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    pub(crate) fn try_take(&self) -> Option<Event> {
        let mut state = self.lock();
        let event = state.queue.pop_front()?;
        state.bytes -= event.cost();
        Some(event)
    }

    pub(crate) fn lagged(&self) -> u64 {
        self.lock().lagged
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn event(payload: &'static str) -> Event {
        Event {
            topic: "t".into(),
            payload: payload.into(),
        }
    }

    #[test]
    fn full_is_counted_and_the_older_events_stay() {
        let mailbox = Mailbox::new(2, 8);
        assert!(mailbox.put(event("one")));
        assert!(!mailbox.put(event("eleven")), "bytes");
        assert!(mailbox.put(event("two")));
        assert!(!mailbox.put(event("")), "events");
        assert_eq!(mailbox.lagged(), 2);
        mailbox.close();
        let read = || mailbox.take().now_or_never().unwrap();
        assert_eq!(read(), Some(event("one")));
        assert_eq!(read(), Some(event("two")));
        assert_eq!(read(), None);
        assert!(mailbox.put(event("eight..")), "room is given back");
    }
}
