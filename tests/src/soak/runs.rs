//! Trying cases many at a time, and watching the host meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_client::Client;
use skep_client::protocol::{Limits, RunnerKind};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::hostile::{Case, Timing};
use crate::resources::resident;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The bytes of the host's that those who live now may take, by their limits.
pub(super) type Promised = Arc<AtomicU64>;

/// What came of all tries.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// How often each row was tried.
    pub(super) tries: BTreeMap<&'static str, u64>,
    /// What ended otherwise than it must.
    pub(super) wrong: Vec<String>,
    /// What got out, or saw what was another's.
    pub(super) escapes: Vec<String>,
    pub(super) overdue: Slowest,
    pub(super) kill: Slowest,
    pub(super) native_kill: Slowest,
}

/// The longest that something took, and of which case.
#[derive(Debug, Default)]
pub(super) struct Slowest {
    pub(super) took: Duration,
    pub(super) case: String,
}

impl Slowest {
    fn add(&mut self, case: &Case, took: Option<Duration>) {
        if let Some(took) = took.filter(|took| *took > self.took) {
            self.took = took;
            self.case = case.name();
        }
    }
}

impl Ledger {
    fn add(&mut self, case: &Case, tried: Result<Timing, JoinError>) {
        *self.tries.entry(case.row).or_default() += 1;
        match tried {
            Ok(timing) => {
                self.overdue.add(case, timing.overdue);
                let kill = match case.spec.runner {
                    RunnerKind::Wasm => &mut self.kill,
                    RunnerKind::Native => &mut self.native_kill,
                };
                kill.add(case, timing.kill);
            }
            Err(error) if case.guards => self.escapes.push(said(error)),
            Err(error) => self.wrong.push(said(error)),
        }
    }
}

fn said(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "was not tried to its end".to_owned();
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked without a word")
        .to_owned()
}

/// So many cases, each row as often as another.
pub(super) fn draw(cases: &[Arc<Case>], count: usize, seed: u64) -> Vec<Arc<Case>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rows: BTreeMap<&str, Vec<&Arc<Case>>> = BTreeMap::new();
    for case in cases {
        rows.entry(case.row).or_default().push(case);
    }
    let rows: Vec<_> = rows.into_values().collect();
    let one = |random: &mut fastrand::Rng| -> Option<Arc<Case>> {
        let row = random.choice(&rows)?;
        random.choice(row).map(|case| Arc::clone(case))
    };
    (0..count).filter_map(|_| one(&mut random)).collect()
}

/// Tries them, so many at a time.
///
/// # Panics
/// Never: what panics is an entry of the ledger.
pub(super) async fn try_all(
    client: &Client,
    cases: Vec<Arc<Case>>,
    at_once: usize,
    promised: &Promised,
    ledger: &mut Ledger,
) {
    let places = Arc::new(Semaphore::new(at_once));
    let mut trying = JoinSet::new();
    for case in cases {
        let place = Arc::clone(&places).acquire_owned().await;
        let (client, promised) = (client.clone(), Arc::clone(promised));
        trying.spawn(async move {
            let may_take = may_take(&case);
            promised.fetch_add(may_take, Ordering::Relaxed);
            let of_case = Arc::clone(&case);
            let tried = tokio::spawn(async move { of_case.try_on(&client).await }).await;
            promised.fetch_sub(may_take, Ordering::Relaxed);
            drop(place);
            (case, tried)
        });
        while let Some(Ok((case, tried))) = trying.try_join_next() {
            ledger.add(&case, tried);
        }
    }
    while let Some(Ok((case, tried))) = trying.join_next().await {
        ledger.add(&case, tried);
    }
}

/// What the host may have more in memory while this case is tried: what its agent has
/// there. The memory of native agents is that of other processes, and logs are on disk.
fn may_take(case: &Case) -> u64 {
    match case.spec.runner {
        RunnerKind::Wasm => Limits::default().with(&case.spec.limits).memory_bytes,
        RunnerKind::Native => 0,
    }
}

/// Looks at the host's memory all the while.
pub(super) struct Watch {
    end: oneshot::Sender<()>,
    watching: JoinHandle<Seen>,
}

/// What was seen of it, in bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) peak: u64,
    /// The most that was resident over the base and all that was promised.
    pub(super) over: u64,
}

impl Watch {
    pub(super) fn start(pid: u32, base: u64, promised: Promised) -> Self {
        let (end, mut ended) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    _ = &mut ended => return seen,
                    _ = look.tick() => {}
                }
                let now = resident(pid);
                let may_be = base + promised.load(Ordering::Relaxed);
                seen.peak = seen.peak.max(now);
                seen.over = seen.over.max(now.saturating_sub(may_be));
            }
        });
        Self { end, watching }
    }

    pub(super) async fn end(self) -> Seen {
        let _ = self.end.send(());
        self.watching.await.unwrap_or_default()
    }
}
