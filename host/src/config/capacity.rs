//! `[capacity]`: how much a host holds.

use std::time::Duration;

use super::{ConfigError, GIB, MIB, RawCapacity, RawDuration, RawSize, machine, positive};

/// How much a host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Agents that are not ended and do not wait.
    pub max_agents: usize,
    /// Agents that wait for their turn; one more is refused.
    pub max_queued: usize,
    /// Bytes that the memories and tables of all agents take; growth beyond it
    /// is refused.
    pub memory_bytes: u64,
    /// How many times that their limits may add up to; who would exceed it
    /// waits.
    pub memory_overcommit: u64,
    /// Ended agents that are remembered; then the oldest is forgotten.
    pub max_ended: usize,
    /// How long an ended agent is remembered.
    pub max_ended_age: Duration,
    /// Bytes of the output of all agents, on disk; then the oldest ended agent
    /// is forgotten.
    pub history_bytes: u64,
    /// Bytes of what ended agents left in their scratch; then what the one that
    /// ended first left is removed first.
    pub kept_files_bytes: u64,
    /// Bytes of components that were put.
    pub components_bytes: u64,
    /// Components that are checked, and that are compiled, at a time; half as
    /// many more that take longer than a second.
    pub compile_workers: usize,
    /// Processor time that checking or compiling a component may take, and four
    /// times that by the clock.
    pub compile_time: Duration,
    /// Memory that checking or compiling a component may take.
    pub compile_memory_bytes: u64,
    /// Bytes of compiled components on disk.
    pub cache_bytes: u64,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            max_agents: 1000,
            max_queued: 10_000,
            memory_bytes: machine::memory_bytes() / 5 * 4,
            memory_overcommit: 8,
            max_ended: 10_000,
            max_ended_age: Duration::from_secs(7 * 24 * 3600),
            history_bytes: GIB,
            kept_files_bytes: GIB,
            components_bytes: GIB,
            compile_workers: std::thread::available_parallelism().map_or(1, usize::from),
            compile_time: Duration::from_secs(15),
            compile_memory_bytes: GIB,
            cache_bytes: 4 * GIB,
        }
    }
}

impl Capacity {
    /// What the memory limits of all agents may add up to.
    #[must_use]
    pub fn limits_bytes(&self) -> u64 {
        self.memory_bytes.saturating_mul(self.memory_overcommit)
    }
}

pub(super) fn capacity(raw: &RawCapacity) -> Result<Capacity, ConfigError> {
    let count = |key: &str, value: Option<u64>, default: usize| match value {
        None => Ok(default),
        Some(value) => positive(&format!("capacity.{key}"), value)
            .map(|value| usize::try_from(value).unwrap_or(usize::MAX)),
    };
    let bytes = |key: &str, value: Option<RawSize>, default: u64| match value {
        None => Ok(default),
        Some(RawSize(value)) => positive(&format!("capacity.{key}"), value),
    };
    let default = Capacity::default();
    Ok(Capacity {
        max_agents: count("max_agents", raw.max_agents, default.max_agents)?,
        // None may wait where it is 0.
        max_queued: match raw.max_queued {
            Some(0) => 0,
            value => count("max_queued", value, default.max_queued)?,
        },
        memory_bytes: memory_bytes(raw.memory_bytes, default.memory_bytes)?,
        memory_overcommit: raw
            .memory_overcommit
            .map_or(Ok(default.memory_overcommit), |times| {
                positive("capacity.memory_overcommit", times)
            })?,
        max_ended: count("max_ended", raw.max_ended, default.max_ended)?,
        max_ended_age: max_ended_age(raw.max_ended_age, default.max_ended_age)?,
        history_bytes: bytes("history_bytes", raw.history_bytes, default.history_bytes)?,
        kept_files_bytes: bytes(
            "kept_files_bytes",
            raw.kept_files_bytes,
            default.kept_files_bytes,
        )?,
        components_bytes: bytes(
            "components_bytes",
            raw.components_bytes,
            default.components_bytes,
        )?,
        compile_workers: compile_workers(raw.compile_workers, default.compile_workers)?,
        compile_time: match raw.compile_ms {
            None => default.compile_time,
            Some(ms) => Duration::from_millis(positive("capacity.compile_ms", ms)?),
        },
        compile_memory_bytes: compile_memory_bytes(
            raw.compile_memory_bytes,
            default.compile_memory_bytes,
        )?,
        cache_bytes: bytes("cache_bytes", raw.cache_bytes, default.cache_bytes)?,
    })
}

fn memory_bytes(asked: Option<RawSize>, default: u64) -> Result<u64, ConfigError> {
    // A small program in Rust begins with 17 pages, most of them its stack.
    const LEAST: u64 = 2 * MIB;
    const KEY: &str = "capacity.memory_bytes";
    match asked {
        None => Ok(default),
        Some(RawSize(bytes)) if bytes < LEAST => Err(ConfigError::new(
            KEY,
            format!("{bytes} is less than one small agent needs, which is {LEAST}"),
        )),
        Some(RawSize(bytes)) => positive(KEY, bytes),
    }
}

fn max_ended_age(asked: Option<RawDuration>, default: Duration) -> Result<Duration, ConfigError> {
    // Who waited for an agent asks once more how it ended.
    const LEAST: Duration = Duration::from_secs(1);
    match asked {
        None => Ok(default),
        Some(RawDuration(age)) if age < LEAST => Err(ConfigError::new(
            "capacity.max_ended_age",
            "must be at least 1s",
        )),
        Some(RawDuration(age)) => Ok(age),
    }
}

fn compile_workers(asked: Option<u64>, default: usize) -> Result<usize, ConfigError> {
    // Each is three threads with stacks, and up to three processes.
    const MOST: u64 = 1024;
    const KEY: &str = "capacity.compile_workers";
    match asked {
        None => Ok(default),
        Some(workers) if workers > MOST => {
            Err(ConfigError::new(KEY, format!("must be at most {MOST}")))
        }
        Some(workers) => {
            positive(KEY, workers).map(|workers| usize::try_from(workers).unwrap_or(1))
        }
    }
}

fn compile_memory_bytes(asked: Option<RawSize>, default: u64) -> Result<u64, ConfigError> {
    // Less, and not even the smallest component can be compiled.
    const LEAST: u64 = 64 * MIB;
    match asked {
        None => Ok(default),
        Some(RawSize(bytes)) if bytes < LEAST => Err(ConfigError::new(
            "capacity.compile_memory_bytes",
            format!("must be at least {LEAST}"),
        )),
        Some(RawSize(bytes)) => positive("capacity.compile_memory_bytes", bytes),
    }
}
