//! What all operations of a host work with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_transport::{Meter, Publisher};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::slots::Slots;
use crate::agent::spec::Rules;
use crate::audit::Audit;
use crate::components::Components;
use crate::dispatch::wire_error;
use crate::health::Vitals;
use crate::kept::Kept;
use crate::log::{Logs, RecordCount};
use crate::op::comeback::{Fate, come_back};
use crate::op::life::Holdings;
use crate::registry::{Registry, StateCounts};
use crate::replies::ReplyMemory;
use crate::runner::native::NativeRunner;
use crate::runner::wasm::WasmRunner;
use crate::scratch::Root;
use crate::store::{Recovered, Store};
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
    pub scratch_root: Root,
    pub inputs_root: Root,
    /// What agents left in their scratch.
    pub kept: Arc<Kept>,
    /// How long agents have to end when the host shuts down.
    pub grace: Duration,
    pub slots: Arc<Slots>,
    pub registry: Registry,
    pub counts: Arc<StateCounts>,
    pub components: Components,
    pub logs: Logs,
    pub replies: Arc<ReplyMemory>,
    pub store: Store,
    pub wasm: Arc<WasmRunner>,
    /// `None` while native agents are off.
    pub native: Option<Arc<NativeRunner>>,
    pub publisher: Publisher,
    pub meter: Meter,
    pub tally: Tally,
    /// The record of requests, if one is kept.
    pub audit: Option<Audit>,
    pub records: RecordCount,
    pub vitals: Vitals,
    /// Set when no more agents are taken and no agent is run again.
    pub draining: CancellationToken,
    /// Set when all agents are to end; then the former is, too.
    pub shutdown: CancellationToken,
    /// What agents hold that are left to the next host, until this one has ended:
    /// it is still asked to make room.
    pub(crate) left: Mutex<Vec<Holdings>>,
    pub drivers: TaskTracker,
    /// Requests that are being answered.
    pub answering: TaskTracker,
}

impl Core {
    /// Takes up what a host before has left.
    pub(crate) async fn take_up(self: &Arc<Self>, recovered: Recovered, fates: Vec<Fate>) {
        let Recovered {
            agents: _,
            replies,
            components,
            gone,
            uploads,
            written_ms: _,
        } = recovered;
        self.replies.take_up(replies);
        for upload in uploads {
            let (store, kept) = (self.store.clone(), upload.clone());
            let parts = tokio::task::spawn_blocking(move || store.read_parts(&kept)).await;
            match parts.ok().flatten() {
                Some(parts) => self.components.take_up_upload(&upload, parts),
                None => self.store.forget_uploads(vec![upload.digest]).await,
            }
        }
        if !gone.is_empty() {
            tracing::warn!(
                components = gone.len(),
                "components are forgotten: their files are gone or damaged, or what is written \
                 down of them is another build's"
            );
        }
        self.store.forget_components(gone).await;
        let deleted = components.iter().filter(|component| component.deleted);
        let deleted: Vec<_> = deleted.map(|component| component.digest).collect();
        self.components.take_up(components);
        come_back(self, fates, &deleted, wire_error).await;
    }

    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
