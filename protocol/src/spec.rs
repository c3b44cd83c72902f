//! The spec: what a submitter asks a host to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{AgentName, Digest, LimitsAsk};

/// What an agent is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerKind {
    /// A WASI component in a sandbox.
    #[default]
    Wasm,
    /// A process of the host's operating system.
    Native,
}

impl RunnerKind {
    /// The name as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "native",
        }
    }
}

/// Where a component's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentRef {
    /// From the host, where they were put before.
    Digest(Digest),
    /// From here.
    Data(ByteBuf),
}

/// What the agent finds on its standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// The end of the file, at once.
    #[default]
    Closed,
    /// What `agent.stdin` brings, until it is closed.
    Open,
    /// These bytes, then the end.
    Data(ByteBuf),
}

/// Whether a granted directory may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirMode {
    /// Read only.
    Ro,
    /// Read and write.
    Rw,
}

/// One directory of the host that the agent may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirGrant {
    /// The directory on the host; it lies under a root that the operator allows.
    pub host: String,
    /// Where the guest finds it, an absolute path.
    pub guest: String,
    /// Whether it may be written to.
    pub mode: DirMode,
}

/// What an agent is given besides clocks, randomness and stdio.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Directories of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dirs: Vec<DirGrant>,
    /// A private writable directory at `/`. What the agent leaves there can be
    /// read until it is forgotten.
    pub scratch: bool,
    /// Origins that may be asked over HTTP. Not supported yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<String>,
    /// Agents that may be written to. Not supported yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
}

/// What happens when the fuel is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFuelExhausted {
    /// The agent ends.
    #[default]
    Exit,
    /// The agent pauses until it is refuelled (wasm).
    Pause,
}

/// When an agent that ended runs again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// When it failed: see `RestartInfo`.
    OnFailure,
    /// Whenever it ended by itself.
    Always,
}

/// Whether and how an agent that ended runs again: as the same agent, whose
/// output goes on in the same sequence. Fuel, time and memory are each run's own;
/// what it holds on disk and its output are the agent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// How often at most, at least 1 (as often as it takes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// How long to wait before the first time, in milliseconds (1,000; 100 to
    /// 3,600,000). It doubles with each run that was short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// How long to wait at most, in milliseconds (300,000, or `backoff_ms` if
    /// that is more; at most 3,600,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<u64>,
}

/// What a submitter asks a host to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// What people call it; need not be unique.
    pub name: AgentName,
    /// What it is made of.
    #[serde(default)]
    pub runner: RunnerKind,
    /// The component of a wasm agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentRef>,
    /// Program and arguments of a native agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The arguments after `argv[0]`, which is the agent's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The whole environment; nothing is inherited from the host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What the agent is asked to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// What it should know to do it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub context: String,
    /// How it should behave, whatever the task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system_prompt: String,
    /// The language model it should use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// For filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// What it finds, read-only, below `/inputs` before it starts: by path, the
    /// digests of bytes that were put as components are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Digest>,
    /// Its limits.
    #[serde(default)]
    pub limits: LimitsAsk,
    /// What it is given.
    #[serde(default)]
    pub grants: Grants,
    /// What happens when its fuel is used up.
    #[serde(default)]
    pub on_fuel_exhausted: OnFuelExhausted,
    /// Whether it runs again.
    #[serde(default)]
    pub restart: Restart,
}

impl AgentSpec {
    /// The least that a spec says: a name, and everything else left out.
    #[must_use]
    pub fn named(name: AgentName) -> Self {
        Self {
            name,
            runner: RunnerKind::default(),
            component: None,
            command: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            task: String::new(),
            context: String::new(),
            system_prompt: String::new(),
            model: String::new(),
            labels: BTreeMap::new(),
            stdin: Stdin::default(),
            inputs: BTreeMap::new(),
            limits: LimitsAsk::default(),
            grants: Grants::default(),
            on_fuel_exhausted: OnFuelExhausted::default(),
            restart: Restart::default(),
        }
    }
}
