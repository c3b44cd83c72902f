//! The connections of a gate. Where there are too many, one is ended for the newcomer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fanout::Fanout;

/// Of the descriptors that the process may open, connections of one socket have a
/// fifth, and a sixth of that more where clients that have gone linger: guests have half
/// of them, and logs need some.
const DESCRIPTORS_SHARE: u64 = 5;

/// Of a connection: the peer's, and both ends of the one to zeromq.
const DESCRIPTORS: u64 = 3;

/// Whoever has gone may keep those two for a while, if it is one of so few: this part of
/// how many may be there.
const LINGERING: usize = 4;

/// A process of few descriptors serves a few clients all the same.
const FEW: usize = 32;

/// A subscriber may be behind by this part of what is left of what all may be.
const SHARE: usize = 4;

/// And by so much whatever others do, until all together have twice what they may: then
/// whoever has taken nothing for longest ends.
const LEAST: usize = 64 * 1024;

/// Bytes that zeromq keeps for clients: of each as many as its longest message had, and
/// as it was sent at once, for as long as it is there.
const MOST_HELD: usize = 256 * 1024 * 1024;

/// What does not count of them.
const UNCOUNTED: usize = 16 * 1024;

/// How often at most it is told that somebody gave way.
const TELL: Duration = Duration::from_secs(10);

/// Subscriptions of all connections.
const MOST_SUBSCRIPTIONS: usize = 16_384;

#[derive(Debug)]
pub(super) struct Table {
    max: usize,
    /// Where it is of subscribers.
    fanout: Option<Arc<Fanout>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    connections: HashMap<u64, Entry>,
    newest: u64,
    leaving: usize,
    /// The sums of all entries.
    held: usize,
    subscriptions: usize,
    handles: usize,
    /// The last that was ended because too much was untaken, until it has left: only then
    /// it is known what that gave back.
    ending: Option<u64>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    end: CancellationToken,
    has_shaken_hands: bool,
    /// When it has last sent or taken something.
    last_active: Instant,
    subscriptions: usize,
    /// Bytes of the longest message that it has sent, and of what it was sent at once.
    longest: [usize; 2],
    /// Bytes of the handles of what its peer has not taken.
    handles: usize,
    /// Since when there were some; of a subscriber, since when it has taken nothing.
    behind_since: Option<Instant>,
}

/// A place in the table.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// Resolves when the connection shall end.
    pub(super) end: CancellationToken,
}

/// One that has no place any more, and still its connection to zeromq.
#[derive(Debug)]
pub(super) struct Leaving<'a>(&'a Table);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.known().leaving -= 1;
    }
}

/// On its way to zeromq, or from there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    In,
    Out,
}

impl Table {
    /// For so many connections, of subscribers if there is a fan-out.
    pub(super) fn new(max: usize, fanout: Option<&Arc<Fanout>>) -> Self {
        Self {
            max,
            fanout: fanout.cloned(),
            known: Mutex::default(),
        }
    }

    /// A place for a newcomer. If there is none, the connection that was silent for
    /// longest ends, whoever has not shaken hands first: those who only sit there keep
    /// nobody out, and who is ended comes back.
    pub(super) fn enter(&self) -> Place {
        let mut known = self.known();
        if known.connections.len() >= self.most() {
            let why = "there are too many connections: those silent for longest end";
            known.end_first(why, |entry| {
                Some((entry.has_shaken_hands, entry.last_active))
            });
        }
        let (number, end) = (known.newest, CancellationToken::new());
        known.newest += 1;
        let entry = Entry {
            end: end.clone(),
            has_shaken_hands: false,
            last_active: Instant::now(),
            subscriptions: 0,
            longest: [0; 2],
            handles: 0,
            behind_since: None,
        };
        known.connections.insert(number, entry);
        Place { number, end }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known().connections.len()
    }

    pub(super) fn leave(&self, place: &Place) {
        let mut known = self.known();
        known.remove(place.number);
        if known.ending == Some(place.number) {
            known.ending = None;
        }
    }

    /// Whether one may stay for a while after it has left.
    pub(super) fn linger(&self) -> Option<Leaving<'_>> {
        let mut known = self.known();
        let may = known.leaving < self.most() / LINGERING;
        known.leaving += usize::from(may);
        may.then(|| Leaving(self))
    }

    /// It has sent something.
    pub(super) fn heard(&self, place: &Place) {
        self.with(place, |entry| entry.last_active = Instant::now());
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

    /// Notes how long a message of it is, or what it was sent at once. Where too much is
    /// held for all, whoever is silent for longest of those for whom there is some ends:
    /// who sends is not waited for, and who says nothing keeps nobody waiting.
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
            let silent = |entry: &Entry| (entry.held() > 0).then_some(entry.last_active);
            if known.end_first(why, silent).is_none() {
                return;
            }
        }
    }

    /// By how many bytes a subscriber may be behind now.
    pub(super) fn share(&self) -> usize {
        let Some(fanout) = &self.fanout else {
            return usize::MAX;
        };
        let behind = fanout.untaken().saturating_add(self.known().handles);
        LEAST.max(fanout.max_bytes().saturating_sub(behind) / SHARE)
    }

    /// Notes the handles of what its peer has not taken. Where all subscribers are behind
    /// by twice too much, whoever has taken nothing for longest ends, one at a time: the
    /// others have their least. Whether one did.
    pub(super) fn behind(&self, place: &Place, handles: usize) -> bool {
        let mut known = self.known();
        let Some(entry) = known.connections.get_mut(&place.number) else {
            return false;
        };
        let before = std::mem::replace(&mut entry.handles, handles);
        entry.behind_since = match entry.behind_since {
            _ if handles == 0 => None,
            None => Some(Instant::now()),
            since => since,
        };
        known.handles = known.handles - before + handles;
        let Some(fanout) = &self.fanout else {
            return false;
        };
        let behind = fanout.untaken().saturating_add(known.handles);
        if behind <= fanout.max_bytes().saturating_mul(2) || known.ending.is_some() {
            return false;
        }
        known.ending = known.end_slowest(Duration::ZERO);
        known.ending.is_some()
    }

    /// It has taken something. However slow a subscriber is, those come before it that
    /// take nothing; a client is behind until it has taken all that it is owed.
    pub(super) fn took(&self, place: &Place) {
        self.with(place, |entry| {
            entry.last_active = Instant::now();
            if self.fanout.is_some() {
                entry.behind_since = entry.behind_since.map(|_| entry.last_active);
            }
        });
    }

    /// Whether one was behind for so long without a break, and is ended.
    pub(super) fn end_slowest(&self, patience: Duration) -> bool {
        self.known().end_slowest(patience).is_some()
    }

    pub(super) fn end_strangers(&self) {
        for entry in self.known().connections.values() {
            if !entry.has_shaken_hands {
                entry.end.cancel();
            }
        }
    }

    fn most(&self) -> usize {
        self.max.min(descriptors_allow())
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
    /// equal ones the oldest; tells why, of many once. The number of that, if there was one.
    fn end_first<T: Ord>(&mut self, why: &str, order: impl Fn(&Entry) -> Option<T>) -> Option<u64> {
        let places = self.connections.iter();
        let first = places
            .filter_map(|(number, entry)| Some((order(entry)?, *number)))
            .min();
        let (_, number) = first?;
        self.remove(number)?.end.cancel();
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            tracing::info!("{why}");
        }
        Some(number)
    }

    fn end_slowest(&mut self, patience: Duration) -> Option<u64> {
        let why = "too much is unread: connections that do not take it end";
        self.end_first(why, |entry| {
            entry
                .behind_since
                .filter(|since| since.elapsed() >= patience)
        })
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.connections.remove(&number)?;
        self.handles -= entry.handles;
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
        let table = Table::new(3, None);
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

    #[test]
    fn only_a_few_may_linger() {
        let table = Table::new(2 * LINGERING, None);
        let [first, second] = [(); 2].map(|()| table.linger());
        assert!(first.is_some() && second.is_some() && table.linger().is_none());
        drop(first);
        assert!(table.linger().is_some());
    }

    #[tokio::test]
    async fn whoever_has_most_subscriptions_gives_way() {
        let table = Table::new(100, None);
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
        let table = Table::new(100, None);
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
        let table = Table::new(100, Some(&Fanout::new(MIB)));
        assert_eq!(table.share(), MIB / 4);
        let reads = table.enter();
        table.behind(&reads, 1);
        let deaf: Vec<_> = (0..30).map(|_| table.enter()).collect();
        for one in &deaf[..20] {
            tokio::time::advance(Duration::from_millis(10)).await;
            let share = table.share();
            assert!(!table.behind(one, share));
        }
        assert_eq!(table.share(), LEAST);
        let ended = |count: usize| {
            let (ended, not) = deaf.split_at(count);
            assert!(ended.iter().all(|one| one.end.is_cancelled()));
            assert!(!not.iter().chain([&reads]).any(|one| one.end.is_cancelled()));
        };
        for one in &deaf[20..] {
            tokio::time::advance(Duration::from_millis(10)).await;
            table.behind(&reads, LEAST);
            table.behind(one, LEAST);
            table.took(&reads);
        }
        ended(1);
        table.behind(&reads, 2 * LEAST);
        ended(1);
        table.leave(&deaf[0]);
        assert!(table.behind(&reads, 4 * LEAST));
        ended(2);
        for one in deaf.iter().chain([&reads]) {
            table.leave(one);
        }
        assert_eq!(table.share(), MIB / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_gives_way_to_those_who_send() {
        let table = Table::new(100, None);
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
