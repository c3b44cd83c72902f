//! The connections of a gate. Where there are too many, one is ended for the newcomer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of the descriptors that the process may open, connections of one socket have a
/// fifth: guests have half of them, and logs need some.
const DESCRIPTORS_SHARE: u64 = 5;

/// Of a connection: the peer's, and both ends of the one to zeromq.
const DESCRIPTORS: u64 = 3;

/// A process of few descriptors serves a few clients all the same.
const FEW: usize = 32;

/// One connection may be behind by this part of what no other is behind by.
const SHARE: usize = 4;

/// And by so much whatever others do, until all together have twice what they may: then
/// whoever is behind for longest ends.
const LEAST: usize = 64 * 1024;

/// Bytes that zeromq keeps for connections: of each as many as its longest message had,
/// and the longest that it was sent, for as long as it is there.
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
    most_behind: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    connections: HashMap<u64, Entry>,
    newest: u64,
    /// The sums of all entries.
    held: usize,
    subscriptions: usize,
    behind: usize,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    end: CancellationToken,
    has_shaken_hands: bool,
    last_heard: Instant,
    subscriptions: usize,
    /// Bytes of the longest message that it has sent, and that it was sent.
    longest: [usize; 2],
    /// Bytes of memory for what its peer has not taken, and since when there were some; of
    /// a subscriber, since when it has taken none.
    behind: usize,
    behind_since: Option<Instant>,
}

/// A place in the table.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// Resolves when the connection shall end.
    pub(super) end: CancellationToken,
}

/// On its way to zeromq, or from there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    In,
    Out,
}

impl Table {
    /// For so many connections, which may be behind by so many bytes in all.
    pub(super) fn new(max: usize, most_behind: usize) -> Self {
        Self {
            max,
            most_behind,
            known: Mutex::default(),
        }
    }

    /// A place for a newcomer. If there is none, the connection that was silent for
    /// longest ends, whoever has not shaken hands first: those who only sit there keep
    /// nobody out, and who is ended comes back.
    pub(super) fn enter(&self) -> Place {
        let mut known = self.known();
        if known.connections.len() >= self.max.min(descriptors_allow()) {
            let why = "there are too many connections: those silent for longest end";
            known.end_first(why, |entry| {
                Some((entry.has_shaken_hands, entry.last_heard))
            });
        }
        let (number, end) = (known.newest, CancellationToken::new());
        known.newest += 1;
        let entry = Entry {
            end: end.clone(),
            has_shaken_hands: false,
            last_heard: Instant::now(),
            subscriptions: 0,
            longest: [0; 2],
            behind: 0,
            behind_since: None,
        };
        known.connections.insert(number, entry);
        Place { number, end }
    }

    pub(super) fn leave(&self, place: &Place) {
        self.known().remove(place.number);
    }

    /// It has sent something.
    pub(super) fn heard(&self, place: &Place) {
        self.with(place, |entry| entry.last_heard = Instant::now());
    }

    pub(super) fn shook_hands(&self, place: &Place) {
        self.with(place, |entry| entry.has_shaken_hands = true);
    }

    /// Notes how many subscriptions it has. Where all have too many, whoever has most
    /// ends.
    pub(super) fn subscribed(&self, place: &Place, count: usize) {
        let mut known = self.known();
        let Some(entry) = known.connections.get_mut(&place.number) else {
            return;
        };
        let before = std::mem::replace(&mut entry.subscriptions, count);
        known.subscriptions = known.subscriptions - before + count;
        if known.subscriptions > MOST_SUBSCRIPTIONS {
            let why = "there are too many subscriptions: the connections with most end";
            known.end_first(why, |entry| Some(Reverse(entry.subscriptions)));
        }
    }

    /// Notes how long a message of it is. Where too much is held for all, whoever is
    /// silent for longest of those for whom there is some ends: who sends is not waited
    /// for, and who says nothing keeps nobody waiting.
    pub(super) fn holds(&self, place: &Place, way: Way, bytes: usize) {
        if bytes <= UNCOUNTED {
            return;
        }
        let mut known = self.known();
        let Some(entry) = known.connections.get_mut(&place.number) else {
            return;
        };
        let [sent, was_sent] = &mut entry.longest;
        let longest = match way {
            Way::In => sent,
            Way::Out => was_sent,
        };
        let before = *longest;
        *longest = before.max(bytes);
        known.held += bytes.saturating_sub(before);
        while known.held > MOST_HELD {
            let why = "messages take too much memory: connections silent for longest end";
            let silent = |entry: &Entry| (entry.held() > 0).then_some(entry.last_heard);
            if !known.end_first(why, silent) {
                return;
            }
        }
    }

    /// By how many bytes one connection may be behind now.
    pub(super) fn share(&self) -> usize {
        let left = self.most_behind.saturating_sub(self.known().behind);
        LEAST.max(left / SHARE)
    }

    /// Notes how much memory what waits for its peer takes. Where it is twice too much for
    /// all, whoever is behind for longest ends: others have their least. How many ended.
    pub(super) fn behind(&self, place: &Place, bytes: usize) -> usize {
        let mut known = self.known();
        let Some(entry) = known.connections.get_mut(&place.number) else {
            return 0;
        };
        let before = std::mem::replace(&mut entry.behind, bytes);
        entry.behind_since = match entry.behind_since {
            _ if bytes == 0 => None,
            None => Some(Instant::now()),
            since => since,
        };
        known.behind = known.behind - before + bytes;
        let mut ended = 0;
        while known.behind > self.most_behind.saturating_mul(2) && known.end_slowest(Duration::ZERO)
        {
            ended += 1;
        }
        ended
    }

    /// A subscriber that is behind has taken something. However slow it is, those come
    /// before it that take nothing. What a client is owed waits until it has taken all.
    pub(super) fn took(&self, place: &Place) {
        self.with(place, |entry| {
            entry.behind_since = entry.behind_since.map(|_| Instant::now());
        });
    }

    /// Whether one was behind for so long without a break, and is ended.
    pub(super) fn end_slowest(&self, patience: Duration) -> bool {
        self.known().end_slowest(patience)
    }

    pub(super) fn end_strangers(&self) {
        for entry in self.known().connections.values() {
            if !entry.has_shaken_hands {
                entry.end.cancel();
            }
        }
    }

    fn with(&self, place: &Place, change: impl FnOnce(&mut Entry)) {
        // One that was ended is no longer there.
        if let Some(entry) = self.known().connections.get_mut(&place.number) {
            change(entry);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Ends the connection that comes first by `order`, of those that have one, and of
    /// equal ones the oldest; tells why, of many once. Whether there was one.
    fn end_first<T: Ord>(&mut self, why: &str, order: impl Fn(&Entry) -> Option<T>) -> bool {
        let places = self.connections.iter();
        let first = places
            .filter_map(|(number, entry)| Some((order(entry)?, *number)))
            .min();
        let Some(entry) = first.and_then(|(_, number)| self.remove(number)) else {
            return false;
        };
        entry.end.cancel();
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            tracing::info!("{why}");
        }
        true
    }

    fn end_slowest(&mut self, patience: Duration) -> bool {
        let why = "too much is unread: the connections that are behind for longest end";
        self.end_first(why, |entry| {
            entry
                .behind_since
                .filter(|since| since.elapsed() >= patience)
        })
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.connections.remove(&number)?;
        self.behind -= entry.behind;
        self.held -= entry.held();
        self.subscriptions -= entry.subscriptions;
        Some(entry)
    }
}

impl Entry {
    fn held(&self) -> usize {
        self.longest.iter().sum()
    }
}

fn descriptors_allow() -> usize {
    // As of now: the host may ask for more when it has started.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / DESCRIPTORS_SHARE / DESCRIPTORS)
        .unwrap_or(usize::MAX)
        .max(FEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn whoever_was_silent_for_longest_gives_way() {
        let table = Table::new(3, MIB);
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
        let table = Table::new(100, MIB);
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
        let table = Table::new(100, MIB);
        let second = Duration::from_secs(1);
        let [reads, slow, slower] = [(); 3].map(|()| table.enter());
        for connection in [&slower, &slow] {
            tokio::time::advance(second).await;
            table.behind(connection, 1);
        }
        for _ in 0..5 {
            table.behind(&reads, 1);
            tokio::time::advance(second).await;
            table.behind(&reads, 0);
        }
        table.behind(&reads, 1);
        assert!(!table.end_slowest(7 * second));
        assert!(table.end_slowest(2 * second));
        assert!(slower.end.is_cancelled() && !slow.end.is_cancelled());
        assert!(table.end_slowest(2 * second) && slow.end.is_cancelled());
        assert!(!table.end_slowest(2 * second) && !reads.end.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_do_not_read_leave_room_for_one_who_does() {
        let table = Table::new(100, MIB);
        assert_eq!(table.share(), MIB / 4);
        let reads = table.enter();
        table.behind(&reads, 1);
        let deaf: Vec<_> = (0..30).map(|_| table.enter()).collect();
        for one in &deaf[..20] {
            tokio::time::advance(Duration::from_millis(10)).await;
            let share = table.share();
            assert_eq!(table.behind(one, share), 0);
        }
        assert_eq!(table.share(), LEAST);
        for one in &deaf[20..] {
            tokio::time::advance(Duration::from_millis(10)).await;
            table.behind(&reads, LEAST);
            table.behind(one, LEAST);
            table.took(&reads);
        }
        let ended = deaf.iter().take_while(|one| one.end.is_cancelled()).count();
        assert!((1..10).contains(&ended), "{ended}");
        assert!(!deaf[ended..].iter().any(|one| one.end.is_cancelled()));
        assert!(!reads.end.is_cancelled());
        for one in deaf.into_iter().chain([reads]) {
            table.leave(&one);
        }
        assert_eq!(table.share(), MIB / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_gives_way_to_those_who_send() {
        let table = Table::new(100, MIB);
        let few = table.enter();
        let idle: Vec<_> = (0..26).map(|_| table.enter()).collect();
        table.holds(&few, Way::In, UNCOUNTED);
        for connection in &idle {
            tokio::time::advance(Duration::from_millis(10)).await;
            table.heard(connection);
            table.holds(connection, Way::In, 5 * MIB);
            table.holds(connection, Way::In, 10 * MIB);
        }
        let ended = |place: &&Place| place.end.is_cancelled();
        assert_eq!(idle.iter().filter(ended).count(), 1);
        assert!(ended(&&idle[0]) && !ended(&&few), "little does not count");
        // What zeromq has made room for does not count again.
        table.holds(&idle[1], Way::In, 10 * MIB);
        table.heard(&idle[1]);
        let sends = table.enter();
        table.holds(&sends, Way::In, 10 * MIB);
        assert!(!ended(&&idle[1]) && ended(&&idle[2]) && !ended(&&sends));
        // What it is sent is kept besides.
        table.holds(&sends, Way::Out, MIB);
        assert!(!ended(&&idle[3]));
        table.holds(&sends, Way::Out, 10 * MIB);
        assert!(ended(&&idle[3]) && !ended(&&sends));
    }
}
