//! What a guest holds while it lives, and every limit of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use skep_protocol::{ErrorCode, Limits};
use tokio::sync::watch;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::census::Needs;
use super::files::{Descriptors, Files, FilesView};
use super::fuel;
use super::limiter::Limiter;
use super::memory::HostMemory;
use super::refusal::Refusal;
use super::stdio::{Input, Output};
use super::usage::Meters;
use super::verdict::Killed;
use crate::runner::{DiskUse, GrantedDir, Progress, Task};

/// How many ticks a guest computes before it lets another.
const TURN: u64 = 1;

/// The most random bytes of a call, however much may go through one: wasmtime
/// makes each by itself, a mebibyte in 5 to 10 ms, and a turn is not over before.
const RANDOM_BYTES: u64 = 1 << 20;

/// What was ordered from outside.
#[derive(Debug, Default)]
pub(super) struct Orders {
    stop: AtomicBool,
    kill: AtomicBool,
}

impl Orders {
    pub(super) fn ask_stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(super) fn stop_asked(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(super) fn kill(&self) {
        self.kill.store(true, Relaxed);
    }

    pub(super) fn killed(&self) -> bool {
        self.kill.load(Relaxed)
    }
}

/// What a guest holds.
pub(super) struct Held {
    wasi: WasiCtx,
    table: ResourceTable,
    files: Files,
    pub(super) limiter: Limiter,
    pub(super) name: String,
    pub(super) task: Arc<Task>,
    pub(super) progress: watch::Sender<Option<Progress>>,
    pub(super) orders: Arc<Orders>,
    meters: Arc<Meters>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl WasiView for Held {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl Held {
    pub(super) fn files(&mut self) -> FilesView<'_> {
        FilesView {
            files: &self.files,
            table: &mut self.table,
        }
    }
}

/// What a store is made of.
pub(super) struct Parts<'a> {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) task: Arc<Task>,
    pub(super) dirs: &'a [GrantedDir],
    pub(super) disk: DiskUse,
    pub(super) descriptors: &'a Descriptors,
    pub(super) stdin: Input,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) limits: &'a Limits,
    pub(super) progress: watch::Sender<Option<Progress>>,
    pub(super) orders: Arc<Orders>,
    pub(super) meters: Arc<Meters>,
    pub(super) memory: Arc<HostMemory>,
    pub(super) needs: &'a Needs,
}

/// A store with all of its limits. Opens the directories that were granted.
pub(super) fn open(engine: &Engine, parts: Parts<'_>) -> Result<Store<Held>, Refusal> {
    let mut wasi = WasiCtx::builder();
    wasi.arg(&parts.name).args(&parts.args).envs(&parts.env);
    wasi.stdin(parts.stdin)
        .stdout(parts.stdout)
        .stderr(parts.stderr);
    wasi.allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    let limits = parts.limits;
    wasi.max_random_size(limits.hostcall_bytes.min(RANDOM_BYTES));
    let mut limiter = Limiter::new(limits, parts.memory, Arc::clone(&parts.meters));
    if !limiter.begin_with(parts.needs) {
        return Err(Refusal::of(
            ErrorCode::Capacity,
            "the agents of this host use all the memory that they may: try again when some \
             have ended",
        ));
    }
    let meters = Arc::clone(&parts.meters);
    let held = Held {
        wasi: wasi.build(),
        table: ResourceTable::new(),
        files: Files::open(
            parts.dirs,
            limits,
            parts.disk,
            parts.descriptors,
            parts.meters,
        )?,
        limiter,
        name: parts.name,
        task: parts.task,
        progress: parts.progress,
        orders: parts.orders,
        meters,
    };
    let mut store = Store::try_new(engine, held).map_err(internal)?;
    apply(&mut store, limits).map_err(internal)?;
    Ok(store)
}

/// Applies every limit that a store has.
fn apply(store: &mut Store<Held>, limits: &Limits) -> wasmtime::Result<()> {
    let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    store
        .data_mut()
        .table
        .set_max_capacity(bytes(limits.handles));
    store.set_max_component_handles(bytes(limits.handles));
    store.set_hostcall_fuel(bytes(limits.hostcall_bytes));
    store.limiter(|held| &mut held.limiter);
    store.set_fuel(store.data().meters.fuel.at_start())?;
    store.fuel_async_yield_interval(Some(fuel::INTERVAL))?;
    store.set_epoch_deadline(TURN);
    store.epoch_deadline_callback(|mut store| {
        let left = store.get_fuel()?;
        let held = store.data();
        if held.orders.killed() {
            return Err(wasmtime::Error::new(Killed));
        }
        held.meters.tick();
        let fuel = &held.meters.fuel;
        fuel.left(left);
        if fuel.is_spent() {
            return Err(wasmtime::Trap::OutOfFuel.into());
        }
        if let Some(fuel) = fuel.claim() {
            store.set_fuel(fuel)?;
        }
        Ok(UpdateDeadline::Yield(TURN))
    });
    Ok(())
}

fn internal(error: wasmtime::Error) -> Refusal {
    tracing::error!("a store could not be made: {error:#}");
    Refusal::of(ErrorCode::Internal, "the guest's store could not be made")
}
