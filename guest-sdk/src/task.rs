//! What the agent was asked to do.

use std::collections::BTreeMap;

use crate::host;

/// What the agent was asked to do, as its submitter wrote it. Any text but the
/// name may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Task {
    /// The agent's name, which need not be unique on its host.
    pub name: String,
    /// What is to be done.
    pub task: String,
    /// What else the agent should know to do it.
    pub context: String,
    /// How the agent should behave, whatever the task.
    pub system_prompt: String,
    /// The language model that the submitter would like to be used.
    pub model: String,
    /// The agent's labels.
    pub labels: BTreeMap<String, String>,
}

/// What this agent was asked to do. It doesn't change while the agent runs.
///
/// Without a host it comes from `SKEP_NAME`, `SKEP_TASK`, `SKEP_CONTEXT`,
/// `SKEP_SYSTEM_PROMPT` and `SKEP_MODEL`; what isn't set is empty, and there
/// are no labels.
pub fn task() -> Task {
    host::task()
}
