//! Components in compiled form, by digest: each is compiled once, on threads
//! that do nothing else, and kept while there is room.
//!
//! A component that is known costs a lookup in a map. Compiling is not
//! interrupted when nobody waits for it any more; what has not begun by then is
//! left out.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use skep_protocol::{Digest, ErrorCode};
use tokio::sync::watch;
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::WasmConfig;
use super::engine::{Engines, Place};
use super::inspect::{Facts, examine};
use super::refusal::Refusal;
use super::store::Held;
use super::workers::{Priority, Workers};

/// A component that can be started.
pub(super) struct Compiled {
    pub(super) facts: Facts,
    pub(super) place: Place,
    pub(super) command: CommandPre<Held>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Why there is no compiled form.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The component's fault.
    Refused(Refusal),
    /// Ours; the log has it under this name.
    Fault { incident: String },
}

type Compilation = Result<Arc<Compiled>, Failure>;

/// A compilation that is awaited. Without anybody who waits it is gone.
#[derive(Debug)]
struct Flight {
    bytes: Bytes,
    landed: watch::Sender<Option<Compilation>>,
}

#[derive(Debug)]
enum Entry {
    Ready { compiled: Arc<Compiled>, used: u64 },
    UnderWay(Weak<Flight>),
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<Digest, Entry>,
    clock: u64,
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

/// All compiled components, and the threads that compile.
#[derive(Debug)]
pub(super) struct Compiler {
    shared: Arc<Shared>,
    workers: Workers,
}

#[derive(Debug)]
struct Shared {
    engines: Arc<Engines>,
    shelf: Mutex<Shelf>,
    bound: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Compiler {
    pub(super) fn new(config: &WasmConfig, engines: Arc<Engines>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            engines,
            shelf: Mutex::default(),
            bound: config.cached_components.max(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        // Whoever was killed while it waited leaves its place in the queue
        // behind, so there is room for more than live at a time.
        let bound = config.max_agents.saturating_mul(2).max(64);
        let priority = if config.pooling {
            Priority::Guests
        } else {
            Priority::Control
        };
        let workers = Workers::new("compile", config.compile_workers, bound, priority)?;
        Ok(Self { shared, workers })
    }

    /// The compiled form, or the wait for it.
    pub(super) fn get(&self, digest: Digest, bytes: &Bytes) -> Found {
        let mut shelf = self.shared.lock();
        shelf.clock += 1;
        let now = shelf.clock;
        match shelf.entries.get_mut(&digest) {
            Some(Entry::Ready { compiled, used }) => {
                *used = now;
                self.shared.hits.fetch_add(1, Relaxed);
                return Found::Ready(Arc::clone(compiled));
            }
            Some(Entry::UnderWay(flight)) => {
                if let Some(flight) = flight.upgrade() {
                    self.shared.hits.fetch_add(1, Relaxed);
                    return Found::Awaited(Awaited(flight));
                }
            }
            None => {}
        }
        let flight = Arc::new(Flight {
            bytes: bytes.clone(),
            landed: watch::Sender::new(None),
        });
        let shared = Arc::clone(&self.shared);
        let of_job = Arc::downgrade(&flight);
        let job = move || shared.compile(digest, &of_job);
        if self.workers.push(job).is_err() {
            return Found::Full;
        }
        shelf
            .entries
            .insert(digest, Entry::UnderWay(Arc::downgrade(&flight)));
        drop(shelf);
        self.shared.misses.fetch_add(1, Relaxed);
        Found::Awaited(Awaited(flight))
    }

    pub(super) fn is_compiled(&self, digest: &Digest) -> bool {
        matches!(
            self.shared.lock().entries.get(digest),
            Some(Entry::Ready { .. })
        )
    }

    pub(super) fn hits(&self) -> u64 {
        self.shared.hits.load(Relaxed)
    }

    pub(super) fn misses(&self) -> u64 {
        self.shared.misses.load(Relaxed)
    }
}

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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on a thread of the compiler.
    fn compile(&self, digest: Digest, flight: &Weak<Flight>) {
        let Some(flight) = flight.upgrade() else {
            self.forget(digest, flight);
            return;
        };
        let compiled = catch_unwind(AssertUnwindSafe(|| build(&self.engines, &flight.bytes)));
        let compilation = match compiled {
            Ok(Ok(compiled)) => Ok(Arc::new(compiled)),
            Ok(Err(refusal)) => Err(Failure::Refused(refusal)),
            Err(panic) => {
                let cause = format!(
                    "compiling {digest} panicked: {}",
                    super::panic_text(&*panic)
                );
                Err(Failure::Fault {
                    incident: crate::incident(&cause),
                })
            }
        };
        match &compilation {
            Ok(compiled) => self.keep(digest, Arc::clone(compiled)),
            Err(_) => self.forget(digest, &Arc::downgrade(&flight)),
        }
        flight.landed.send_replace(Some(compilation));
    }

    fn keep(&self, digest: Digest, compiled: Arc<Compiled>) {
        let mut shelf = self.lock();
        shelf.clock += 1;
        let used = shelf.clock;
        shelf
            .entries
            .insert(digest, Entry::Ready { compiled, used });
        let ready = |entry: &Entry| match entry {
            Entry::Ready { used, .. } => Some(*used),
            Entry::UnderWay(_) => None,
        };
        let mut evicted = None;
        if shelf.entries.values().filter_map(ready).count() > self.bound {
            let oldest = shelf
                .entries
                .iter()
                .filter_map(|(digest, entry)| Some((ready(entry)?, *digest)))
                .min();
            evicted = oldest.and_then(|(_, digest)| shelf.entries.remove(&digest));
        }
        drop(shelf);
        // Its code is unmapped outside of the lock.
        drop(evicted);
    }

    /// Forgets this flight, and not one that began after it.
    fn forget(&self, digest: Digest, flight: &Weak<Flight>) {
        let mut shelf = self.lock();
        if let Some(Entry::UnderWay(current)) = shelf.entries.get(&digest)
            && current.ptr_eq(flight)
        {
            shelf.entries.remove(&digest);
        }
    }
}

fn build(engines: &Engines, bytes: &[u8]) -> Result<Compiled, Refusal> {
    let (facts, component) = examine(bytes)?;
    let place = engines.place(&facts);
    let command = match command(engines, place, &component) {
        Ok(command) => Ok((place, command)),
        // It was validated, so what the pool's engine has against it is its
        // size, which cannot be told beforehand.
        Err(_) if place == Place::Pool => {
            command(engines, Place::OnDemand, &component).map(|command| (Place::OnDemand, command))
        }
        Err(error) => Err(error),
    };
    match command {
        Ok((place, command)) => Ok(Compiled {
            facts,
            place,
            command,
        }),
        Err(error) => Err(Refusal::of(
            ErrorCode::InvalidComponent,
            format!("{error:#}"),
        )),
    }
}

fn command(
    engines: &Engines,
    place: Place,
    component: &[u8],
) -> wasmtime::Result<CommandPre<Held>> {
    let backend = engines.at(place)?;
    let component = Component::from_binary(&backend.engine, component)?;
    CommandPre::new(backend.linker.instantiate_pre(&component)?)
}
