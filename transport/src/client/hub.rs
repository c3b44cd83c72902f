//! Who wants which events. The one place where an event finds its readers, and
//! the list that the events socket is brought in line with.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::mailbox::{Event, Mailbox};
use super::stats::Counters;

/// All subscriptions of a connection. Grows only with what its user subscribes to.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    changed: Notify,
    suspected: Notify,
    interruptions: AtomicU64,
    max_events: usize,
    max_bytes: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    // By prefix; the number of mailboxes is the reference count of the prefix.
    readers: HashMap<String, Vec<Arc<Mailbox>>>,
    closed: bool,
}

/// What has to change for a socket to have the wanted subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) add: Vec<String>,
    pub(crate) remove: Vec<String>,
}

impl Hub {
    pub(crate) fn new(max_events: usize, max_bytes: usize, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            suspected: Notify::new(),
            interruptions: AtomicU64::new(0),
            max_events,
            max_bytes,
            counters,
        })
    }

    pub(crate) fn subscribe(self: &Arc<Self>, prefix: &str) -> Subscription {
        let mailbox = Arc::new(Mailbox::new(self.max_events, self.max_bytes));
        let mut state = self.lock();
        if state.closed {
            mailbox.close();
        } else {
            state
                .readers
                .entry(prefix.to_owned())
                .or_default()
                .push(Arc::clone(&mailbox));
        }
        drop(state);
        self.changed.notify_one();
        Subscription {
            prefix: prefix.to_owned(),
            mailbox,
            hub: Arc::clone(self),
            since: self.interruptions.load(Ordering::Relaxed),
        }
    }

    /// Puts an event into every mailbox whose prefix it has. Copies it once, and
    /// only if somebody wants it.
    pub(crate) fn deliver(&self, topic: &str, payload: &Bytes) {
        self.counters.events.one();
        self.counters.event_bytes.add(payload.len());
        let state = self.lock();
        let mut event = None;
        for (prefix, mailboxes) in &state.readers {
            if !topic.starts_with(prefix.as_str()) {
                continue;
            }
            for mailbox in mailboxes {
                let event = event.get_or_insert_with(|| Event {
                    topic: topic.to_owned(),
                    payload: crate::framing::keep(payload),
                });
                if !mailbox.put(event.clone()) {
                    self.counters.events_dropped.one();
                }
            }
        }
    }

    /// How `applied` differs from what is wanted.
    pub(crate) fn changes(&self, applied: &HashSet<String>) -> Changes {
        let state = self.lock();
        Changes {
            add: (state.readers.keys())
                .filter(|prefix| !applied.contains(*prefix))
                .cloned()
                .collect(),
            remove: (applied.iter())
                .filter(|prefix| !state.readers.contains_key(*prefix))
                .cloned()
                .collect(),
        }
    }

    /// Resolves after a change of what is wanted.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The control connection had to be made again. A subscriber only listens,
    /// so it would never notice by itself that its host had vanished without a
    /// word. Not told when control is lost: a host that closes sends its last
    /// events after that.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Resolves when the events socket should not be trusted any more.
    pub(crate) async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Notes that events may have been lost.
    pub(crate) fn interrupted(&self) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends every subscription once its queue is read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for mailbox in state.readers.values().flatten() {
            mailbox.close();
        }
        state.readers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of events whose topics begin with a prefix. Dropping it unsubscribes.
///
/// Events may be missing: dropped by the host under load, lost while the
/// connection was away, or dropped here because they were not read in time.
/// Whoever needs all of them compares sequence numbers and reads the history.
#[derive(Debug)]
pub struct Subscription {
    prefix: String,
    mailbox: Arc<Mailbox>,
    hub: Arc<Hub>,
    since: u64,
}

impl Subscription {
    /// The next event; `None` once the connection is closed. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        self.mailbox.take().await
    }

    /// An event that is there already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.mailbox.try_take()
    }

    /// How many events this subscription had no room for.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        self.mailbox.lagged()
    }

    /// How often the events connection was lost since this subscription began:
    /// each time events may be missing, without a later one that would show it.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.hub.interruptions.load(Ordering::Relaxed) - self.since
    }

    /// What topics begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        if let Some(mailboxes) = state.readers.get_mut(&self.prefix) {
            mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
            if mailboxes.is_empty() {
                state.readers.remove(&self.prefix);
            }
        }
        drop(state);
        self.hub.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted_and_isolated() {
        let hub = Hub::new(10, 1000, Arc::default());
        let mut a = hub.subscribe("log.a.");
        let mut a2 = hub.subscribe("log.a.");
        let mut all = hub.subscribe("");
        hub.deliver("log.a.stdout", &Bytes::from_static(b"1"));
        hub.deliver("log.b.stdout", &Bytes::from_static(b"2"));
        assert_eq!(a.try_recv().unwrap().payload, "1");
        assert!(a.try_recv().is_none());
        assert_eq!(a2.try_recv().unwrap().payload, "1");
        assert_eq!(all.try_recv().unwrap().payload, "1");
        assert_eq!(all.try_recv().unwrap().topic, "log.b.stdout");

        let applied = HashSet::from(["log.a.".to_owned(), "old".to_owned()]);
        drop(a);
        let changes = hub.changes(&applied);
        assert_eq!(
            (changes.add, changes.remove),
            (vec![String::new()], vec!["old".to_owned()])
        );
        drop(a2);
        assert_eq!(hub.changes(&applied).remove.len(), 2);
    }
}
