//! What is written down, and each way in which it changes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use skep_protocol::info::RestartInfo;
use skep_protocol::spec::{ComponentRef, Stdin};
use skep_protocol::{
    AgentId, AgentName, AgentSpec, Digest, Enforced, Limits, Outcome, Receipt, RequestId, Usage,
};

use crate::runner::wasm::Facts;

/// What an agent is from its spawn on: enough to run it, and to show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Born {
    /// As it was asked for, but for the bytes of its component: these are named
    /// by their digest. Values of `env` and a given stdin are here in the clear
    /// until the agent has ended.
    pub spec: AgentSpec,
    /// What its limits were resolved to.
    pub limits: Limits,
    pub enforced: Enforced,
    pub created_ms: u64,
}

impl Born {
    /// What it is made of, of what the host holds.
    pub(crate) fn components(&self) -> impl Iterator<Item = &Digest> {
        let component = match &self.spec.component {
            Some(ComponentRef::Digest(digest)) => Some(digest),
            Some(ComponentRef::Data(_)) | None => None,
        };
        component.into_iter().chain(self.spec.inputs.values())
    }

    /// Lets go of what only an agent that runs needs: values of `env` and a given
    /// stdin. What is shown of it stays.
    pub(super) fn wipe(&mut self) {
        for value in self.spec.env.values_mut() {
            value.clear();
        }
        if let Stdin::Data(data) = &mut self.spec.stdin {
            data.clear();
        }
    }
}

/// How far an agent has come, as far as that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    pub generation: u64,
    /// The limit of fuel, with what was added.
    pub fuel: u64,
    pub started_ms: Option<u64>,
    pub exited_ms: Option<u64>,
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Box<Receipt>>,
    pub usage: Usage,
    pub next_seq: u64,
    /// Whether a client asked it to end: it is not run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked_to_end: bool,
    #[serde(default)]
    pub restart: Option<RestartInfo>,
    /// When its runs failed of late: as many as make a crash loop, at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_ms: Vec<u64>,
}

/// A new agent.
#[derive(Debug, Clone)]
pub struct Spawned {
    pub id: AgentId,
    pub name: AgentName,
    /// Its ticket, where it waits for its turn.
    pub ticket: Option<u64>,
    pub born: Born,
    pub known: Known,
}

/// The end of an agent.
#[derive(Debug, Clone)]
pub struct Ended {
    pub id: AgentId,
    /// What is remembered of it, in bytes: its record and its log.
    pub bytes: u64,
    /// Whether it was given values of `env` or a stdin, which are to be erased.
    pub has_secrets: bool,
    pub known: Known,
}

/// An answer that is given again to whoever repeats the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub id: RequestId,
    /// The digest of what was asked.
    pub request: Digest,
    pub answer: Bytes,
    /// By the [clock](crate::replies::ReplyMemory::now_ms) of replies.
    pub given_ms: u64,
}

/// A component whose bytes are in their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptComponent {
    pub digest: Digest,
    pub size: u64,
    pub facts: Facts,
    /// It was deleted while agents were made of it or waited to be.
    pub deleted: bool,
    /// When it was put, or an agent of it spawned.
    pub used_ms: u64,
}

/// An upload of which parts are in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptUpload {
    pub digest: Digest,
    pub size: u64,
    /// Where each part begins, and how long it is.
    pub parts: Vec<(u64, u64)>,
}

/// One step from what is written down to what will be.
#[derive(Debug)]
pub enum Change {
    /// A new agent, and the answer that tells of it.
    Spawned(Box<Spawned>, Reply),
    /// Its turn has come: from here on it may have run.
    Started(AgentId),
    /// How far an agent that runs has come.
    Seen(AgentId, Box<Known>),
    Ended(Box<Ended>),
    Forgotten(Vec<AgentId>),
    Replied(Reply),
    ComponentKept(Box<KeptComponent>),
    ComponentDeleted(Digest),
    ComponentsGone(Vec<Digest>),
    UploadGrew(KeptUpload),
    UploadsGone(Vec<Digest>),
}

impl Change {
    /// Whether it has happened, written down or not, and is written as soon as
    /// that is possible: no more of these come than there are agents and
    /// components. All else is refused where it cannot be written, but that an
    /// upload is gone: its file is, from which the next host learns it, and a
    /// client may begin and delete any number of them.
    pub(super) const fn has_happened(&self) -> bool {
        match self {
            Self::Started(_)
            | Self::Ended(_)
            | Self::Forgotten(_)
            | Self::ComponentDeleted(_)
            | Self::ComponentsGone(_) => true,
            Self::Spawned(..)
            | Self::Seen(..)
            | Self::Replied(_)
            | Self::ComponentKept(_)
            | Self::UploadGrew(_)
            | Self::UploadsGone(_) => false,
        }
    }
}
