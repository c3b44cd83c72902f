//! A host: how it starts, and how it ends.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_protocol::op::AgentCounts;
use skep_transport::Wire;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::admission::Bounds;
use crate::agent::slots::Slots;
use crate::agent::spec::Rules;
use crate::audit::{self, Audit};
use crate::config::Config;
use crate::core::{Core, Endpoints};
use crate::opening::{self, Opened};
use crate::runner::native::{AccountError, NativeConfig, NativeRunner};
use crate::runner::wasm::{WasmConfig, WasmRunner};
use crate::scratch::Root;
use crate::{
    components, health, helper, kept, log, past, paths, registry, retention, server, state_dir,
    store, tally,
};

/// Compiled components that are kept ready.
const CACHED_COMPONENTS: usize = 256;

/// Beyond the grace, a shutdown waits so long for agents that were killed.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// How long the record of requests is waited for then.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// How long the last answers may take once every agent has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not be set up with this configuration.
    #[error("the wasm engine did not start: {0}")]
    Engine(String),
    /// There is no binary that checks and compiles components.
    #[error(
        "no helper is configured: begin `main` with `skep_host::helper::serve_if_asked()`, so that \
         this program can be its own, or name the binary `skep` (server.helper)"
    )]
    NoHelper,
    /// This process was started as a helper of another host, and its `main`
    /// starts a host instead. Without this it would go on for ever.
    #[error(
        "this process was started as the helper of a host: `main` must begin with \
         `skep_host::helper::serve_if_asked()`"
    )]
    IsHelper,
    /// Native agents cannot be whom the operator says.
    #[error(transparent)]
    NativeUser(#[from] AccountError),
    /// The logs of agents have no place.
    #[error(transparent)]
    Logs(#[from] log::OpenError),
    /// The record of requests has no place.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The state directory is another host's, or cannot be used.
    #[error(transparent)]
    StateDir(#[from] state_dir::ClaimError),
    /// What outlives the host has no place.
    #[error(transparent)]
    Store(#[from] store::OpenError),
}

/// How a host is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It serves many agents: slots are set up beforehand.
    Serve,
    /// The same, of a host that promises nothing beyond its own end: no store, and
    /// logs in memory alone.
    ServeInMemory,
    /// It runs one agent: nothing is set up that one agent does not need, and
    /// nothing is left on disk.
    RunOne,
}

impl Purpose {
    /// Whether it serves many agents.
    fn is_for_many(self) -> bool {
        matches!(self, Self::Serve | Self::ServeInMemory)
    }

    /// Whether the next host on the state directory goes on with what it finds.
    pub(crate) fn keeps(self) -> bool {
        self == Self::Serve
    }
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    pub(crate) core: Arc<Core>,
    end: CancellationToken,
    server: JoinHandle<()>,
}

impl Host {
    /// Starts a host on the current runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(
        config: &Config,
        wire: Wire,
        endpoints: Endpoints,
        purpose: Purpose,
    ) -> Result<Self, StartError> {
        if helper::asked().is_some() {
            return Err(StartError::IsHelper);
        }
        let helper = config.helper.as_ref().ok_or(StartError::NoHelper)?;
        let capacity = &config.capacity;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wasm = WasmRunner::new(WasmConfig {
            max_agents: capacity.max_agents,
            memory_bytes: capacity.memory_bytes,
            helper: helper.clone(),
            compile_workers: capacity.compile_workers,
            compile_time: capacity.compile_time,
            compile_memory_bytes: capacity.compile_memory_bytes,
            cache_dir: config.cache_dir.clone(),
            cache_bytes: capacity.cache_bytes,
            cached_components: CACHED_COMPONENTS,
            pooling: purpose.is_for_many(),
            guest_threads: cores,
            ..WasmConfig::default()
        })
        .map_err(|error| StartError::Engine(format!("{error:#}")))?;
        // What lies there is granted to agents, by paths without links.
        let state_dir = paths::without_links(&config.state_dir);
        let native = config.native.as_ref().map(|native| {
            NativeRunner::new(NativeConfig {
                shim: helper.clone(),
                programs: native.programs.clone(),
                user: native.user.clone(),
                private: (config.cache_dir.iter().map(|dir| paths::without_links(dir)))
                    .chain([state_dir.clone()])
                    .collect(),
            })
        });
        let native = native.transpose()?.map(Arc::new);
        let root_of = |name| Root::new(state_dir.join(name), purpose.keeps());
        let (scratch_root, inputs_root) = (root_of("scratch"), root_of("inputs"));
        let kept = kept::Kept::new(capacity.kept_files_bytes);
        let history = log::Budget::new(capacity.history_bytes);
        let Opened {
            store,
            recovered,
            fates,
            logs,
            left,
        } = opening::open(config, purpose, &history)?;
        let past = past::Past::new(store.clone(), logs.clone(), Arc::clone(&history));
        let audit = config.audit.map(|bounds| {
            let dir = config.state_dir.join("audit");
            audit::Audit::open(&dir, bounds, &config.server_id)
        });
        let core = Arc::new(Core {
            server_id: config.server_id.clone(),
            endpoints,
            started: Instant::now(),
            rules: Rules {
                defaults: config.defaults,
                ceilings: config.ceilings,
                dir_roots: config.dir_roots.clone(),
                cache_dir: config.cache_dir.clone(),
                // Who keeps nothing there may be asked for the directory that it
                // lies in.
                state_dir: purpose.keeps().then(|| config.state_dir.clone()),
            },
            scratch_root,
            inputs_root,
            kept: Arc::clone(&kept),
            grace: config.grace,
            slots: Slots::new(Bounds {
                max_agents: capacity.max_agents,
                max_queued: capacity.max_queued,
                memory_bytes: capacity.limits_bytes(),
            }),
            registry: registry::Registry::new(
                retention::Bounds {
                    max_ended: capacity.max_ended,
                    max_ended_age: capacity.max_ended_age,
                },
                history,
                past,
                store.clone(),
                Arc::clone(&kept),
            ),
            counts: Arc::default(),
            components: components::Components::new(capacity.components_bytes),
            logs,
            replies: Arc::default(),
            store,
            wasm: Arc::new(wasm),
            native,
            publisher: wire.publisher,
            meter: wire.meter,
            tally: tally::Tally::default(),
            audit: audit.transpose()?,
            records: Arc::default(),
            vitals: health::Vitals::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            left: Mutex::default(),
            drivers: TaskTracker::new(),
            answering: TaskTracker::new(),
        });
        let end = CancellationToken::new();
        // Who waits for all agents to end waits for these as well.
        let coming = core.drivers.token();
        let server = tokio::spawn({
            let (core, end) = (Arc::clone(&core), end.clone());
            async move {
                // Before any newcomer, and before anybody asks for them.
                core.take_up(recovered, fates).await;
                drop(coming);
                tokio::task::spawn_blocking({
                    let core = Arc::clone(&core);
                    move || opening::keep_again(&core, left)
                });
                server::serve(core, wire.inbox, end).await;
            }
        });
        // Of a host for one agent nobody asks how it is.
        if purpose.is_for_many() {
            let state_dir = config.state_dir.clone();
            tokio::spawn(health::watch(Arc::clone(&core), state_dir, end.clone()));
        }
        Ok(Self { core, end, server })
    }

    /// How many agents are in which state.
    #[must_use]
    pub fn agents(&self) -> AgentCounts {
        self.core.counts.read()
    }

    /// Asks every agent to stop, waits for the grace, and ends: when it returns, every
    /// agent has ended and its end was published, or it is left to the next host.
    /// Requests are answered until then, spawns with `shutting_down`.
    pub async fn shutdown(self) {
        // In this order: who sees that no more runs come sees why.
        self.core.shutdown.cancel();
        self.core.draining.cancel();
        self.core.drivers.close();
        let patience = self.core.grace + AFTER_GRACE;
        if tokio::time::timeout(patience, self.core.drivers.wait())
            .await
            .is_err()
        {
            tracing::error!(
                agents = self.core.drivers.len(),
                "agents did not end in time"
            );
        }
        self.end.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server ended by a panic");
        }
        // No agent is here any more, so that whoever waited for one can be told
        // before the sockets close.
        self.core.answering.close();
        let answered = self.core.answering.wait();
        if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
            tracing::error!("requests were left without their answer");
        }
        tokio::join!(close_audit(&self.core), self.core.store.close());
    }
}

/// Writes what waits to be recorded. Neither does a disk that does not answer keep
/// the host, nor is the thread that waits for it waited for.
async fn close_audit(core: &Arc<Core>) {
    let core = Arc::clone(core);
    let closed = tokio::task::spawn_blocking(move || core.audit.as_ref().map(Audit::close));
    match tokio::time::timeout(LAST_RECORDS, closed).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!(%error, "the audit record ended by a panic"),
        Err(_) => tracing::error!(
            "the disk of the audit record did not answer: what was asked last is not in it"
        ),
    }
}
