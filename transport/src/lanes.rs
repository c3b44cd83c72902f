//! What is published and not yet handed to zeromq: a lane for each source, and one after
//! another they have their turn, so that a flood of one is not what others wait behind.
//!
//! All lanes together have one bound, of what is held until the last subscriber has it. Of
//! what is left of it, each may hold a [`SHARE`]: however many floods there are, there is
//! room for who has little to say.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::budget::Budget;

/// A lane holds at most as much as this part of what nobody holds. One flood has a fifth of
/// everything then, 32 have eight ninths, and the next a quarter of the last ninth.
const SHARE: usize = 4;

/// How many events a lane hands over before the next has its turn: some 0.1 ms.
const QUANTUM: usize = 32;

/// An event on its way to the events thread.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: Bytes,
    /// Bound to the budget: relieved when every subscriber's socket has it.
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
pub(crate) struct Lanes {
    all: Arc<Budget>,
    waiting: Mutex<Waiting>,
    filled: Notify,
    /// Sources that had no room since the last two looks at them.
    refused: Mutex<HashMap<u64, Refused>>,
    opened: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Those that are not empty.
    lanes: HashMap<u64, VecDeque<Outgoing>>,
    turns: VecDeque<u64>,
    closed: bool,
}

/// A source that is over its share.
#[derive(Debug)]
struct Refused {
    held: Arc<Budget>,
    /// What was released of it when somebody last looked, and since when no more was.
    releases: u64,
    since: Instant,
    again: bool,
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
            refused: Mutex::default(),
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
        {
            let Some(lane) = waiting.lanes.get_mut(&number) else {
                continue;
            };
            let count = lane.len().min(QUANTUM).min(most - batch.len());
            batch.extend(lane.drain(..count));
            if lane.is_empty() {
                waiting.lanes.remove(&number);
            } else {
                waiting.turns.push_back(number);
            }
        }
    }

    /// Whether a source finds no room, and nothing of what it has published was read
    /// during `patience`: a subscriber is stuck, and nothing new of that source gets through
    /// to the others. To be asked several times in that time.
    pub(crate) fn is_any_stuck(&self, patience: Duration) -> bool {
        let mut refused = self.refused();
        refused.retain(|_, lane| std::mem::take(&mut lane.again));
        for lane in refused.values_mut() {
            let releases = lane.held.releases();
            if lane.releases != releases {
                (lane.releases, lane.since) = (releases, Instant::now());
            }
        }
        let stuck = refused
            .values()
            .any(|lane| lane.since.elapsed() >= patience);
        if stuck {
            refused.clear();
        }
        stuck
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<u64, Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing is taken.
    pub(crate) fn close(&self) {
        self.waiting().closed = true;
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
        if !fits {
            self.refuse();
        }
        fits && self.push_beyond_share(topic, payload)
    }

    /// Whether there was room in the bound of all.
    pub(crate) fn push_beyond_share(&self, topic: String, payload: Bytes) -> bool {
        let bytes = payload.len() + topic.len();
        let Some(held) = self.lanes.all.take(bytes) else {
            return false;
        };
        let own = self.held.take_anyway(bytes);
        let event = Outgoing {
            topic: topic.into(),
            payload: held.bind(payload, own),
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

    fn refuse(&self) {
        let mut refused = self.lanes.refused();
        let lane = refused.entry(self.number).or_insert_with(|| Refused {
            held: Arc::clone(&self.held),
            releases: self.held.releases(),
            since: Instant::now(),
            again: true,
        });
        lane.again = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3600);

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
    fn who_is_refused_and_not_read_is_stuck() {
        let lanes = Lanes::new(Budget::new(100, 1 << 20));
        let flood = lanes.open();
        while push(&flood, "flood") {}
        assert!(!lanes.is_any_stuck(PATIENCE));
        assert!(!push(&flood, "more"));
        assert!(lanes.is_any_stuck(Duration::ZERO));
        // It says nothing any more.
        assert!(!lanes.is_any_stuck(Duration::ZERO));
    }

    #[test]
    fn nothing_is_taken_after_the_close() {
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
