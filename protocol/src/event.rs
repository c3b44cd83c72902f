//! Events: what a host publishes, and under which topics.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::info::RestartInfo;
use crate::op::AgentCounts;
use crate::{AgentId, AgentState, Outcome, Receipt, Usage};

/// Which of its two outputs an agent wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line of output without its newline, or a piece of a longer one.
///
/// The stream is the concatenation of `data + (partial ? "" : "\n")`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Whose it is.
    pub agent: AgentId,
    /// Which run of the agent wrote it, from 0.
    pub run: u64,
    /// Its number, over both streams and all runs, from 0 without a hole.
    pub seq: u64,
    /// Which output it was written to.
    pub stream: Stream,
    /// When it was read from the agent, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The bytes.
    pub data: ByteBuf,
    /// Whether no newline follows.
    pub partial: bool,
}

/// An agent's state has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusEvent {
    /// Whose.
    pub agent: AgentId,
    /// Counts the changes, from 0.
    pub generation: u64,
    /// The new state.
    pub state: AgentState,
    /// How it ended, with the state `exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Of one that may run again, once a run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartInfo>,
    /// The record of its last run, with the state `exited`; absent where the
    /// host failed to keep one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Box<Receipt>>,
    /// What it has used so far.
    pub usage: Usage,
    /// The number of its last log record; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// When, in milliseconds since the epoch.
    pub time_ms: u64,
}

/// Something to look at before the result is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The media type of the data.
    pub mime: String,
    /// The bytes.
    pub data: ByteBuf,
}

/// How far an agent says that it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressEvent {
    /// Whose.
    pub agent: AgentId,
    /// What it is doing now.
    pub stage: String,
    /// How many units of work of this stage are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// How many units of work this stage has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How much of the whole is done, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// How long the rest should take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// A line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Something to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// When, in milliseconds since the epoch.
    pub time_ms: u64,
}

/// The host's own sign of life, every 5 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Which host.
    pub server_id: String,
    /// For how long it has been up.
    pub uptime_ms: u64,
    /// How many agents are in which state.
    pub agents: AgentCounts,
    /// When, in milliseconds since the epoch.
    pub time_ms: u64,
}

/// What an event is about: the first of its two frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// `log.<agent>.<stream>`
    Log(AgentId, Stream),
    /// `status.<agent>`
    Status(AgentId),
    /// `progress.<agent>`
    Progress(AgentId),
    /// `host.<server-id>`
    Host(String),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(agent, stream) => write!(f, "log.{agent}.{}", stream.as_str()),
            Self::Status(agent) => write!(f, "status.{agent}"),
            Self::Progress(agent) => write!(f, "progress.{agent}"),
            Self::Host(server_id) => write!(f, "host.{server_id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_dots() {
        let agent: AgentId = "6f9619ff-8b86-4011-b42d-00c04fc964ff".parse().unwrap();
        for (topic, text) in [
            (
                Topic::Log(agent, Stream::Stdout),
                format!("log.{agent}.stdout"),
            ),
            (
                Topic::Log(agent, Stream::Stderr),
                format!("log.{agent}.stderr"),
            ),
            (Topic::Status(agent), format!("status.{agent}")),
            (Topic::Progress(agent), format!("progress.{agent}")),
            (Topic::Host("h".to_owned()), "host.h".to_owned()),
        ] {
            assert_eq!(topic.to_string(), text);
        }
        for stream in Stream::ALL {
            assert_eq!(serde_json::to_value(stream).unwrap(), stream.as_str());
        }
    }
}
