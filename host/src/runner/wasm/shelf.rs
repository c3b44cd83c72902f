//! The compiled components in memory, by digest, and those that are awaited:
//! each is compiled once, however many ask for it at a time, and kept while
//! there is room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use skep_protocol::Digest;
use tokio::sync::watch;

use super::compile::Failure;
use super::load::Compiled;

/// Code that is kept besides what runs: some thousand ordinary components.
const MAX_BYTES: usize = 1024 * 1024 * 1024;

pub(super) type Compilation = Result<Arc<Compiled>, Failure>;

/// A compilation that is awaited. Without anybody who waits it is gone.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) bytes: Bytes,
    landed: watch::Sender<Option<Compilation>>,
}

impl Flight {
    pub(super) fn land(&self, compilation: Compilation) {
        self.landed.send_replace(Some(compilation));
    }
}

/// What was found for a digest.
pub(super) enum Found {
    Ready(Arc<Compiled>),
    Awaited(Awaited),
    /// Too many wait to be compiled.
    Full,
}

/// A compilation that somebody waits for.
pub(super) struct Awaited(Arc<Flight>);

impl Awaited {
    pub(super) async fn compiled(self) -> Compilation {
        let mut landed = self.0.landed.subscribe();
        match landed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(compilation)) => compilation.clone(),
            // The sender is in the flight, which is held here.
            Ok(None) | Err(_) => Err(Failure::Fault {
                incident: crate::incident("a compilation got lost"),
            }),
        }
    }
}

#[derive(Debug)]
enum Entry {
    Ready { compiled: Arc<Compiled>, used: u64 },
    UnderWay(Weak<Flight>),
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Digest, Entry>,
    clock: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Shelf {
    state: Mutex<State>,
    bound: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Shelf {
    /// So many are kept.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            state: Mutex::default(),
            bound: bound.max(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The compiled form, or the wait for it. `begin` is asked, where it must
    /// be, to see to its compilation, and tells whether it will.
    pub(super) fn find(
        &self,
        digest: Digest,
        bytes: &Bytes,
        begin: impl FnOnce(Weak<Flight>) -> bool,
    ) -> Found {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        match state.entries.get_mut(&digest) {
            Some(Entry::Ready { compiled, used }) => {
                *used = now;
                self.hits.fetch_add(1, Relaxed);
                return Found::Ready(Arc::clone(compiled));
            }
            Some(Entry::UnderWay(flight)) => {
                if let Some(flight) = flight.upgrade() {
                    self.hits.fetch_add(1, Relaxed);
                    return Found::Awaited(Awaited(flight));
                }
            }
            None => {}
        }
        let flight = Arc::new(Flight {
            bytes: bytes.clone(),
            landed: watch::Sender::new(None),
        });
        if !begin(Arc::downgrade(&flight)) {
            return Found::Full;
        }
        let under_way = Entry::UnderWay(Arc::downgrade(&flight));
        state.entries.insert(digest, under_way);
        self.misses.fetch_add(1, Relaxed);
        Found::Awaited(Awaited(flight))
    }

    /// A component that is ready.
    pub(super) fn ready(&self, digest: &Digest) -> Option<Arc<Compiled>> {
        match self.state().entries.get(digest)? {
            Entry::Ready { compiled, .. } => Some(Arc::clone(compiled)),
            Entry::UnderWay(_) => None,
        }
    }

    pub(super) fn keep(&self, digest: Digest, compiled: Arc<Compiled>) {
        let mut state = self.state();
        state.clock += 1;
        let used = state.clock;
        let ready = Entry::Ready { compiled, used };
        let mut gone: Vec<Entry> = state.entries.insert(digest, ready).into_iter().collect();
        gone.extend(state.make_room(self.bound));
        drop(state);
        // Code is unmapped outside of the lock.
        drop(gone);
    }

    /// Lets go of so many bytes of what no agent uses, what was used longest ago first;
    /// of nothing, and says so, if there are not as many.
    pub(super) fn drop_idle(&self, bytes: u64) -> bool {
        let mut state = self.state();
        let mut idle: Vec<_> = state
            .ready()
            .filter(|(_, compiled, _)| Arc::strong_count(compiled) == 1)
            .map(|(used, compiled, digest)| (used, compiled.size as u64, digest))
            .collect();
        if idle.iter().map(|(_, size, _)| size).sum::<u64>() < bytes {
            return false;
        }
        idle.sort_unstable();
        let (mut gone, mut freed) = (Vec::new(), 0);
        for (_, size, digest) in idle {
            if freed >= bytes {
                break;
            }
            gone.extend(state.entries.remove(&digest));
            freed += size;
        }
        drop(state);
        // Code is unmapped outside of the lock.
        drop(gone);
        true
    }

    /// Forgets this flight, and not one that began after it.
    pub(super) fn forget(&self, digest: Digest, flight: &Weak<Flight>) {
        let mut state = self.state();
        if let Some(Entry::UnderWay(current)) = state.entries.get(&digest)
            && current.ptr_eq(flight)
        {
            state.entries.remove(&digest);
        }
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    pub(super) fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }
}

impl State {
    /// What is ready: when it was used last, and its digest.
    fn ready(&self) -> impl Iterator<Item = (u64, &Arc<Compiled>, Digest)> {
        self.entries
            .iter()
            .filter_map(|(digest, entry)| match entry {
                Entry::Ready { compiled, used } => Some((*used, compiled, *digest)),
                Entry::UnderWay(_) => None,
            })
    }

    /// Takes out what was used longest ago until the bounds hold. What was used
    /// last stays, however large it is.
    fn make_room(&mut self, bound: usize) -> Vec<Entry> {
        let mut ready: Vec<_> = (self.ready())
            .map(|(used, compiled, digest)| (used, compiled.size, digest))
            .collect();
        let mut bytes: usize = ready.iter().map(|(_, size, _)| size).sum();
        let mut count = ready.len();
        let mut evicted = Vec::new();
        ready.sort_unstable();
        for (_, size, digest) in ready {
            if count <= 1 || (count <= bound && bytes <= MAX_BYTES) {
                break;
            }
            evicted.extend(self.entries.remove(&digest));
            bytes -= size;
            count -= 1;
        }
        evicted
    }
}
