//! What is told of a request: who is concerned and how much is asked, never
//! what a client hands to an agent (values of the environment, arguments, task,
//! input).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use skep_protocol::codec::Envelope;
use skep_protocol::op::{AgentReply, HostGc, Op, Request};
use skep_protocol::spec::{ComponentRef, DirGrant};
use skep_protocol::text::deceives;
use skep_protocol::{AgentId, AgentName, AgentSpec, Digest, LimitsAsk, RequestId, RunnerKind};

/// Of each list so many members are told, and of each text so many bytes. With
/// them no line is longer than 64 KiB.
const MEMBERS: usize = 24;
const PATH_BYTES: usize = 256;
const KEY_BYTES: usize = 64;

/// Stands at the end of a text that was cut.
const CUT: char = '…';

/// A request, as far as it was read.
#[derive(Debug)]
pub struct Asked {
    begun: Instant,
    id: Option<RequestId>,
    op: Option<Op>,
    pub(super) about: About,
    changes: bool,
}

/// What is told besides.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum About {
    Nothing {},
    Agent {
        agent: AgentId,
    },
    Refuel {
        agent: AgentId,
        fuel: u64,
    },
    Stop {
        agent: AgentId,
        grace_ms: Option<u64>,
    },
    Stdin {
        agent: AgentId,
        stdin_bytes: usize,
        close: bool,
    },
    Component {
        component: Digest,
    },
    Gc(HostGc),
    Spawn(Box<Spawn>),
}

#[derive(Debug, Serialize)]
pub(super) struct Spawn {
    /// Once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentId>,
    name: AgentName,
    runner: RunnerKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    limits: LimitsAsk,
    scratch: bool,
    dirs: Vec<DirGrant>,
    /// The names alone.
    env: Vec<String>,
    labels: BTreeMap<String, String>,
    /// Members of lists that are not told.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Asked {
    /// What came just now, of which nothing is known yet.
    #[must_use]
    pub fn now() -> Self {
        Self {
            begun: Instant::now(),
            id: None,
            op: None,
            about: About::Nothing {},
            changes: false,
        }
    }

    /// What came just now under this id.
    #[must_use]
    pub fn of_id(id: Option<RequestId>) -> Self {
        Self { id, ..Self::now() }
    }

    /// What came in this payload, of which the body is not read.
    #[must_use]
    pub(crate) fn of(payload: &[u8]) -> Self {
        let mut asked = Self::now();
        match Envelope::parse(payload) {
            Ok(envelope) => {
                asked.bears(Some(envelope.id));
                asked.asks(envelope.op);
            }
            Err(rejection) => asked.bears(rejection.id),
        }
        asked
    }

    /// Notes its id.
    pub(crate) fn bears(&mut self, id: Option<RequestId>) {
        self.id = id;
    }

    /// Notes its operation.
    pub(crate) fn asks(&mut self, op: Op) {
        self.op = Some(op);
        self.changes = op.changes() || matches!(op, Op::ComponentRemove | Op::HostDrain);
    }

    /// Notes what it says.
    pub(crate) fn says(&mut self, request: &Request) {
        self.about = About::of(request);
    }

    /// Notes the agent that was made of it.
    pub(crate) fn made(&mut self, reply: &AgentReply) {
        if let About::Spawn(spawn) = &mut self.about {
            spawn.agent = Some(reply.agent.id);
            spawn.component = reply.agent.spec.component;
        }
    }

    /// Notes that a component is whole: what came before were parts of it.
    pub(crate) fn completed(&mut self) {
        self.changes = true;
    }

    pub(crate) fn id(&self) -> Option<RequestId> {
        self.id
    }

    pub(crate) fn op(&self) -> Option<Op> {
        self.op
    }

    /// Whether it is told of although it was granted.
    pub(super) fn changes(&self) -> bool {
        self.changes
    }

    pub(super) fn took(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl About {
    fn of(request: &Request) -> Self {
        let of_agent = |agent| Self::Agent { agent };
        let of_component = |component| Self::Component { component };
        match request {
            Request::HostHello(_)
            | Request::HostHealth(_)
            | Request::HostStats(_)
            | Request::HostDrain(_)
            | Request::ComponentList(_)
            | Request::AgentList(_)
            | Request::Unsupported(_) => Self::Nothing {},
            Request::HostGc(body) => Self::Gc(body.clone()),
            Request::ComponentPut(body) => of_component(body.digest),
            Request::ComponentStat(body) => of_component(body.digest),
            Request::ComponentCheck(body) => of_component(body.digest),
            Request::ComponentRemove(body) => of_component(body.digest),
            Request::AgentSpawn(body) => Self::Spawn(Box::new(Spawn::of(&body.spec))),
            Request::AgentGet(body) => of_agent(body.agent),
            Request::AgentPause(body) => of_agent(body.agent),
            Request::AgentResume(body) => of_agent(body.agent),
            Request::AgentKill(body) => of_agent(body.agent),
            Request::AgentWait(body) => of_agent(body.agent),
            Request::AgentOutput(body) => of_agent(body.agent),
            Request::AgentFiles(body) => of_agent(body.agent),
            Request::AgentFile(body) => of_agent(body.agent),
            Request::AgentSubscribe(body) => of_agent(body.agent),
            Request::AgentForget(body) => of_agent(body.agent),
            Request::AgentRefuel(body) => Self::Refuel {
                agent: body.agent,
                fuel: body.fuel,
            },
            Request::AgentStop(body) => Self::Stop {
                agent: body.agent,
                grace_ms: body.grace_ms,
            },
            Request::AgentStdin(body) => Self::Stdin {
                agent: body.agent,
                stdin_bytes: body.data.as_ref().map_or(0, |data| data.len()),
                close: body.close,
            },
        }
    }
}

impl Spawn {
    fn of(spec: &AgentSpec) -> Self {
        let (dirs, env, labels) = (&spec.grants.dirs, &spec.env, &spec.labels);
        let counts = [dirs.len(), env.len(), labels.len()];
        let dir = |dir: &DirGrant| DirGrant {
            host: told(&dir.host, PATH_BYTES),
            guest: told(&dir.guest, PATH_BYTES),
            mode: dir.mode,
        };
        // Who writes KEY=VALUE where a key belongs has written a value.
        let key = |key: &String| told(key.split('=').next().unwrap_or_default(), KEY_BYTES);
        let label =
            |(key, value): (&String, &String)| (told(key, KEY_BYTES), told(value, KEY_BYTES));
        Self {
            agent: None,
            name: spec.name.clone(),
            runner: spec.runner,
            component: match &spec.component {
                Some(ComponentRef::Digest(digest)) => Some(*digest),
                Some(ComponentRef::Data(_)) | None => None,
            },
            program: (spec.command.first()).map(|program| told(program, PATH_BYTES)),
            limits: spec.limits,
            scratch: spec.grants.scratch,
            dirs: dirs.iter().take(MEMBERS).map(dir).collect(),
            env: env.keys().take(MEMBERS).map(key).collect(),
            labels: labels.iter().take(MEMBERS).map(label).collect(),
            left_out: counts
                .map(|count| count.saturating_sub(MEMBERS))
                .iter()
                .sum(),
        }
    }
}

/// A text, cut to so many bytes, without what would deceive who reads it on a
/// terminal.
pub(super) fn told(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    let shown = text.get(..end).unwrap_or_default();
    let mut told: String = shown
        .chars()
        .map(|char| {
            if deceives(char) {
                char::REPLACEMENT_CHARACTER
            } else {
                char
            }
        })
        .collect();
    if end < text.len() {
        told.push(CUT);
    }
    told
}
