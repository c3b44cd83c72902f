//! What is published and not yet handed to zeromq: a lane for each source, and one after
//! another they have their turn, so that nobody waits here behind a flood of another.
//! From there on a subscriber reads what it subscribed to in the order of those turns.
//!
//! All lanes together have one bound, of what is held until the last subscriber has it. Of
//! what is left of it, each may hold a [`SHARE`]: however many floods there are, there is
//! room for who has little to say.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::budget::{Budget, Held};

/// A lane holds at most as much as this part of what nobody holds: a fifth of everything
/// if it is the only one; 32 such floods have eight ninths, and one more a fifth of the
/// last.
const SHARE: usize = 4;

/// How many events a lane hands over before the next has its turn.
const QUANTUM: usize = 8;

/// An event on its way to the events thread.
#[derive(Debug)]
pub(crate) struct Outgoing {
    topic: Bytes,
    payload: Bytes,
    held: Held,
    /// If it counts against the share of its lane.
    of_share: Option<Held>,
}

impl Outgoing {
    /// Topic and payload. Both budgets are relieved when it is on its way to every
    /// subscriber.
    pub(crate) fn into_frames(self) -> (Bytes, Bytes) {
        let payload = self.held.bind(self.payload, self.of_share);
        (self.topic, payload)
    }
}

#[derive(Debug)]
pub(crate) struct Lanes {
    all: Arc<Budget>,
    waiting: Mutex<Waiting>,
    filled: Notify,
    opened: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Those that are not empty, each of which has one turn to come.
    lanes: HashMap<u64, VecDeque<Outgoing>>,
    turns: VecDeque<u64>,
    closed: bool,
}

/// What one source has published.
#[derive(Debug)]
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    number: u64,
    held: Arc<Budget>,
}

impl Lanes {
    pub(crate) fn new(all: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            all,
            waiting: Mutex::default(),
            filled: Notify::new(),
            opened: AtomicU64::new(0),
        })
    }

    pub(crate) fn open(self: &Arc<Self>) -> Lane {
        Lane {
            lanes: Arc::clone(self),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            held: Budget::new(usize::MAX, usize::MAX),
        }
    }

    /// Takes up to `most` events, of each lane a few; waits until there are some.
    pub(crate) async fn take(&self, most: usize, batch: &mut Vec<Outgoing>) {
        loop {
            self.take_now(most, batch);
            if !batch.is_empty() {
                return;
            }
            self.filled.notified().await;
        }
    }

    /// The same, and waits for none.
    pub(crate) fn take_now(&self, most: usize, batch: &mut Vec<Outgoing>) {
        let mut waiting = self.waiting();
        while batch.len() < most
            && let Some(number) = waiting.turns.pop_front()
            && let Some(lane) = waiting.lanes.get_mut(&number)
        {
            let count = lane.len().min(QUANTUM).min(most - batch.len());
            batch.extend(lane.drain(..count));
            if lane.is_empty() {
                waiting.lanes.remove(&number);
            } else {
                waiting.turns.push_back(number);
            }
        }
    }

    /// From now on nothing more is let in.
    pub(crate) fn close(&self) {
        self.waiting().closed = true;
    }

    /// Drops what is left.
    pub(crate) fn clear(&self) {
        let mut waiting = self.waiting();
        waiting.turns.clear();
        waiting.lanes.clear();
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
            held,
            of_share,
        };
        let mut waiting = self.lanes.waiting();
        if waiting.closed {
            return false;
        }
        let lane = waiting.lanes.entry(self.number).or_default();
        lane.push_back(event);
        if lane.len() == 1 {
            waiting.turns.push_back(self.number);
        }
        drop(waiting);
        self.lanes.filled.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lane: &Lane, text: &'static str) -> bool {
        lane.push("log.a".to_owned(), Bytes::from_static(text.as_bytes()))
    }

    fn texts(batch: &[Outgoing]) -> Vec<&[u8]> {
        batch.iter().map(|event| &*event.payload).collect()
    }

    #[test]
    fn a_flood_leaves_room_and_is_not_waited_for() {
        let lanes = Lanes::new(Budget::new(1000, 1 << 20));
        let (flood, other) = (lanes.open(), lanes.open());
        let held = (0..1000).filter(|_| push(&flood, "flood")).count();
        assert_eq!(held, 200);
        assert!(push(&other, "first") && push(&other, "second"));
        let mut batch = Vec::new();
        lanes.take_now(QUANTUM + 2, &mut batch);
        assert_eq!(texts(&batch)[QUANTUM..], [&b"first"[..], b"second"]);
        // What is taken is held until it is read.
        assert!(!push(&flood, "more"));
        drop(batch);
        assert!(push(&flood, "more"));
    }

    #[test]
    fn what_is_not_counted_against_the_share_comes_behind_the_flood() {
        let lanes = Lanes::new(Budget::new(10, 1 << 20));
        let flood = lanes.open();
        while push(&flood, "flood") {}
        assert!(flood.push_beyond_share("status.a".to_owned(), Bytes::from_static(b"end")));
        let mut batch = Vec::new();
        lanes.take_now(10, &mut batch);
        assert_eq!(texts(&batch), [&b"flood"[..], b"flood", b"end"]);
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
        let mut batch = Vec::new();
        lanes.take_now(QUANTUM, &mut batch);
        assert_eq!(texts(&batch), [b"before"]);
    }
}
