//! What a host tells about an agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::{Grants, OnFuelExhausted, Restart};
use crate::{AgentId, AgentName, Digest, Limits, Outcome, Receipt, RunnerKind};

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Waits until the host has room for it.
    Queued,
    /// Is compiled and instantiated.
    Starting,
    /// Runs.
    Running,
    /// Is held between two instructions.
    Paused,
    /// Was asked to stop and has its grace.
    Stopping,
    /// Has ended.
    Exited,
}

impl AgentState {
    /// Every state, in the order in which an agent may pass them.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Exited,
    ];

    /// The state as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        }
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an agent is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedReason {
    /// A client asked for it.
    Asked,
    /// Its fuel is used up, and its spec says to pause then.
    OutOfFuel,
}

/// What an agent has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Instructions run (wasm), in all runs.
    pub fuel_used: u64,
    /// Instructions left to this run, where fuel is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel_left: Option<u64>,
    /// Bytes of memory now.
    pub memory_bytes: u64,
    /// The most bytes of memory so far.
    pub memory_peak_bytes: u64,
    /// Milliseconds of a processor, in all runs.
    pub cpu_ms: u64,
    /// Bytes taken for its stdin.
    pub stdin_bytes: u64,
    /// Bytes written to its stdout.
    pub stdout_bytes: u64,
    /// Bytes written to its stderr.
    pub stderr_bytes: u64,
    /// Bytes under its writable directories, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// How often it was run again.
    pub restarts: u64,
}

/// How far a guarantee holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// The agent cannot get around it.
    Enforced,
    /// An agent that means no harm keeps to it.
    BestEffort,
    /// It does not hold.
    None,
}

/// Which guarantees hold for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The limit of memory.
    pub memory: Enforcement,
    /// The limit of computing: fuel.
    pub cpu: Enforcement,
    /// The limit of time, and kill and stop.
    pub wall: Enforcement,
    /// That it sees only the files that were granted.
    pub files: Enforcement,
    /// That it has no network.
    pub network: Enforcement,
    /// That it can be paused.
    pub pause: Enforcement,
}

impl Enforced {
    /// All of them hold so far.
    #[must_use]
    pub const fn all(so_far: Enforcement) -> Self {
        Self {
            memory: so_far,
            cpu: so_far,
            wall: so_far,
            files: so_far,
            network: so_far,
            pause: so_far,
        }
    }
}

/// What kind of stdin an agent was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinKind {
    /// None.
    #[default]
    Closed,
    /// What clients send.
    Open,
    /// What the spec brought.
    Data,
}

/// A spec as it is shown: without data, and with only the names of `env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecInfo {
    /// The component of a wasm agent; on the wire `{digest}`, as in a spec.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "component")]
    pub component: Option<Digest>,
    /// Program and arguments of a native agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The names of the environment; values are never shown again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What the agent is asked to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// What it should know to do it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub context: String,
    /// How it should behave.
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
    pub stdin: StdinKind,
    /// What it finds below `/inputs`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Digest>,
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

/// A component's digest in the form that it has in a spec.
mod component {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::Digest;

    #[derive(Serialize, Deserialize)]
    struct Component {
        digest: Digest,
    }

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        digest: &Option<Digest>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        digest
            .map(|digest| Component { digest })
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Digest>, D::Error> {
        Component::deserialize(deserializer).map(|component| Some(component.digest))
    }
}

/// Where an agent stands that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// Its place, counted from 1.
    pub position: u64,
    /// How long it may take, in milliseconds, by how long agents of its
    /// component took, or all where none of its own has ended. Absent where
    /// none has ended at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_wait_ms: Option<u64>,
}

/// What is known of an agent that may run again, once one of its runs has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartInfo {
    /// How its last run ended that has.
    pub last_outcome: Outcome,
    /// How many of its runs have failed within the last hour, as of the end of
    /// that one.
    pub failures: u64,
    /// When its next run begins, in milliseconds since the epoch, while it waits
    /// for that in the state `starting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_ms: Option<u64>,
    /// Why it is not run again, though its policy would have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
}

/// Why an agent is not run again that its policy would have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaveUp {
    /// It was run again as often as its spec says.
    Max,
    /// It failed too often in too short a time.
    CrashLoop,
    /// Its host takes no more agents and starts no more runs.
    Draining,
}

impl GaveUp {
    /// The name as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::CrashLoop => "crash_loop",
            Self::Draining => "draining",
        }
    }
}

/// Everything about one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: AgentName,
    /// What it is made of.
    pub runner: RunnerKind,
    /// Where it stands.
    pub state: AgentState,
    /// Why it is paused, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_reason: Option<PausedReason>,
    /// Counts the changes of its state, from 0.
    pub generation: u64,
    /// When it was spawned, in milliseconds since the epoch.
    pub created_ms: u64,
    /// When it began to run; of several runs the last that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_ms: Option<u64>,
    /// What was asked for.
    pub spec: SpecInfo,
    /// Its limits, resolved; fuel with what was added since.
    pub limits: Limits,
    /// What it has used so far.
    pub usage: Usage,
    /// Which guarantees hold for it.
    pub enforced: Enforced,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The record of its last run, once it has ended; absent where the host
    /// failed to keep one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Where it stands, while it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueInfo>,
    /// Of one that may run again, once a run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartInfo>,
    /// The sequence number that its next log record will have.
    pub next_seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_as_they_are_written() {
        for state in AgentState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for gave_up in [GaveUp::Max, GaveUp::CrashLoop, GaveUp::Draining] {
            assert_eq!(serde_json::to_value(gave_up).unwrap(), gave_up.as_str());
        }
    }
}
