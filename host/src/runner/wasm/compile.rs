//! From components to their compiled form: in a process of its own, or taken
//! from disk, and then kept on the shelf.
//!
//! A component that is known costs a lookup in a map. The threads here wait for
//! processes; so many run at once. What nobody waits for any more is ended, or
//! never begun.
//!
//! A component that compiles for long is begun anew behind others that do:
//! whoever sends many of them holds up their like for minutes, and everybody
//! else for a second each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use skep_protocol::{Digest, ErrorCode};
use tokio::sync::{Semaphore, oneshot};

use super::WasmConfig;
use super::adapt::recognise;
use super::cache::Cache;
use super::engine::Engines;
use super::inspect::Facts;
use super::load::{Compiled, load};
use super::outside::{Error, Outside, Patience};
use super::refusal::Refusal;
use super::shelf::{Compilation, Flight, Found, Shelf};
use super::weight::weight;
use super::workers::{Priority, Workers};

/// Components that may wait to be checked, each with its bytes. Whoever comes
/// later is told to try again.
const MAX_CHECKS: usize = 64;

/// Requests that may wait for a [`trial`](Compiler::trial), the one at hand included.
const MAX_TRIALS: usize = 64;

/// Why there is no compiled form.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The component's fault.
    Refused(Refusal),
    /// Ours; the log has it under this name.
    Fault { incident: String },
    /// The host goes, or nobody waits.
    Unwanted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) | Error::OutOfTime(refusal) => Self::Refused(refusal),
            Error::Fault { incident } => Self::Fault { incident },
            Error::Unwanted => Self::Unwanted,
        }
    }
}

/// All compiled components, and the threads that wait for processes. Checking
/// does not wait behind compiling, which takes much longer.
#[derive(Debug)]
pub(super) struct Compiler {
    shared: Arc<Shared>,
    /// For what was compiled before, and lies on disk.
    loading: Workers,
    compiling: Arc<Workers>,
    /// For what takes long; where there is none, nothing is begun anew.
    long: Option<Arc<Workers>>,
    checking: Workers,
    /// The one trial, and all that wait for it.
    trial: Semaphore,
    trials: Semaphore,
}

#[derive(Debug)]
struct Shared {
    engines: Arc<Engines>,
    outside: Outside,
    cache: Cache,
    shelf: Shelf,
    ending: AtomicBool,
}

impl Compiler {
    pub(super) fn new(config: &WasmConfig, engines: Arc<Engines>) -> std::io::Result<Self> {
        let fingerprint = engines.fingerprint();
        let shared = Arc::new(Shared {
            engines,
            outside: Outside::new(config, fingerprint),
            cache: Cache::new(config.cache_dir.clone(), fingerprint, config.cache_bytes),
            shelf: Shelf::new(config.cached_components),
            ending: AtomicBool::new(false),
        });
        // Whoever was killed while it waited leaves its place in the queue
        // behind, so there is room for more than live at a time.
        let bound = config.max_agents.saturating_mul(2).max(64);
        let priority = if config.pooling {
            Priority::Guests
        } else {
            Priority::Control
        };
        let workers =
            |name, threads: usize, bound| Workers::new(name, threads.max(1), bound, priority);
        let threads = config.compile_workers;
        // A host for one agent has nobody to be held up.
        let long = if config.pooling {
            Some(workers("compile-long", threads / 2, bound)?)
        } else {
            None
        };
        Ok(Self {
            shared,
            loading: workers("load", threads, bound)?,
            compiling: Arc::new(workers("compile", threads, bound)?),
            long: long.map(Arc::new),
            checking: workers("check", threads, MAX_CHECKS)?,
            trial: Semaphore::new(1),
            trials: Semaphore::new(MAX_TRIALS),
        })
    }

    /// What a component is: known, found on disk, or told by a process. When
    /// nobody waits for it any more, that process is ended.
    pub(super) async fn check(&self, digest: Digest, bytes: Bytes) -> Result<Facts, Failure> {
        if let Some(compiled) = self.shared.shelf.ready(&digest) {
            return Ok(compiled.facts.clone());
        }
        recognise(&bytes).map_err(Failure::Refused)?;
        let (told, answer) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let job = move || {
            let unwanted = || told.is_closed() || shared.ending.load(Relaxed);
            let facts = match shared.read_from_disk(digest) {
                Ok(Some(compiled)) => Ok(compiled.facts.clone()),
                Ok(None) | Err(_) => shared
                    .outside
                    .check(&bytes, &unwanted)
                    .map_err(Failure::from),
            };
            let _gone = told.send(facts);
        };
        if self.checking.push(job).is_err() {
            return Err(Failure::Refused(Refusal::of(
                ErrorCode::Capacity,
                "too many components wait to be checked: try again",
            )));
        }
        answer.await.unwrap_or_else(|_| {
            Err(if self.shared.ending.load(Relaxed) {
                Failure::Unwanted
            } else {
                Failure::Fault {
                    incident: crate::incident("checking a component panicked"),
                }
            })
        })
    }

    /// The compiled form, which may have to be waited for.
    pub(super) async fn compiled(&self, digest: Digest, bytes: &Bytes) -> Compilation {
        let found = self.shared.shelf.find(digest, bytes, |flight| {
            let shared = Arc::clone(&self.shared);
            let compiling = Arc::downgrade(&self.compiling);
            let long = self.long.as_ref().map(Arc::downgrade);
            let job = move || shared.load_or_compile(digest, flight, &compiling, long);
            self.loading.push(job).is_ok()
        });
        match found {
            Found::Ready(compiled) => Ok(compiled),
            Found::Awaited(awaited) => awaited.compiled().await,
            Found::Full => Err(too_many()),
        }
    }

    /// Whether a component can be compiled, for who does not start it. One at a time is
    /// tried, so that those who start theirs wait for no more of these than for each
    /// other.
    pub(super) async fn trial(&self, digest: Digest, bytes: &Bytes) -> Result<(), Failure> {
        let _waits = self.trials.try_acquire().map_err(|_| too_many())?;
        let _turn = self.trial.acquire().await.map_err(|_| Failure::Unwanted)?;
        self.compiled(digest, bytes).await.map(drop)
    }

    pub(super) fn is_compiled(&self, digest: &Digest) -> bool {
        self.shared.shelf.ready(digest).is_some()
    }

    pub(super) fn hits(&self) -> u64 {
        self.shared.shelf.hits()
    }

    pub(super) fn misses(&self) -> u64 {
        self.shared.shelf.misses()
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.shared.ending.store(true, Relaxed);
    }
}

fn too_many() -> Failure {
    Failure::Refused(Refusal::of(
        ErrorCode::Capacity,
        "too many components wait to be compiled: try again",
    ))
}

impl Shared {
    /// Runs on a thread that loads: what lies on disk waits for nobody's compilation.
    fn load_or_compile(
        self: Arc<Self>,
        digest: Digest,
        flight: Weak<Flight>,
        compiling: &Weak<Workers>,
        long: Option<Weak<Workers>>,
    ) {
        if flight.strong_count() == 0 {
            return self.shelf.forget(digest, &flight);
        }
        let read = catch_unwind(AssertUnwindSafe(|| self.read_from_disk(digest)));
        let landed = match read {
            Ok(Ok(Some(compiled))) => Ok(compiled),
            Ok(Ok(None)) | Err(_) => {
                let (shared, of_job) = (Arc::clone(&self), flight.clone());
                let job = move || shared.compile(digest, of_job, long);
                match compiling.upgrade().map(|compiling| compiling.push(job)) {
                    Some(Ok(())) => return,
                    Some(Err(_)) => Err(too_many()),
                    None => Err(Failure::Unwanted),
                }
            }
            Ok(Err(error)) => Err(error.into()),
        };
        self.land(digest, &flight, landed);
    }

    fn land(&self, digest: Digest, flight: &Weak<Flight>, compilation: Compilation) {
        if compilation.is_err() {
            self.shelf.forget(digest, flight);
        }
        if let Some(flight) = flight.upgrade() {
            flight.land(compilation);
        }
    }

    /// Runs on a thread of the compiler. What takes too long for a quick start
    /// goes on to those for `long`, if there are any.
    fn compile(self: Arc<Self>, digest: Digest, flight: Weak<Flight>, long: Option<Weak<Workers>>) {
        // The bytes alone: whoever holds the flight waits for it.
        let bytes = flight.upgrade().map(|flight| flight.bytes.clone());
        let Some(bytes) = bytes else {
            self.shelf.forget(digest, &flight);
            return;
        };
        let unwanted = || flight.strong_count() == 0 || self.ending.load(Relaxed);
        let patience = match long {
            Some(_) => Patience::Quick,
            None => Patience::Whole,
        };
        let made = catch_unwind(AssertUnwindSafe(|| {
            self.make(digest, &bytes, patience, &unwanted)
        }));
        let compilation: Compilation = match made {
            Ok(Ok(compiled)) => Ok(compiled),
            Ok(Err(Error::OutOfTime(refusal))) => match long.and_then(|long| long.upgrade()) {
                Some(long) => {
                    let (shared, of_job) = (Arc::clone(&self), flight.clone());
                    if long
                        .push(move || shared.compile(digest, of_job, None))
                        .is_ok()
                    {
                        return;
                    }
                    Err(Failure::Refused(Refusal::of(
                        ErrorCode::Capacity,
                        "too many components wait that take long to compile",
                    )))
                }
                None => Err(Failure::Refused(refusal)),
            },
            Ok(Err(error)) => Err(error.into()),
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
        self.land(digest, &flight, compilation);
    }

    fn make(
        &self,
        digest: Digest,
        bytes: &[u8],
        patience: Patience,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Arc<Compiled>, Error> {
        let (facts, code) = self.outside.compile(bytes, patience, unwanted)?;
        let compiled = Arc::new(self.load(&facts, &code)?);
        // Before it is told: a host for one agent may be gone soon after.
        self.cache.put(&digest, &compiled.facts, &code);
        self.shelf.keep(digest, Arc::clone(&compiled));
        Ok(compiled)
    }

    /// A component that was compiled before, by this host or another. What cannot be
    /// loaded is compiled again.
    ///
    /// # Errors
    ///
    /// `capacity`, where compiling it would not help.
    fn read_from_disk(&self, digest: Digest) -> Result<Option<Arc<Compiled>>, Error> {
        let Some((facts, code)) = self.cache.get(&digest) else {
            return Ok(None);
        };
        match self.load(&facts, &code) {
            Ok(compiled) => {
                let compiled = Arc::new(compiled);
                self.shelf.keep(digest, Arc::clone(&compiled));
                Ok(Some(compiled))
            }
            Err(error) if is_capacity(&error) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Loads code. Where all that is loaded leaves no room for it, what nobody uses goes.
    fn load(&self, facts: &Facts, code: &[u8]) -> Result<Compiled, Error> {
        loop {
            match load(&self.engines, facts.clone(), code) {
                Err(error) if is_capacity(&error) => {
                    let lacking = self.engines.loaded.lacking(weight(code) as u64);
                    // None where somebody gave back as much meanwhile.
                    if lacking > 0 && !self.shelf.drop_idle(lacking) {
                        return Err(error);
                    }
                }
                loaded => return loaded,
            }
        }
    }
}

fn is_capacity(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == ErrorCode::Capacity)
}

#[cfg(test)]
mod tests;
