//! The connections of a gate. Where there are too many, one is ended for the newcomer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of the descriptors that the process may open, connections of one socket have a
/// fifth: guests have half of them, and logs need some.
const SHARE: u64 = 5;

/// Of a connection: the peer's, and both ends of the one to zeromq.
const DESCRIPTORS: u64 = 3;

/// A process of few descriptors serves a few clients all the same.
const FEW: usize = 32;

/// Bytes of messages that zeromq keeps for connections: of each as many as its longest
/// message had, for as long as it is there.
const MOST_HELD: usize = 256 * 1024 * 1024;

/// What does not count of them: it has as much anyway.
const UNCOUNTED: usize = 64 * 1024;

/// How often at most it is told that somebody gave way.
const TELL: Duration = Duration::from_secs(10);

/// Subscriptions of all connections: zeromq compares each event with all of them.
const MOST_SUBSCRIPTIONS: usize = 16_384;

#[derive(Debug)]
pub(super) struct Table {
    max: usize,
    since: Instant,
    numbers: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Milliseconds on its clock.
    told: AtomicU64,
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    /// Resolves when it shall end.
    pub(super) end: CancellationToken,
    has_shaken_hands: AtomicBool,
    /// Milliseconds since the table is there.
    last_heard: AtomicU64,
    subscriptions: AtomicUsize,
    /// Bytes of its longest message, or of the one under way.
    held: AtomicUsize,
    /// The same clock: when there began to be something for the peer that it has not
    /// taken; 0 while there is nothing.
    behind_since: AtomicU64,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            since: Instant::now(),
            numbers: AtomicU64::new(0),
            connections: Mutex::default(),
            told: AtomicU64::new(0),
        }
    }

    /// A place for a newcomer. If there is none, the connection that was silent for
    /// longest ends, whoever has not shaken hands first: those who only sit there keep
    /// nobody out, and who is ended comes back.
    pub(super) fn enter(&self) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            end: CancellationToken::new(),
            has_shaken_hands: AtomicBool::new(false),
            last_heard: AtomicU64::new(self.now()),
            subscriptions: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            behind_since: AtomicU64::new(0),
        });
        let mut connections = self.connections();
        if connections.len() >= self.max.min(share()) {
            let silent = connections.values().min_by_key(|c| {
                let shaken = c.has_shaken_hands.load(Ordering::Relaxed);
                (shaken, c.last_heard.load(Ordering::Relaxed), c.number)
            });
            if let Some(number) = silent.map(|c| c.number)
                && let Some(silent) = connections.remove(&number)
            {
                self.tell("there are too many connections: those silent for longest end");
                silent.end.cancel();
            }
        }
        connections.insert(connection.number, Arc::clone(&connection));
        connection
    }

    pub(super) fn leave(&self, connection: &Connection) {
        self.connections().remove(&connection.number);
    }

    /// It has sent something.
    pub(super) fn heard(&self, connection: &Connection) {
        connection.last_heard.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn shook_hands(&self, connection: &Connection) {
        connection.has_shaken_hands.store(true, Ordering::Relaxed);
    }

    /// Notes how many subscriptions it has. Where all have too many, whoever has most
    /// ends.
    pub(super) fn subscribed(&self, connection: &Connection, count: usize) {
        let subscriptions = |c: &Connection| c.subscriptions.load(Ordering::Relaxed);
        let before = connection.subscriptions.swap(count, Ordering::Relaxed);
        if count <= before {
            return;
        }
        let mut connections = self.connections();
        // Few have more than a few, and it is only looked at where one gets another.
        let all: usize = connections.values().map(|c| subscriptions(c)).sum();
        if all > MOST_SUBSCRIPTIONS
            && let Some(number) = connections
                .values()
                .max_by_key(|c| subscriptions(c))
                .map(|c| c.number)
            && let Some(most) = connections.remove(&number)
        {
            self.tell("there are too many subscriptions: the connections with most end");
            most.end.cancel();
        }
    }

    /// Notes how many bytes it has sent of a message. Where too much is held for all,
    /// whoever is silent for longest of those for whom there is some ends: who sends
    /// is not waited for, and who says nothing keeps nobody waiting.
    pub(super) fn holds(&self, connection: &Connection, bytes: usize) {
        let held = |c: &Connection| c.held.load(Ordering::Relaxed);
        if bytes <= UNCOUNTED.max(held(connection)) {
            return;
        }
        connection.held.store(bytes, Ordering::Relaxed);
        let mut connections = self.connections();
        let mut all: usize = connections.values().map(|c| held(c)).sum();
        while all > MOST_HELD {
            let silent = connections
                .values()
                .filter(|c| held(c) > 0)
                .min_by_key(|c| (c.last_heard.load(Ordering::Relaxed), c.number));
            let Some(silent) = silent
                .map(|c| c.number)
                .and_then(|n| connections.remove(&n))
            else {
                return;
            };
            all -= held(&silent);
            self.tell("messages take too much memory: connections silent for longest end");
            silent.end.cancel();
        }
    }

    /// Notes whether something waits for its peer.
    pub(super) fn behind(&self, connection: &Connection, is_behind: bool) {
        let since = if is_behind { self.now().max(1) } else { 0 };
        connection.behind_since.store(since, Ordering::Relaxed);
    }

    /// Whether one was behind for so long without a break, and is ended.
    pub(super) fn end_slowest(&self, patience: Duration) -> bool {
        let now = self.now();
        let is_slow =
            |since: u64| since > 0 && u128::from(now - since.min(now)) >= patience.as_millis();
        let mut connections = self.connections();
        let slowest = connections
            .values()
            .map(|c| (c.behind_since.load(Ordering::Relaxed), c.number))
            .filter(|(since, _)| is_slow(*since))
            .min();
        let Some(slowest) = slowest.and_then(|(_, number)| connections.remove(&number)) else {
            return false;
        };
        self.tell("too much is unread: the connections that are behind for longest end");
        slowest.end.cancel();
        true
    }

    pub(super) fn end_strangers(&self) {
        self.connections().retain(|_, c| {
            let shaken = c.has_shaken_hands.load(Ordering::Relaxed);
            if !shaken {
                c.end.cancel();
            }
            shaken
        });
    }

    /// Tells why a connection gave way, of many once.
    fn tell(&self, why: &str) {
        let (now, told) = (self.now().max(1), self.told.load(Ordering::Relaxed));
        if told == 0 || u128::from(now - told.min(now)) >= TELL.as_millis() {
            self.told.store(now, Ordering::Relaxed);
            tracing::info!("{why}");
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn share() -> usize {
    // As of now: the host may ask for more when it has started.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / SHARE / DESCRIPTORS)
        .unwrap_or(usize::MAX)
        .max(FEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_was_silent_for_longest_gives_way() {
        let table = Table::new(3);
        let [first, second, stranger] = [(); 3].map(|()| table.enter());
        for known in [&first, &second] {
            table.shook_hands(known);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        table.heard(&first);
        table.heard(&stranger);
        let third = table.enter();
        assert!(stranger.end.is_cancelled(), "it has not said who it is");
        table.shook_hands(&third);
        let fourth = table.enter();
        assert!(second.end.is_cancelled() && !first.end.is_cancelled());
        table.leave(&first);
        let _fifth = table.enter();
        assert!(!third.end.is_cancelled() && !fourth.end.is_cancelled());
    }

    #[tokio::test]
    async fn whoever_has_most_subscriptions_gives_way() {
        let table = Table::new(100);
        let [few, most, newcomer] = [(); 3].map(|()| table.enter());
        table.subscribed(&few, 10);
        table.subscribed(&most, MOST_SUBSCRIPTIONS - 11);
        table.subscribed(&newcomer, 1);
        assert!(!most.end.is_cancelled());
        table.subscribed(&newcomer, 2);
        assert!(most.end.is_cancelled());
        table.subscribed(&newcomer, 100);
        assert!(!few.end.is_cancelled() && !newcomer.end.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_behind_for_longest_gives_way() {
        let table = Table::new(100);
        let second = Duration::from_secs(1);
        let [reads, slow, slower] = [(); 3].map(|()| table.enter());
        for connection in [&slower, &slow] {
            tokio::time::advance(second).await;
            table.behind(connection, true);
        }
        for _ in 0..5 {
            table.behind(&reads, true);
            tokio::time::advance(second).await;
            table.behind(&reads, false);
        }
        table.behind(&reads, true);
        assert!(!table.end_slowest(7 * second));
        assert!(table.end_slowest(2 * second));
        assert!(slower.end.is_cancelled() && !slow.end.is_cancelled());
        assert!(table.end_slowest(2 * second) && slow.end.is_cancelled());
        assert!(!table.end_slowest(2 * second) && !reads.end.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_gives_way_to_those_who_send() {
        const MIB: usize = 1024 * 1024;
        let table = Table::new(100);
        let few = table.enter();
        let idle: Vec<_> = (0..26).map(|_| table.enter()).collect();
        table.holds(&few, UNCOUNTED);
        for connection in &idle {
            tokio::time::advance(Duration::from_millis(10)).await;
            table.heard(connection);
            table.holds(connection, 5 * MIB);
            table.holds(connection, 10 * MIB);
        }
        let ended = |c: &&Arc<Connection>| c.end.is_cancelled();
        assert_eq!(idle.iter().filter(ended).count(), 1);
        assert!(ended(&&idle[0]) && !ended(&&few), "little does not count");
        // What zeromq has made room for does not count again.
        table.holds(&idle[1], 10 * MIB);
        table.heard(&idle[1]);
        let sends = table.enter();
        table.holds(&sends, 10 * MIB);
        assert!(!ended(&&idle[1]) && ended(&&idle[2]) && !ended(&&sends));
    }
}
