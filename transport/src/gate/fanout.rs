//! Hands events to subscribers: one copy of each, for however many there are. zeromq makes
//! one for every subscriber, keeps as much memory for each as the longest took, and drops
//! what it has no room for without telling.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::scan::Header;
use crate::budget::{Budget, Held};
use crate::lanes::Outgoing;

/// Events on their way to the relays at once, and their bytes, the last of them not
/// counted: relays have their turns in between, so that none is behind unless its peer is.
/// Whoever is not has room for all of them.
const ON_THE_WAY: usize = 128;
const ON_THE_WAY_BYTES: usize = 32 * 1024;

/// The subscriptions of all connections of a socket.
#[derive(Debug)]
pub(crate) struct Fanout {
    subscribed: Mutex<Subscribed>,
    on_the_way: Arc<Budget>,
    /// What is not yet taken by every subscriber that has room for it.
    untaken: Arc<Budget>,
    /// The most that shall be untaken.
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Subscribed {
    /// By the length of the prefix, and by the prefix.
    prefixes: BTreeMap<usize, HashMap<Box<[u8]>, Subscribers>>,
    /// Subscribers that there were, and events.
    newest: u64,
    events: u64,
}

/// By their numbers.
type Subscribers = BTreeMap<u64, Arc<Subscriber>>;

/// A connection, as the fan-out knows it.
#[derive(Debug)]
pub(super) struct Subscriber {
    number: u64,
    /// Has room for whatever is on the way.
    arrivals: mpsc::Sender<Event>,
    /// The last event that it was handed, of which several prefixes may be its.
    last: AtomicU64,
}

/// Room for one event in what is on the way. Of one publisher: two would take the same.
#[derive(Debug)]
#[must_use]
pub(crate) struct Room<'a>(&'a Fanout);

/// What a subscriber is handed.
pub(super) type Arrivals = mpsc::Receiver<Event>;

/// An event on its way to one of its subscribers.
#[derive(Debug)]
pub(super) struct Event {
    /// Both of its frames, as they are sent.
    pub(super) frames: Bytes,
    _on_the_way: Arc<(Outgoing, Held)>,
}

impl Fanout {
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            subscribed: Mutex::default(),
            on_the_way: Budget::new(ON_THE_WAY, ON_THE_WAY_BYTES),
            untaken: Budget::new(usize::MAX, usize::MAX),
            max_bytes,
        })
    }

    /// Room for one more event, as soon as relays have had their turns.
    pub(crate) async fn room(&self) -> Room<'_> {
        while self.on_the_way.is_full() {
            self.on_the_way.released().await;
        }
        Room(self)
    }

    pub(super) fn enter(&self) -> (Arc<Subscriber>, Arrivals) {
        let (sender, arrivals) = mpsc::channel(ON_THE_WAY);
        let mut subscribed = self.subscribed();
        subscribed.newest += 1;
        let subscriber = Subscriber {
            number: subscribed.newest,
            arrivals: sender,
            last: AtomicU64::new(0),
        };
        (Arc::new(subscriber), arrivals)
    }

    pub(super) fn subscribe(&self, subscriber: &Arc<Subscriber>, prefix: &[u8]) {
        let mut subscribed = self.subscribed();
        let prefixes = subscribed.prefixes.entry(prefix.len()).or_default();
        let subscribers = prefixes.entry(prefix.into()).or_default();
        subscribers.insert(subscriber.number, Arc::clone(subscriber));
    }

    pub(super) fn unsubscribe(&self, subscriber: &Subscriber, prefix: &[u8]) {
        let mut subscribed = self.subscribed();
        let Some(prefixes) = subscribed.prefixes.get_mut(&prefix.len()) else {
            return;
        };
        if let Some(subscribers) = prefixes.get_mut(prefix) {
            subscribers.remove(&subscriber.number);
            if subscribers.is_empty() {
                prefixes.remove(prefix);
            }
        }
        if prefixes.is_empty() {
            subscribed.prefixes.remove(&prefix.len());
        }
    }

    /// Bytes of events that not every subscriber has taken, each event once.
    pub(super) fn untaken(&self) -> usize {
        self.untaken.bytes()
    }

    /// The most that shall be untaken.
    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// How many there are, each of its own connection and prefix.
    #[cfg(test)]
    pub(super) fn subscriptions(&self) -> usize {
        let subscribed = self.subscribed();
        let prefixes = subscribed.prefixes.values().flat_map(HashMap::values);
        prefixes.map(BTreeMap::len).sum()
    }

    fn encode(&self, event: &Outgoing) -> Bytes {
        let mut frames = Vec::with_capacity(2 * 9 + event.bytes());
        for (part, more) in [(&event.topic, true), (&event.payload, false)] {
            let (command, len) = (false, part.len() as u64);
            Header { command, more, len }.encode(&mut frames);
            frames.extend_from_slice(part);
        }
        let untaken = self.untaken.take_anyway(frames.len());
        untaken.bind(frames.into(), ())
    }

    fn subscribed(&self) -> MutexGuard<'_, Subscribed> {
        self.subscribed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room<'_> {
    /// Hands an event to whoever subscribed to a prefix of its topic. To how many.
    pub(crate) fn publish(self, event: Outgoing) -> usize {
        let Self(fanout) = self;
        let frames = fanout.encode(&event);
        let on_the_way = fanout.on_the_way.take_anyway(frames.len());
        let topic = event.topic.clone();
        let on_the_way = Arc::new((event, on_the_way));
        let mut subscribed = fanout.subscribed();
        subscribed.events += 1;
        let mut handed = 0;
        for (len, prefixes) in subscribed.prefixes.range(..=topic.len()) {
            let subscribers = topic.get(..*len).and_then(|prefix| prefixes.get(prefix));
            for subscriber in subscribers.into_iter().flat_map(BTreeMap::values) {
                if subscriber.last.swap(subscribed.events, Ordering::Relaxed) < subscribed.events {
                    handed += 1;
                    // It has room, and one that is gone wants none.
                    let _gone = subscriber.arrivals.try_send(Event {
                        frames: frames.clone(),
                        _on_the_way: Arc::clone(&on_the_way),
                    });
                }
            }
        }
        handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::tests::event;

    fn arrived(arrivals: &mut Arrivals) -> Vec<Bytes> {
        std::iter::from_fn(|| arrivals.try_recv().ok())
            .map(|event| event.frames)
            .collect()
    }

    #[tokio::test]
    async fn whoever_subscribed_to_a_prefix_is_handed_it_once() {
        let fanout = Fanout::new(1000);
        let [mut all, mut some, mut none] = [(); 3].map(|()| fanout.enter());
        for prefix in [&b""[..], b"log.", b"log.a."] {
            fanout.subscribe(&all.0, prefix);
        }
        fanout.subscribe(&some.0, b"log.a.");
        fanout.subscribe(&none.0, b"log.a.stdout.longer");
        fanout.room().await.publish(event("log.a.stdout", "line"));
        let frames = &b"\x01\x0clog.a.stdout\0\x04line"[..];
        assert_eq!(arrived(&mut all.1), [frames]);
        assert_eq!(arrived(&mut some.1), [frames]);
        fanout.room().await.publish(event("log.b", "another"));
        assert_eq!(arrived(&mut all.1).len(), 1);

        fanout.unsubscribe(&all.0, b"");
        fanout.unsubscribe(&all.0, b"log.");
        fanout.unsubscribe(&some.0, b"log.a.");
        fanout.room().await.publish(event("log.b", "another"));
        fanout.room().await.publish(event("log.a.stdout", "line"));
        assert_eq!(arrived(&mut all.1), [frames]);
        assert!(arrived(&mut some.1).is_empty() && arrived(&mut none.1).is_empty());
        fanout.unsubscribe(&all.0, b"log.a.");
        fanout.unsubscribe(&none.0, b"log.a.stdout.longer");
        assert!(fanout.subscribed().prefixes.is_empty());
    }

    #[tokio::test]
    async fn the_next_wait_until_relays_have_had_their_turns() {
        let fanout = Fanout::new(1000);
        let (subscriber, mut arrivals) = fanout.enter();
        fanout.room().await.publish(event("log.a", "nobody's"));
        assert_eq!((fanout.on_the_way.items(), fanout.untaken()), (0, 0));
        fanout.subscribe(&subscriber, b"");
        let mut count = 0;
        while !fanout.on_the_way.is_full() {
            fanout.room().await.publish(event("log.a", "line"));
            count += 1;
        }
        assert_eq!(count, ON_THE_WAY);
        let one = arrivals.try_recv().unwrap().frames;
        assert!(!fanout.on_the_way.is_full());
        assert_eq!(fanout.untaken(), one.len() * ON_THE_WAY, "it is still held");
        drop(one);
        assert_eq!(arrived(&mut arrivals).len(), ON_THE_WAY - 1);
        for is_full in [false, true] {
            assert!(!fanout.on_the_way.is_full());
            fanout
                .room()
                .await
                .publish(event("log.a", vec![b'x'; ON_THE_WAY_BYTES / 2]));
            assert_eq!(fanout.on_the_way.is_full(), is_full);
        }
        drop(arrivals);
        assert_eq!((fanout.on_the_way.items(), fanout.untaken()), (0, 0));
    }
}
