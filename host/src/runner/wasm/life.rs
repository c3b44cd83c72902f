//! The life of a guest: compiled, made, run, and judged. It returns how the
//! guest ended, never an error. Dropping it at any point ends the guest.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::{Digest, ErrorCode, Limits};
use tokio::sync::{mpsc, watch};
use wasmtime::Store;

use super::compile::{Compiler, Failure};
use super::engine::Engines;
use super::epoch::Ticker;
use super::files::Descriptors;
use super::load::Compiled;
use super::memory::HostMemory;
use super::refusal::Refusal;
use super::stdio::{Input, Output};
use super::store::{self, Held, Orders, Parts};
use super::usage::Meters;
use super::verdict::{self, Phase};
use crate::runner::{DiskUse, End, GrantedDir, GuestEvent, Progress, Task};

/// What all guests of a runner share.
#[derive(Debug)]
pub(super) struct House {
    // The order is that of dropping: the clock stops before its engines go.
    pub(super) ticker: Ticker,
    pub(super) compiler: Compiler,
    pub(super) engines: Arc<Engines>,
    pub(super) descriptors: Descriptors,
    pub(super) memory: Arc<HostMemory>,
}

/// What a guest is given.
pub(super) struct Given {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) task: Arc<Task>,
    pub(super) limits: Limits,
    pub(super) dirs: Vec<GrantedDir>,
    pub(super) disk: DiskUse,
    pub(super) stdin: Input,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) events: mpsc::Sender<GuestEvent>,
    pub(super) progress: watch::Sender<Option<Progress>>,
    pub(super) orders: Arc<Orders>,
    pub(super) meters: Arc<Meters>,
}

/// Lives.
pub(super) async fn live(house: Arc<House>, given: Given) -> End {
    match begin(&house, given).await {
        Ok(end) => end,
        Err(Failure::Refused(Refusal { code, message, .. })) => {
            verdict::start_failed(code, message)
        }
        Err(Failure::Fault { incident }) => End::Fault { incident },
        Err(Failure::Unwanted) => End::Killed,
    }
}

async fn begin(house: &House, given: Given) -> Result<End, Failure> {
    let refuse = |code, message: &str| Err(Failure::Refused(Refusal::of(code, message)));
    if given.bytes.len() as u64 > given.limits.component_bytes {
        return refuse(
            ErrorCode::TooLarge,
            "the component is larger than its limit component_bytes",
        );
    }
    let compiled = house.compiler.compiled(given.digest, &given.bytes).await?;
    compiled
        .facts
        .admits(&given.limits)
        .map_err(Failure::Refused)?;
    let Some(_memories) = house.engines.reserve(compiled.place, &compiled.facts) else {
        return refuse(
            ErrorCode::Capacity,
            "the host has no address space left for its memories",
        );
    };
    let _ticking = house.ticker.start();
    run(house, &compiled, given).await
}

/// A store whose last reading of fuel is taken however it goes.
struct Metered {
    store: Store<Held>,
    meters: Arc<Meters>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Ok(left) = self.store.get_fuel() {
            self.meters.fuel.left(left);
        }
    }
}

/// Of a guest for which the allocator held more than this, nothing stays with it: making
/// as much takes longer than giving it back.
const PURGED_BYTES: u64 = 256 * 1024;

/// Dropped after the guest's store.
struct Leavings(Arc<Meters>);

impl Drop for Leavings {
    fn drop(&mut self) {
        if self.0.heap_bytes() > PURGED_BYTES {
            crate::allocator::purge();
        }
    }
}

async fn run(house: &House, compiled: &Compiled, given: Given) -> Result<End, Failure> {
    let (stdout, stderr) = (given.stdout.clone(), given.stderr.clone());
    let parts = Parts {
        name: given.name,
        args: given.args,
        env: given.env,
        task: given.task,
        dirs: &given.dirs,
        disk: given.disk,
        descriptors: &house.descriptors,
        stdin: given.stdin,
        stdout: given.stdout,
        stderr: given.stderr,
        limits: &given.limits,
        progress: given.progress,
        orders: given.orders,
        meters: Arc::clone(&given.meters),
        memory: Arc::clone(&house.memory),
        needs: &compiled.facts.needs,
    };
    let store = store::open(compiled.command.engine(), parts).map_err(Failure::Refused)?;
    let leavings = Leavings(Arc::clone(&given.meters));
    let mut metered = Metered {
        store,
        meters: given.meters,
    };
    let store = &mut metered.store;
    let (phase, result) = match compiled.command.instantiate_async(&mut *store).await {
        Ok(command) => {
            // There is room for both events; only the driver may be gone.
            let _ = given.events.try_send(GuestEvent::Running);
            (
                Phase::Running,
                command.wasi_cli_run().call_run(&mut *store).await,
            )
        }
        Err(error) => (Phase::Starting, Err(error)),
    };
    let end = match result {
        Ok(Ok(())) => End::Exited(0),
        Ok(Err(())) => End::Exited(1),
        Err(error) => verdict::of(&error, phase, store.data().limiter.refused()),
    };
    // Its memory goes before the last of its output has been read.
    drop(metered);
    drop(leavings);
    stdout.drain().await;
    stderr.drain().await;
    Ok(end)
}
