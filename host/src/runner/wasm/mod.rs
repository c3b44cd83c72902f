//! The wasm runner: components of WASI 0.2 on wasmtime, each in a store with
//! its own limits.
//!
//! It owns the engines, the compiled components, the threads that guests run on
//! and the clock that interrupts them. It never sees a request or a socket, and
//! nothing of a guest runs on a thread of the caller's. A warm start costs a
//! lookup, a hop to a guest thread and an instantiation: about 0.1 ms in all.
//!
//! - `engine` and `linker`: what a guest may be made of and link against; `linking`, with
//!   `shell`: whether it does
//! - `inspect`, with `adapt`, `offer`, `census`, `footprint`, `steps` and `play`: what a
//!   component is and needs, before anything is compiled
//! - `compile`, `load`, `weight` and `shelf`: the compiled components, with `outside`,
//!   where they are checked and compiled, and `cache`, where they are kept; `bulk` is what
//!   is done to their `modules` before
//! - `guest`, `life` and `crew`: a guest from its start to its `End`, and its turns
//! - `store`, `limiter`, `fuel`, `epoch` and `usage`: its limits and counters;
//!   `memory`: what all guests have together
//! - `stdio`, `files` and `agent_api`: its streams, its files, and `skep:agent`
//! - `verdict` and `refusal`: how it ended, and why it never ran

mod adapt;
mod agent_api;
mod bulk;
mod cache;
mod census;
mod compile;
mod crew;
mod engine;
mod epoch;
mod files;
mod footprint;
mod forms;
mod fuel;
mod guest;
mod inspect;
mod life;
mod limiter;
mod linker;
mod linking;
mod load;
mod memory;
mod modules;
mod offer;
mod outside;
mod play;
mod refusal;
mod shelf;
mod shell;
mod stdio;
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod usage;
mod verdict;
mod weight;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_protocol::{Digest, Enforced, Enforcement};
use tokio::sync::{mpsc, watch};

pub use self::census::Needs;
pub(crate) use self::compile::Failure;
pub use self::forms::broken_form;
pub use self::inspect::{Edition, Facts, Kind, describe};
pub(crate) use self::outside::compile_main;
pub use self::refusal::Refusal;

use self::compile::Compiler;
use self::crew::Crew;
use self::engine::Engines;
use self::epoch::Ticker;
use self::files::Descriptors;
use self::fuel::Fuel;
use self::guest::{Control, Slot};
use self::life::{Given, House};
use self::memory::HostMemory;
use self::stdio::{Input, Output};
use self::store::Orders;
use self::usage::Meters;
use self::workers::{Priority, Workers};
use super::{GUEST_EVENTS, Guest, Launch, Pipes, Program, Runner, Stand};

/// How guests are run.
#[derive(Debug, Clone)]
pub struct WasmConfig {
    /// Guests at a time, for which the pool is made.
    pub max_agents: usize,
    /// Bytes that the memories and tables of all guests may take together.
    pub memory_bytes: u64,
    /// The binary that checks and compiles, see [`crate::helper`].
    pub helper: PathBuf,
    /// Processes that compile at a time, and that check; with a pool, half as
    /// many more for what takes long.
    pub compile_workers: usize,
    /// Processor time that one component may take to be checked or compiled.
    pub compile_time: Duration,
    /// Memory that it may take.
    pub compile_memory_bytes: u64,
    /// Where compiled components are kept for the next start, if they are.
    pub cache_dir: Option<PathBuf>,
    /// How much is kept there; those used longest ago go first.
    pub cache_bytes: u64,
    /// Compiled components that are kept; those used longest ago go first.
    pub cached_components: usize,
    /// Whether memories come from a pool made beforehand: for a host of many
    /// agents, and a waste for one that runs a single one.
    pub pooling: bool,
    /// Threads that guests run on.
    pub guest_threads: usize,
    /// The stack that a guest may use, in bytes.
    pub wasm_stack_bytes: usize,
}

impl Default for WasmConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            max_agents: 1000,
            memory_bytes: u64::MAX,
            helper: crate::helper::own_binary().unwrap_or_default(),
            compile_workers: cores.div_ceil(2),
            compile_time: Duration::from_secs(15),
            compile_memory_bytes: 1 << 30,
            cache_dir: None,
            cache_bytes: 4 << 30,
            cached_components: 256,
            pooling: true,
            guest_threads: cores,
            wasm_stack_bytes: 512 * 1024,
        }
    }
}

/// Why there is no runner.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    /// The operator's: the engine cannot be made with this configuration on
    /// this machine.
    #[error("the WebAssembly engine cannot be made: {0}")]
    Engine(String),
    /// The operator's: the system gives no more threads.
    #[error("the threads for guests cannot be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// Runs components. Dropping it ends every guest.
#[derive(Debug)]
pub struct WasmRunner {
    house: Arc<House>,
    reapers: Arc<Workers>,
    crew: Crew,
}

impl WasmRunner {
    /// Makes the engine, its pool and all threads. Costs some milliseconds.
    ///
    /// # Errors
    ///
    /// Where the machine or the configuration does not allow it.
    pub fn new(config: WasmConfig) -> Result<Self, WasmError> {
        let engines =
            Engines::new(&config).map_err(|error| WasmError::Engine(format!("{error:#}")))?;
        let engines = Arc::new(engines);
        let of_ticker = Arc::clone(&engines);
        if config.pooling {
            Descriptors::raise();
        }
        let on_start = if config.pooling {
            yield_to_control
        } else {
            || ()
        };
        let crew = Crew::new(config.guest_threads, on_start)?;
        let nudge = crew.nudge();
        let tick = move || {
            of_ticker.tick();
            nudge();
        };
        let house = House {
            ticker: Ticker::new(tick)?,
            compiler: Compiler::new(&config, Arc::clone(&engines))?,
            memory: HostMemory::new(config.memory_bytes),
            engines,
            descriptors: Descriptors::of_process(),
        };
        // As many may end at once as live.
        let reaping = config.guest_threads.clamp(1, 4);
        let reapers = Workers::new(
            "reaper",
            reaping,
            config.max_agents.max(64),
            Priority::Control,
        )?;
        Ok(Self {
            house: Arc::new(house),
            reapers: Arc::new(reapers),
            crew,
        })
    }

    /// What a component is: see [`Facts`]. Costs a process, unless it is known.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) async fn check(&self, digest: Digest, bytes: Bytes) -> Result<Facts, Failure> {
        self.house.compiler.check(digest, bytes).await
    }

    /// Compiles a component as a start of it does, to find out whether it can be. One
    /// at a time, and so many wait.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(crate) async fn compile(&self, digest: Digest, bytes: &Bytes) -> Result<(), Failure> {
        self.house.compiler.trial(digest, bytes).await
    }

    /// Whether a component can be started without compiling it.
    #[must_use]
    pub fn is_compiled(&self, digest: &Digest) -> bool {
        self.house.compiler.is_compiled(digest)
    }

    /// Bytes that the memories and tables of all guests take.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.house.memory.used()
    }

    /// How many guests found their component compiled, or being compiled.
    #[must_use]
    pub fn compile_hits(&self) -> u64 {
        self.house.compiler.hits()
    }

    /// How many compilations were asked for.
    #[must_use]
    pub fn compile_misses(&self) -> u64 {
        self.house.compiler.misses()
    }
}

impl Runner for WasmRunner {
    fn enforced(&self) -> Enforced {
        Enforced::all(Enforcement::Enforced)
    }

    fn start(&self, launch: Launch, pipes: Pipes) -> Guest {
        let (events, driver_events) = mpsc::channel(GUEST_EVENTS);
        let (progress, driver_progress) = watch::channel(None);
        let orders = Arc::new(Orders::default());
        let (stand, driver_stand) = watch::channel(Stand::Goes);
        let fuel = Fuel::new(launch.limits.fuel, launch.on_fuel_exhausted);
        let meters = Arc::new(Meters::new(fuel));
        let listens = matches!(
            launch.program,
            Program::Component {
                asks_control: true,
                ..
            }
        );
        let life: guest::Life = match launch.program {
            Program::Component { digest, bytes, .. } => Box::pin(life::live(
                Arc::clone(&self.house),
                Given {
                    digest,
                    bytes,
                    name: launch.name,
                    args: launch.args,
                    env: launch.env.into_iter().collect(),
                    task: launch.task,
                    limits: launch.limits,
                    dirs: launch.dirs,
                    disk: launch.disk,
                    stdin: Input(Arc::new(pipes.stdin)),
                    stdout: Output::new(pipes.stdout),
                    stderr: Output::new(pipes.stderr),
                    events: events.clone(),
                    progress,
                    orders: Arc::clone(&orders),
                    meters: Arc::clone(&meters),
                },
            )),
            Program::Command(_) => Box::pin(async {
                let incident = crate::incident("the wasm runner was given a native program");
                super::End::Fault { incident }
            }),
        };
        let slot = Arc::new(Slot::new(life, events, stand, Arc::clone(&meters)));
        let seat = self.crew.seat(Arc::clone(&slot));
        let reapers = Arc::clone(&self.reapers);
        let control = Arc::new(Control {
            slot,
            orders,
            meters,
            listens,
            seat,
            reapers,
        });
        Guest {
            events: driver_events,
            progress: driver_progress,
            stand: driver_stand,
            control,
        }
    }
}

/// Lets threads of control go before this one. Not where a single agent runs,
/// which would only yield to other processes.
fn yield_to_control() {
    const LOWER: i32 = 5;
    // Where the system refuses, guests and control have the same priority.
    let _ = rustix::process::nice(LOWER);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}
