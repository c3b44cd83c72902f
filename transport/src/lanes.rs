//! What is published and not yet on its way to subscribers: a lane for each source, of
//! which each has as much of the way as the others, in bytes, so that nobody waits here
//! behind a flood of another. From there on a subscriber reads what it subscribed to in
//! that order.
//!
//! All lanes together have one bound, of what is held until it has arrived at the last
//! subscriber's relay. Of what is left of it, each may hold a [`SHARE`]: however many
//! floods there are, there is room for who has little to say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::budget::{Budget, Held};

/// A lane holds at most as much as this part of what nobody holds: a fifth of everything
/// if it is the only one; 32 such floods have eight ninths, and one more a fifth of the
/// last.
const SHARE: usize = 4;

/// What an event costs besides its bytes, in bytes: as much as it takes to hand that many
/// to a subscriber.
const COST: u64 = 256;

/// An event on its way to subscribers. It counts as held until it is dropped.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    _held: Held,
    /// If it counts against the share of its lane.
    _of_share: Option<Held>,
}

impl Outgoing {
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

#[derive(Debug)]
pub(crate) struct Lanes {
    all: Arc<Budget>,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

/// Start-time fair queueing (Goyal, Vin and Cheng, 1996): an event starts when the one
/// before it in its lane is through, by a clock that tells what every busy lane has sent.
#[derive(Debug, Default)]
struct Waiting {
    /// By their start, and of those that start together by their number.
    events: BTreeMap<(u64, u64), Outgoing>,
    newest: u64,
    now: u64,
    closed: bool,
}

/// What one source has published.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    held: Arc<Budget>,
    /// When its last event is through. Used under the lock of what waits.
    through: AtomicU64,
}

impl Lanes {
    pub(crate) fn new(all: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            all,
            waiting: Mutex::default(),
            filled: Notify::new(),
        })
    }

    pub(crate) fn open(self: &Arc<Self>) -> Lane {
        Lane {
            lanes: Arc::clone(self),
            held: Budget::new(usize::MAX, usize::MAX),
            through: AtomicU64::new(0),
        }
    }

    /// The event whose turn it is; waits until there is one. Nothing is lost where it is
    /// cancelled.
    pub(crate) async fn next(&self) -> Outgoing {
        loop {
            if let Some(event) = self.next_now() {
                return event;
            }
            self.filled.notified().await;
        }
    }

    /// The same, and waits for none.
    pub(crate) fn next_now(&self) -> Option<Outgoing> {
        let mut waiting = self.waiting();
        let ((start, _), event) = waiting.events.pop_first()?;
        waiting.now = start;
        Some(event)
    }

    /// From now on nothing more is let in.
    pub(crate) fn close(&self) {
        self.waiting().closed = true;
    }

    /// Drops what is left.
    pub(crate) fn clear(&self) {
        self.waiting().events.clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Another of the same socket.
    pub(crate) fn another(&self) -> Self {
        self.lanes.open()
    }

    /// Whether there was room.
    pub(crate) fn push(&self, topic: String, payload: Bytes) -> bool {
        let (items_left, bytes_left) = self.lanes.all.left();
        let bytes = payload.len() + topic.len();
        let fits = self.held.items() < items_left.div_ceil(SHARE)
            && self.held.bytes() + bytes <= bytes_left / SHARE;
        let of_share = fits.then(|| self.held.take_anyway(bytes));
        fits && self.queue(topic, payload, of_share)
    }

    /// The same, where the share does not count.
    pub(crate) fn push_beyond_share(&self, topic: String, payload: Bytes) -> bool {
        self.queue(topic, payload, None)
    }

    fn queue(&self, topic: String, payload: Bytes, of_share: Option<Held>) -> bool {
        let Some(held) = self.lanes.all.take(payload.len() + topic.len()) else {
            return false;
        };
        let event = Outgoing {
            topic: topic.into(),
            payload,
            _held: held,
            _of_share: of_share,
        };
        let mut waiting = self.lanes.waiting();
        if waiting.closed {
            return false;
        }
        let start = waiting.now.max(self.through.load(Ordering::Relaxed));
        let cost = COST.saturating_add(event.bytes() as u64);
        self.through
            .store(start.saturating_add(cost), Ordering::Relaxed);
        let number = waiting.newest;
        waiting.newest += 1;
        waiting.events.insert((start, number), event);
        drop(waiting);
        self.lanes.filled.notify_one();
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event that comes alone.
    pub(crate) fn event(topic: &str, payload: impl Into<Bytes>) -> Outgoing {
        let lanes = Lanes::new(Budget::new(1, usize::MAX));
        let lane = lanes.open();
        assert!(lane.push_beyond_share(topic.to_owned(), payload.into()));
        lanes.next_now().unwrap()
    }

    fn push(lane: &Lane, text: &'static str) -> bool {
        lane.push("log.a".to_owned(), Bytes::from_static(text.as_bytes()))
    }

    fn take(lanes: &Lanes, most: usize) -> Vec<Outgoing> {
        (0..most).map_while(|_| lanes.next_now()).collect()
    }

    fn texts(taken: &[Outgoing]) -> Vec<&[u8]> {
        taken.iter().map(|event| &*event.payload).collect()
    }

    #[test]
    fn a_flood_leaves_room_and_is_not_waited_for() {
        let lanes = Lanes::new(Budget::new(1000, 1 << 20));
        let (flood, other) = (lanes.open(), lanes.open());
        let held = (0..1000).filter(|_| push(&flood, "flood")).count();
        assert_eq!(held, 200);
        assert!(push(&other, "first") && push(&other, "second"));
        let taken = take(&lanes, 4);
        assert_eq!(
            texts(&taken),
            [&b"flood"[..], b"first", b"flood", b"second"]
        );
        // What is taken is held until it is read.
        assert!(!push(&flood, "more"));
        drop(taken);
        assert!(push(&flood, "more"));
    }

    #[test]
    fn who_says_much_at_once_waits_for_who_says_little() {
        let lanes = Lanes::new(Budget::new(1000, 1 << 20));
        let (much, little) = (lanes.open(), lanes.open());
        for _ in 0..2 {
            assert!(much.push("log.a".to_owned(), vec![b'x'; 16 * 1024].into()));
        }
        assert!((0..20).all(|_| push(&little, "line")));
        let taken = take(&lanes, 22);
        let lens: Vec<_> = taken.iter().map(|event| event.payload.len()).collect();
        assert_eq!((lens[0], lens[21]), (16 * 1024, 16 * 1024));
        assert!(lens[1..21].iter().all(|len| *len == 4));
    }

    #[test]
    fn what_is_not_counted_against_the_share_comes_behind_the_flood() {
        let lanes = Lanes::new(Budget::new(10, 1 << 20));
        let flood = lanes.open();
        while push(&flood, "flood") {}
        assert!(flood.push_beyond_share("status.a".to_owned(), Bytes::from_static(b"end")));
        let taken = take(&lanes, 10);
        assert_eq!(texts(&taken), [&b"flood"[..], b"flood", b"end"]);
    }

    #[test]
    fn hundreds_of_floods_leave_room_for_little() {
        let lanes = Lanes::new(Budget::new(65_536, 64 << 20));
        let floods: Vec<_> = (0..1000).map(|_| lanes.open()).collect();
        while floods.iter().filter(|flood| push(flood, "flood")).count() > 0 {}
        let other = lanes.open();
        assert!((0..50).all(|_| push(&other, "line")));
    }

    #[test]
    fn nothing_is_let_in_after_the_close() {
        let lanes = Lanes::new(Budget::new(100, 1 << 20));
        let lane = lanes.open();
        assert!(push(&lane, "before"));
        lanes.close();
        assert!(!push(&lane, "after"));
        assert_eq!(texts(&take(&lanes, 10)), [b"before"]);
    }
}
