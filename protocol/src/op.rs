//! Operations: one type per request body and per reply body.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::event::Stream;
use crate::spec::Grants;
use crate::{AgentId, AgentName, AgentSpec, AgentState, Digest, LimitsAsk};

mod reply;

pub use reply::*;

/// A request body, with the name of its operation and the type of its reply.
pub trait Operation: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Which operation it is.
    const OP: Op;
    /// What a host answers.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! operations {
    (
        supported { $($variant:ident $name:literal $effect:ident $body:ident => $reply:ty;)* }
        announced { $($later:ident $later_name:literal;)* }
    ) => {
        /// The name of an operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
            $(#[doc = concat!("`", $later_name, "`; not supported yet")] $later,)*
        }

        impl Op {
            /// Every operation, those of later builds included.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)* $(Self::$later,)*];

            /// The name as it stands on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    $(Self::$later => $later_name,)*
                }
            }

            /// The operation of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    $($later_name => Some(Self::$later),)*
                    _ => None,
                }
            }

            /// Whether the operation changes something, so that its replies
            /// are remembered and a repeated request is not done again.
            #[must_use]
            pub const fn changes(self) -> bool {
                match self {
                    $(Self::$variant => Effect::$effect.changes(),)*
                    $(Self::$later => false,)*
                }
            }

            /// Whether the operation is for the host that runs now: one that comes
            /// after it must not be sent it again, as it would do it too.
            #[must_use]
            pub const fn holds_the_host(self) -> bool {
                match self {
                    $(Self::$variant => Effect::$effect.holds_the_host(),)*
                    $(Self::$later => false,)*
                }
            }
        }

        /// A decoded request.
        #[expect(clippy::large_enum_variant, reason = "there is one at a time, and it moves once")]
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $(#[doc = concat!("`", $name, "`")] $variant($body),)*
            /// An operation that this build does not have yet.
            Unsupported(Op),
        }

        impl Request {
            pub(crate) fn decode<E>(
                op: Op,
                decoder: impl BodyDecoder<Error = E>,
            ) -> Result<Self, E> {
                match op {
                    $(Op::$variant => decoder.decode::<$body>().map(Self::$variant),)*
                    $(Op::$later => Ok(Self::Unsupported(op)),)*
                }
            }
        }

        $(impl Operation for $body {
            const OP: Op = Op::$variant;
            type Reply = $reply;
        })*
    };
}

/// Decodes a request body once its type is known.
pub(crate) trait BodyDecoder {
    type Error;
    fn decode<T: DeserializeOwned>(self) -> Result<T, Self::Error>;
}

#[derive(Clone, Copy)]
enum Effect {
    Reads,
    Changes,
    HoldsTheHost,
}

impl Effect {
    const fn changes(self) -> bool {
        matches!(self, Self::Changes)
    }

    const fn holds_the_host(self) -> bool {
        matches!(self, Self::HoldsTheHost)
    }
}

operations! {
    supported {
    HostHello "host.hello" Reads HostHello => HostInfo;
    HostHealth "host.health" Reads HostHealth => Health;
    HostStats "host.stats" Reads HostStats => Stats;
    HostDrain "host.drain" HoldsTheHost HostDrain => DrainReply;
    HostGc "host.gc" Changes HostGc => GcReply;
    ComponentPut "component.put" Reads ComponentPut => PutReply;
    ComponentStat "component.stat" Reads ComponentStat => ComponentInfo;
    ComponentCheck "component.check" Reads ComponentCheck => CheckReply;
    ComponentList "component.list" Reads ComponentList => ComponentPage;
    ComponentRemove "component.remove" Reads ComponentRemove => Done;
    AgentSpawn "agent.spawn" Changes AgentSpawn => AgentReply;
    AgentList "agent.list" Reads AgentList => AgentPage;
    AgentGet "agent.get" Reads AgentGet => AgentReply;
    AgentPause "agent.pause" Changes AgentPause => AgentReply;
    AgentResume "agent.resume" Changes AgentResume => AgentReply;
    AgentRefuel "agent.refuel" Changes AgentRefuel => AgentReply;
    AgentStop "agent.stop" Changes AgentStop => AgentReply;
    AgentKill "agent.kill" Changes AgentKill => AgentReply;
    AgentWait "agent.wait" Reads AgentWait => WaitReply;
    AgentStdin "agent.stdin" Changes AgentStdin => StdinReply;
    AgentOutput "agent.output" Reads AgentOutput => OutputReply;
    AgentFiles "agent.files" Reads AgentFiles => FilesPage;
    AgentFile "agent.file" Reads AgentFile => FileChunk;
    AgentSubscribe "agent.subscribe" Reads AgentSubscribe => SubscribeReply;
    AgentForget "agent.forget" Changes AgentForget => Done;
    }
    announced {}
}

macro_rules! bodies {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        )*
    };
}

bodies! {
    /// Asks what the host is.
    HostHello {}

    /// Asks how the host is.
    HostHealth {}

    /// Asks what the host has counted, and what it keeps.
    HostStats {}

    /// Has the host take no more agents, and waits until those it has have ended.
    /// Those that wait for their turn still get it; none is run again. Asked again
    /// it waits again.
    HostDrain {
        /// For how long to wait at most, in milliseconds (60,000; at most
        /// 3,600,000).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    }

    /// Forgets agents that have ended, and components that no agent uses, now.
    HostGc {
        /// Agents that ended at least so long ago, in milliseconds; 0 for all
        /// that have ended (the operator's age).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older_than_ms: Option<u64>,
        /// Whether components that no agent uses go too.
        #[serde(default)]
        components: bool,
        /// Whether it is only told what would go.
        #[serde(default)]
        dry_run: bool,
    }

    /// Brings a chunk of a component, or of any bytes that are to be an input, at
    /// most 1 MiB; chunks may come in any
    /// order, more than once, and over several connections.
    ComponentPut {
        /// The digest of the whole.
        digest: Digest,
        /// The size of the whole, in bytes.
        size: u64,
        /// Where the chunk begins.
        offset: u64,
        /// The chunk; empty to ask how much is there.
        data: ByteBuf,
    }

    /// Asks about a component.
    ComponentStat {
        /// Which.
        digest: Digest,
    }

    /// Asks whether a spawn of a component would be taken, as far as that can
    /// be told before anything runs. Whether there is room is no part of it.
    ComponentCheck {
        /// Which.
        digest: Digest,
        /// The grants that its spec would ask for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grants: Option<Grants>,
        /// The limits that its spec would ask for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limits: Option<LimitsAsk>,
    }

    /// Lists components by digest.
    ComponentList {
        /// How many at most (100; at most 1,000).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
        /// Only those after this digest: the `next` of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Digest>,
    }

    /// Deletes a component that no agent is being started from.
    ComponentRemove {
        /// Which.
        digest: Digest,
    }

    /// Starts an agent.
    AgentSpawn {
        /// What to run.
        spec: AgentSpec,
        /// What to do when the host is full (`queue`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when_full: Option<WhenFull>,
    }

    /// Lists agents by id.
    AgentList {
        /// Only those in one of these states.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        states: Option<Vec<AgentState>>,
        /// Only those of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<AgentName>,
        /// Only those that bear all of these labels.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// How many at most (100; at most 1,000).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
        /// Only those after this id: the `next` of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<AgentId>,
    }

    /// Asks about an agent.
    AgentGet {
        /// Which.
        agent: AgentId,
    }

    /// Holds an agent where it is, and answers when it stands still.
    AgentPause {
        /// Which.
        agent: AgentId,
    }

    /// Lets an agent that was paused go on.
    AgentResume {
        /// Which.
        agent: AgentId,
    }

    /// Gives an agent more fuel. One that is out of it goes on.
    AgentRefuel {
        /// Which.
        agent: AgentId,
        /// How many instructions more it may run; the operator's ceiling holds
        /// for the sum.
        fuel: u64,
    }

    /// Asks an agent to end, waits for the grace, then kills it.
    AgentStop {
        /// Which.
        agent: AgentId,
        /// How long it may take, in milliseconds (5,000; at most 3,600,000).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    }

    /// Ends an agent at once.
    AgentKill {
        /// Which.
        agent: AgentId,
    }

    /// Waits until an agent has ended and its last record can be read.
    AgentWait {
        /// Which.
        agent: AgentId,
        /// For how long at most, in milliseconds (at most 3,600,000).
        timeout_ms: u64,
    }

    /// Brings bytes for an agent's stdin, or closes it. One that is queued takes
    /// none yet.
    AgentStdin {
        /// Whose.
        agent: AgentId,
        /// The bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<ByteBuf>,
        /// Whether the stdin ends after them, if all of them were taken.
        #[serde(default)]
        close: bool,
    }

    /// Reads an agent's history.
    AgentOutput {
        /// Whose.
        agent: AgentId,
        /// Only these streams.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        streams: Option<Vec<Stream>>,
        /// From which record on (0).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_seq: Option<u64>,
        /// How many bytes of records (256 KiB; at most 1 MiB). One record is
        /// given however small this is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<u64>,
    }

    /// Lists what lies in a directory of an agent's scratch. While the agent runs
    /// it is a look at what changes; once it has ended, it is what it left.
    AgentFiles {
        /// Whose.
        agent: AgentId,
        /// Which directory; by default the scratch directory itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Only what comes after this path: the `next` of the page before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// How many at most (100; at most 1,000).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
    }

    /// Reads a piece of a file in an agent's scratch.
    AgentFile {
        /// Whose.
        agent: AgentId,
        /// Which.
        path: String,
        /// Where the piece begins.
        offset: u64,
        /// How many bytes (256 KiB; at most 1 MiB).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_bytes: Option<u64>,
    }

    /// Asks where an agent's events are published.
    AgentSubscribe {
        /// Whose.
        agent: AgentId,
        /// Only these streams.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        streams: Option<Vec<Stream>>,
    }

    /// Deletes the record and the history of an agent that has ended.
    AgentForget {
        /// Which.
        agent: AgentId,
    }
}

/// What to do with a spawn when the host is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Wait, first in, first out; refuse with `capacity` where too many do.
    Queue,
    /// Refuse with `capacity`.
    Reject,
}
