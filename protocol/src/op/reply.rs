//! Replies: what a host grants, one type per answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::event::LogRecord;
use crate::{AgentId, AgentInfo, Digest, Limits, RunnerKind, WireError};

macro_rules! replies {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        )*
    };
}

replies! {
    /// The reply of what has nothing to tell.
    Done {}

    /// What a host is.
    HostInfo {
        /// The host's id; it changes when another host takes its place.
        server_id: String,
        /// The version of Skep.
        version: String,
        /// The version of the protocol.
        protocol: u64,
        /// The control endpoint.
        control: String,
        /// The events endpoint; absent where events are off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        events: Option<String>,
        /// The runners that are on.
        runners: Vec<RunnerKind>,
        /// The highest limits that a spec may ask for.
        ceilings: Limits,
        /// The limits of a spec that asks for none.
        defaults: Limits,
        /// What this build can do besides.
        features: Vec<String>,
    }

    /// How a host is.
    Health {
        /// Whether there is nothing to say against it.
        healthy: bool,
        /// For how long it has been up, in milliseconds.
        uptime_ms: u64,
        /// The version of the protocol.
        protocol: u64,
        /// How many agents are in which state.
        agents: AgentCounts,
        /// Why it is not healthy.
        reasons: Vec<HealthReason>,
    }

    /// A host takes no more agents.
    DrainReply {
        /// How many of its agents have not ended.
        remaining: u64,
    }

    /// What a host has counted since its start.
    Stats {
        /// Requests by operation and then by result: `ok` or an error code.
        /// What is no request counts under `-`.
        requests: BTreeMap<String, BTreeMap<String, u64>>,
        /// Agents spawned.
        spawns: u64,
        /// Agents ended, by the kind of their outcome.
        outcomes: BTreeMap<String, u64>,
        /// Bytes and messages over the sockets.
        transport: TransportCounts,
        /// Log records written to histories.
        records: u64,
        /// Spawns whose component was compiled already.
        compile_hits: u64,
        /// Components compiled.
        compile_misses: u64,
        /// What the host keeps now; absent from hosts that do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<Kept>,
    }

    /// What a host keeps of what is over, each beside the operator's bound.
    Kept {
        /// Agents that have ended.
        ended_agents: u64,
        /// How many may be kept.
        max_ended_agents: u64,
        /// When the first of them ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oldest_ended_ms: Option<u64>,
        /// For how long one may be kept, in milliseconds.
        max_ended_age_ms: u64,
        /// Bytes of the records and logs of all agents.
        history_bytes: u64,
        /// How many they may be.
        max_history_bytes: u64,
        /// Bytes of the files that agents left.
        files_bytes: u64,
        /// How many they may be.
        max_files_bytes: u64,
        /// Components.
        components: u64,
        /// How many of them agents use.
        components_used: u64,
        /// Bytes of components, with those of uploads under way.
        component_bytes: u64,
        /// How many of these bytes agents use.
        component_bytes_used: u64,
        /// How many bytes they may be.
        max_component_bytes: u64,
        /// Bytes of the store's files.
        store_bytes: u64,
    }

    /// What was removed, or would be.
    GcReply {
        /// Agents that had ended.
        agents: u64,
        /// Bytes of their records and logs, and of the files that they left.
        bytes: u64,
        /// Components.
        components: u64,
        /// Bytes of these.
        component_bytes: u64,
    }

    /// A component's chunk was taken.
    PutReply {
        /// How many bytes from the beginning on are there without a hole: an
        /// interrupted upload goes on from here.
        received: u64,
        /// Whether the component is whole and its digest right.
        complete: bool,
    }

    /// What is known of a component.
    ComponentInfo {
        /// Its digest.
        digest: Digest,
        /// Its size, in bytes.
        size: u64,
        /// Whether it is compiled, so that a spawn does not wait for that.
        compiled: bool,
        /// `command`, a component with a `run`, or `core-module`; `blob` for what is
        /// neither, or could run nowhere: it can be an input.
        kind: String,
        /// The names that it imports.
        imports: Vec<String>,
        /// Those of them that this host does not provide.
        missing: Vec<String>,
    }

    /// Whether a component can run, and what it takes.
    CheckReply {
        /// `command`, a component with a `run`, `core-module` or `blob`.
        kind: String,
        /// What it imports: at most 1,000, and first what it lacks.
        imports: Vec<ImportInfo>,
        /// Whether a spawn would be taken.
        runnable: bool,
        /// What it takes to start it.
        needs: ComponentNeeds,
        /// What the spawn would be refused with. Its fields are those of
        /// `agent.spawn`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refusal: Option<WireError>,
    }

    /// What a component imports.
    ImportInfo {
        /// Its full name; of an interface that lacks a function, with `#` and
        /// the function.
        name: String,
        /// Whether it gets it.
        status: ImportStatus,
        /// The grant that it lacks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<String>,
    }

    /// One of many components.
    ComponentSummary {
        /// Its digest.
        digest: Digest,
        /// Its size, in bytes.
        size: u64,
        /// Whether it is compiled.
        compiled: bool,
    }

    /// A page of components.
    ComponentPage {
        /// The components, by digest.
        components: Vec<ComponentSummary>,
        /// Where the next page begins, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Digest>,
    }

    /// The agent as it is now.
    AgentReply {
        /// The agent.
        agent: AgentInfo,
    }

    /// A page of agents.
    AgentPage {
        /// The agents, by id.
        agents: Vec<AgentInfo>,
        /// Where the next page begins, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<AgentId>,
    }

    /// The wait is over.
    WaitReply {
        /// The agent as it is now.
        agent: AgentInfo,
        /// Whether it has not ended yet.
        timed_out: bool,
    }

    /// Bytes for a stdin were taken.
    StdinReply {
        /// How many; 0 where the queue is full. Send the rest again later.
        accepted: u64,
    }

    /// A piece of an agent's history.
    OutputReply {
        /// The records, by sequence.
        records: Vec<LogRecord>,
        /// From where to read on: past records of other streams too.
        next_seq: u64,
        /// Whether the agent has ended and nothing comes after.
        end: bool,
        /// What was asked for and is no longer there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expired: Option<SeqRange>,
    }

    /// What lies in a directory of an agent's scratch.
    FilesPage {
        /// The entries, by name.
        files: Vec<FileInfo>,
        /// Where the next page begins, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }

    /// One entry of a directory.
    FileInfo {
        /// Its path below the scratch directory.
        path: String,
        /// Its size, in bytes.
        size: u64,
        /// What it is.
        kind: FileKind,
        /// When it was last written to, in milliseconds since the epoch.
        modified_ms: u64,
    }

    /// A piece of a file.
    FileChunk {
        /// The bytes.
        data: ByteBuf,
        /// The size of the whole now.
        size: u64,
        /// Whether nothing comes after.
        eof: bool,
    }

    /// Where an agent's events are published.
    SubscribeReply {
        /// The events endpoint; absent where events are off: read the history.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        events: Option<String>,
        /// The topics to subscribe to.
        topics: Vec<String>,
        /// The number that the agent's next record will have: what is before
        /// it is in the history, what comes is published.
        next_seq: u64,
    }
}

/// Why a host is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReason {
    /// For programs.
    pub code: HealthCode,
    /// For people.
    pub message: String,
}

/// What may be the matter with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCode {
    /// It takes no more agents and waits for those it has.
    Draining,
    /// It ends.
    ShuttingDown,
    /// As many agents wait for their turn as may.
    QueueFull,
    /// The disk of its state directory is almost full.
    DiskLow,
    /// It cannot write its state down.
    Storage,
    /// It does not get to its work in time.
    EventLoopLate,
    /// It dropped events of late.
    EventsDropped,
    /// A host of a later version says so.
    #[serde(other)]
    Other,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A file, which can be read.
    File,
    /// A directory, which can be listed.
    Dir,
    /// A symbolic link. It is never followed.
    Link,
    /// What is neither, or cannot be named: a pipe, a socket, or something whose
    /// name is no UTF-8, shown with U+FFFD in place of what is not.
    Other,
}

/// Whether a component gets what it imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportStatus {
    /// This host provides it.
    Provided,
    /// This host provides it to those who are granted it. No import of this
    /// build needs a grant: files and sockets are there for everyone, and what
    /// was not granted is refused to the guest, call by call.
    NeedsGrant,
    /// Nothing provides it.
    Unknown,
}

/// What starting a component takes: the least that its limits must allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentNeeds {
    /// Bytes of its memories and tables as they are made.
    pub memory_bytes: u64,
    /// Instances; or memories or tables, if those are more.
    pub instances: u64,
    /// Tables.
    pub tables: u64,
}

/// A range of log records, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRange {
    /// The first.
    pub from_seq: u64,
    /// The last.
    pub to_seq: u64,
}

/// How many agents are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each is named for the state that it counts")]
pub struct AgentCounts {
    pub queued: u64,
    pub starting: u64,
    pub running: u64,
    pub paused: u64,
    pub stopping: u64,
}

impl AgentCounts {
    /// How many have not ended.
    #[must_use]
    pub const fn all(&self) -> u64 {
        let Self {
            queued,
            starting,
            running,
            paused,
            stopping,
        } = *self;
        queued + starting + running + paused + stopping
    }
}

/// What went over the sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportCounts {
    /// Requests received.
    pub messages_in: u64,
    /// Replies sent.
    pub messages_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent in replies.
    pub bytes_out: u64,
    /// Events published.
    pub events: u64,
    /// Events that were dropped since the queue to the socket was full, and those left
    /// out for one subscriber since it did not take what it was sent. They are in the
    /// history.
    pub events_dropped: u64,
    /// Peers cut off since they did not read.
    pub peers_cut: u64,
}
