//! What runs an agent, behind one trait: a component in a sandbox, or a
//! process. A runner knows nothing of requests, sockets or the state machine;
//! it is handed everything an agent needs, reports how the guest ends, and can
//! be told to ask it to stop or to end it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::event::Preview;
use skep_protocol::info::PausedReason;
use skep_protocol::spec::{DirMode, OnFuelExhausted};
use skep_protocol::{AgentId, Digest, Enforced, ErrorCode, Limits, Trap};
use tokio::sync::{mpsc, watch};

use crate::stdio::{OutputWriter, StdinReader};

mod disk;
pub mod native;
pub mod wasm;

pub use disk::{Amount, DiskUse};

/// Starts guests of one kind.
pub trait Runner: Send + Sync + 'static {
    /// Which guarantees hold for its guests.
    fn enforced(&self) -> Enforced;

    /// Starts a guest and returns at once; whatever goes wrong is its [`End`].
    fn start(&self, launch: Launch, pipes: Pipes) -> Guest;
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub enum Program {
    /// A component, or a WASI 0.1 core module.
    Component {
        /// The digest of the bytes, under which the compiled form is kept.
        digest: Digest,
        /// The bytes, inspected before.
        bytes: Bytes,
        /// Whether it looks if it is asked to stop.
        asks_control: bool,
    },
    /// A program of the operating system and its arguments.
    Command(Vec<String>),
}

/// A directory that a guest may use, checked against the operator's roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedDir {
    /// The canonical path on the host.
    pub host: PathBuf,
    /// Where the guest finds it.
    pub guest: String,
    /// What may be done there.
    pub access: Access,
}

/// What a guest may do in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look.
    Read,
    /// Write, as others may.
    Write,
    /// Write. The directory is the agent's own: empty at the start of its first
    /// run on a host, and there until the agent is forgotten.
    Scratch,
}

impl From<DirMode> for Access {
    fn from(mode: DirMode) -> Self {
        match mode {
            DirMode::Ro => Self::Read,
            DirMode::Rw => Self::Write,
        }
    }
}

/// What the agent is asked to do, as the guest may read it.
#[derive(Debug, Clone, Default)]
pub struct Task {
    pub task: String,
    pub context: String,
    pub system_prompt: String,
    pub model: String,
    pub labels: BTreeMap<String, String>,
}

/// Everything a guest needs besides its pipes: the same in every run of its agent.
#[derive(Debug, Clone)]
pub struct Launch {
    pub id: AgentId,
    pub name: String,
    pub program: Program,
    /// The arguments after `argv[0]`, which is the name.
    pub args: Vec<String>,
    /// The whole environment, `SKEP_TASK` and its like included.
    pub env: BTreeMap<String, String>,
    /// Shared, since its texts may be megabytes.
    pub task: Arc<Task>,
    pub limits: Limits,
    pub on_fuel_exhausted: OnFuelExhausted,
    /// The directories, the scratch directory at `/` included.
    pub dirs: Vec<GrantedDir>,
    /// What the agent holds in those of them that it may write to.
    pub disk: DiskUse,
}

/// The pipes of one run.
#[derive(Debug)]
pub struct Pipes {
    pub stdin: StdinReader,
    pub stdout: OutputWriter,
    pub stderr: OutputWriter,
}

/// A guest that was started.
pub struct Guest {
    /// First [`GuestEvent::Running`], unless it never runs; last
    /// [`GuestEvent::Ended`]. Both writers are dropped before the latter.
    pub events: mpsc::Receiver<GuestEvent>,
    /// The newest report of progress; older ones are passed over.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Whether it stands still.
    pub stand: watch::Receiver<Stand>,
    pub control: Arc<dyn GuestControl>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}

/// How much a channel of [`GuestEvent`]s holds: both of its events, so that a
/// runner never waits for its driver.
pub const GUEST_EVENTS: usize = 2;

/// What a driver learns of its guest.
#[derive(Debug, PartialEq)]
pub enum GuestEvent {
    /// It is instantiated, or executed, and runs.
    Running,
    /// It has ended, and nothing of it is left.
    Ended(End),
}

/// Whether a guest goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It runs whenever it can.
    Goes,
    /// Nothing of it runs.
    Held(PausedReason),
}

/// How far a guest says that it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub stage: String,
    pub step: Option<u64>,
    pub total: Option<u64>,
    pub fraction: Option<f64>,
    pub eta_ms: Option<u64>,
    pub note: Option<String>,
    pub preview: Option<Preview>,
}

/// What is done to a guest from outside. No call waits.
pub trait GuestControl: Send + Sync {
    /// Holds the guest where it is, within 100 ms in any state; [`Guest::stand`]
    /// tells when it stands still.
    fn pause(&self) -> Able;

    /// Takes [`Self::pause`] back.
    fn resume(&self);

    /// Gives the guest more fuel, so that it goes on if it was held for want
    /// of it.
    fn refuel(&self, fuel: u64) -> Able;

    /// Asks the guest to stop.
    fn ask_stop(&self) -> Asked;

    /// Ends the guest and all it started, within 100 ms in any state; its end
    /// is then [`End::Killed`], unless it ended by itself before.
    fn kill(&self);

    /// What it has used so far; exact once it has ended.
    fn usage(&self) -> GuestUsage;
}

/// Whether a runner can do something with this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Able {
    Yes,
    No,
}

/// Whether a guest can be asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It will see it.
    Yes,
    /// It does not look; it has to be killed.
    Deaf,
}

/// What a guest has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestUsage {
    pub fuel_used: u64,
    pub fuel_left: Option<u64>,
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub cpu_ms: u64,
    /// Where it is counted.
    pub disk_bytes: Option<u64>,
}

/// How a guest ended, as its runner saw it. What Skep wanted of it at the time
/// is the driver's to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Exited(u8),
    Trapped {
        trap: Trap,
        message: String,
        backtrace: Vec<String>,
    },
    OutOfFuel,
    OutOfMemory {
        asked_bytes: u64,
    },
    Signaled(i32),
    Killed,
    StartFailed {
        code: ErrorCode,
        message: String,
    },
    /// Our bug; its cause is in the log under this name.
    Fault {
        incident: String,
    },
}
