//! The engines: what a guest may be made of, and where its memory comes from.
//!
//! Two engines at most: one that takes memories, tables and stacks from a pool
//! made beforehand, and one that asks the system each time, for components that
//! don't fit the pool. The second is made when it is first needed. Neither ever
//! uses Winch, and neither compiles: a third does, in a process of its own, and
//! its code is for both.
//!
//! Costs: the pool reserves address space (about 8 GiB an agent), not memory.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmparser::WasmFeatures;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::WasmConfig;
use super::inspect::Facts;
use super::linker;
use super::memory::HostMemory;
use super::store::Held;

/// What one component may take from the pool. The totals are multiples of
/// these, so that no agent can empty the pool for another.
const POOL_INSTANCES: u32 = 16;
const POOL_MEMORIES: u32 = 2;
const POOL_TABLES: u32 = 4;
const POOL_TABLE_ELEMENTS: usize = 20_000;

/// Guests that have ended but whose memory is still being given back.
const POOL_SLACK: usize = 16;

/// The most agents that a pool is made for: 64 TiB of the 128 TiB of address
/// space that a process has. Those beyond it are refused when the pool is full.
const POOL_AGENTS: usize = 8_000;

/// Memories that the second engine may have at a time, each a reservation of
/// 4 GiB: 16 TiB. Without it, a few hundred components with many empty
/// memories use up the address space of the whole host.
const ON_DEMAND_MEMORIES: usize = 4_096;

/// Bytes of all code that is loaded: the shelf has half of it at most, the rest is for
/// what agents hold that it has let go. Without it, a thousand agents of a thousand large
/// components would have a hundred gibibytes.
const MAX_LOADED: u64 = 2 * 1024 * 1024 * 1024;

/// What is left of a stack for calls into the host.
const HOST_STACK: usize = 1536 * 1024;

/// What a guest may be made of: WebAssembly 3 without threads, 64-bit memories,
/// garbage collection and exceptions, in components without async.
pub(super) fn features() -> WasmFeatures {
    let mut features = WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL;
    features.remove(
        WasmFeatures::THREADS
            | WasmFeatures::MEMORY64
            | WasmFeatures::GC
            | WasmFeatures::GC_TYPES
            | WasmFeatures::EXCEPTIONS
            | WasmFeatures::FUNCTION_REFERENCES
            | WasmFeatures::CM_ASYNC,
    );
    features
}

/// An engine with everything that a host offers to its guests.
pub(super) struct Backend {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Held>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

/// Which engine a component was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pool,
    OnDemand,
}

/// Both engines.
#[derive(Debug)]
pub(super) struct Engines {
    pool: Option<Backend>,
    on_demand: OnceLock<Backend>,
    on_demand_memories: std::sync::Arc<Semaphore>,
    wasm_stack_bytes: usize,
    /// The code that is loaded, and what is kept besides.
    pub(super) loaded: std::sync::Arc<HostMemory>,
}

impl Engines {
    pub(super) fn new(config: &WasmConfig) -> wasmtime::Result<Self> {
        let mut engines = Self {
            pool: None,
            on_demand: OnceLock::new(),
            on_demand_memories: std::sync::Arc::new(Semaphore::new(ON_DEMAND_MEMORIES)),
            wasm_stack_bytes: config.wasm_stack_bytes,
            loaded: HostMemory::new(MAX_LOADED),
        };
        if config.pooling {
            match engines.backend(Some(pool(config.max_agents))) {
                Ok(backend) => engines.pool = Some(backend),
                // A container may allow less address space than a pool needs.
                Err(error) => tracing::warn!("guests run without a pool of memories: {error:#}"),
            }
        }
        if engines.pool.is_none() {
            let backend = engines.backend(None)?;
            engines.on_demand.get_or_init(|| backend);
        }
        Ok(engines)
    }

    /// Where a component of this shape should live.
    pub(super) fn place(&self, facts: &Facts) -> Place {
        let needs = &facts.needs;
        let fits = needs.instances <= POOL_INSTANCES.into()
            && needs.memories <= POOL_MEMORIES.into()
            && needs.tables <= POOL_TABLES.into()
            && needs.largest_table <= POOL_TABLE_ELEMENTS as u64
            && needs.memories_per_module <= POOL_MEMORIES.into()
            && needs.tables_per_module <= POOL_TABLES.into();
        if fits && self.pool.is_some() {
            Place::Pool
        } else {
            Place::OnDemand
        }
    }

    /// The engine of that place.
    pub(super) fn at(&self, place: Place) -> wasmtime::Result<&Backend> {
        if let (Place::Pool, Some(backend)) = (place, &self.pool) {
            return Ok(backend);
        }
        if let Some(backend) = self.on_demand.get() {
            return Ok(backend);
        }
        let made = self.backend(None)?;
        Ok(self.on_demand.get_or_init(|| made))
    }

    /// The [fingerprint] of all engines.
    pub(super) fn fingerprint(&self) -> u64 {
        let backend = self.pool.as_ref().or_else(|| self.on_demand.get());
        // There is one, or there were no engines.
        backend.map_or(0, |backend| fingerprint(&backend.engine))
    }

    /// The address space for the memories of one guest, or `None` where too
    /// much of it is taken.
    pub(super) fn reserve(
        &self,
        place: Place,
        facts: &Facts,
    ) -> Option<Option<OwnedSemaphorePermit>> {
        if place == Place::Pool {
            return Some(None);
        }
        let memories = u32::try_from(facts.needs.memories).ok()?;
        std::sync::Arc::clone(&self.on_demand_memories)
            .try_acquire_many_owned(memories)
            .ok()
            .map(Some)
    }

    /// Lets the guests of both engines know that time has passed.
    pub(super) fn tick(&self) {
        for backend in self.pool.iter().chain(self.on_demand.get()) {
            backend.engine.increment_epoch();
        }
    }

    fn backend(&self, pool: Option<PoolingAllocationConfig>) -> wasmtime::Result<Backend> {
        let mut config = settings();
        config
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(super::verdict::MAX_FRAMES))
            .max_wasm_stack(self.wasm_stack_bytes)
            .async_stack_size(self.wasm_stack_bytes.saturating_add(HOST_STACK))
            .async_stack_zeroing(true);
        if let Some(pool) = pool {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        let engine = Engine::new(&config)?;
        let linker = linker::of(&engine)?;
        Ok(Backend { engine, linker })
    }
}

/// What compiling depends on: the same for each engine.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .strategy(wasmtime::Strategy::Cranelift)
        .consume_fuel(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        // An image of a memory's data is a descriptor, for each memory of each
        // component that is kept: twenty components with a thousand memories
        // would take all that the host has. So data is copied.
        .memory_init_cow(false)
        .wasm_features(
            WasmFeatures::all().difference(features()) & known_to_wasmtime(),
            false,
        )
        .wasm_component_model(true);
    config
}

/// An engine that compiles for the others.
pub(super) fn for_compiling(parallel: bool) -> wasmtime::Result<Engine> {
    let mut config = settings();
    config.parallel_compilation(parallel);
    Engine::new(&config)
}

/// What code is compiled for: it runs on engines with the same fingerprint, and
/// only there. Stable as long as the engine is, and what is done to components
/// before they are compiled.
pub(super) fn fingerprint(engine: &Engine) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    super::bulk::VERSION.hash(&mut hasher);
    hasher.finish()
}

/// The features that `Config` may be told about; the rest is off by itself.
fn known_to_wasmtime() -> WasmFeatures {
    WasmFeatures::WASM3
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::GC_TYPES
        | WasmFeatures::LEGACY_EXCEPTIONS
}

fn pool(max_agents: usize) -> PoolingAllocationConfig {
    let agents = max_agents.min(POOL_AGENTS).saturating_add(POOL_SLACK);
    let agents = u32::try_from(agents).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(agents)
        .total_core_instances(agents.saturating_mul(POOL_INSTANCES))
        .total_memories(agents.saturating_mul(POOL_MEMORIES))
        .total_tables(agents.saturating_mul(POOL_TABLES))
        .total_stacks(agents)
        .max_core_instances_per_component(POOL_INSTANCES)
        .max_memories_per_component(POOL_MEMORIES)
        .max_tables_per_component(POOL_TABLES)
        .max_memories_per_module(POOL_MEMORIES)
        .max_tables_per_module(POOL_TABLES)
        .table_elements(POOL_TABLE_ELEMENTS)
        // Nothing of a slot stays resident for the next guest: 64 KiB of each
        // would save a guest some page faults, and leave the host 200 MiB
        // larger for good after a thousand of them.
        .max_memory_size(1 << 32);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_engines_take_what_is_inspected_and_compiled() {
        for pooling in [false, true] {
            let config = WasmConfig {
                max_agents: 4,
                pooling,
                ..WasmConfig::default()
            };
            let engines = Engines::new(&config).unwrap();
            for place in [Place::Pool, Place::OnDemand] {
                let engine = &engines.at(place).unwrap().engine;
                assert_eq!(engine.get_wasm_features(), features());
                assert_eq!(fingerprint(engine), engines.fingerprint());
            }
            for parallel in [false, true] {
                let compiling = for_compiling(parallel).unwrap();
                assert_eq!(fingerprint(&compiling), engines.fingerprint());
            }
        }
    }
}
