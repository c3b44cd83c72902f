//! What all operations of a host work with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_transport::{Meter, Publisher};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::slots::Slots;
use crate::agent::spec::Rules;
use crate::audit::Audit;
use crate::components::Components;
use crate::log::{Logs, RecordCount};
use crate::registry::{Registry, StateCounts};
use crate::replies::ReplyMemory;
use crate::runner::native::NativeRunner;
use crate::runner::wasm::WasmRunner;
use crate::tally::Tally;

/// Where a host can be reached, as it tells its clients.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    pub control: String,
    pub events: Option<String>,
}

/// The parts of a running host. Each guards itself; there is no lock over all.
#[derive(Debug)]
pub struct Core {
    pub server_id: String,
    pub endpoints: Endpoints,
    pub started: Instant,
    pub rules: Rules,
    pub scratch_root: PathBuf,
    /// How long agents have to end when the host shuts down.
    pub grace: Duration,
    pub slots: Arc<Slots>,
    pub registry: Registry,
    pub counts: Arc<StateCounts>,
    pub components: Components,
    pub logs: Logs,
    pub replies: Arc<ReplyMemory>,
    pub wasm: Arc<WasmRunner>,
    /// `None` while native agents are off.
    pub native: Option<Arc<NativeRunner>>,
    pub publisher: Publisher,
    pub meter: Meter,
    pub tally: Tally,
    /// The record of requests, if one is kept.
    pub audit: Option<Audit>,
    pub records: RecordCount,
    pub shutdown: CancellationToken,
    pub drivers: TaskTracker,
    /// Requests that are being answered.
    pub answering: TaskTracker,
}

impl Core {
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
