//! `agent.spawn`: from a spec to a driver that runs. What bytes, imports,
//! limits and grants tell is refused here; compiling and instantiating are the
//! agent's own `starting`. A spawn of a known digest without directories
//! touches no disk but the store's, and compiles nothing. Where there is no room
//! the agent is there all the same, and waits. It starts when it is written down
//! together with the answer that tells of it, and not before.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use skep_protocol::info::StdinKind;
use skep_protocol::op::{AgentReply, AgentSpawn, WhenFull};
use skep_protocol::receipt::CanonicalSpec;
use skep_protocol::spec::{ComponentRef, Stdin};
use skep_protocol::{
    AgentId, AgentSpec, AgentState, Digest, Enforcement, Limits, RunnerKind, Usage,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::agents::shown_bytes;
use super::component::{Lifeless, admit, bytes_of};
use crate::agent::Step;
use crate::agent::admission::Need;
use crate::agent::driver::{Driver, Ending, Publication};
use crate::agent::handle::{Agent, COMMANDS, Handle, Status};
use crate::agent::meter::UsageMeter;
use crate::agent::restart::{Before, Restarts};
use crate::agent::runs::{Again, Runs, StdinSource};
use crate::agent::slots::{Applicant, Place, Standing};
use crate::agent::spec::{Spec, validate};
use crate::agent::turn::{lay_inputs, turn};
use crate::clock;
use crate::components::Component;
use crate::core::Core;
use crate::inputs::{GUEST_DIR, Input, VARIABLE};
use crate::log::{History, Recorder};
use crate::runner::native::Wanted;
use crate::runner::wasm::Kind;
use crate::runner::{Access, DiskUse, GrantedDir, Launch, Program, Runner};
use crate::scratch::Scratch;
use crate::stdio::stdin;
use crate::store::{Born, Change, Ended, Reply, Spawned};

/// What may run here, as far as can be told before it does.
pub(super) struct Admissible {
    spec: Spec,
    program: Program,
    runner: Arc<dyn Runner>,
    /// Of a wasm agent.
    component: Option<Arc<Component>>,
    inputs: Vec<Input>,
    spec_digest: Digest,
}

impl Admissible {
    /// Lets it have the limits that it was given, whatever the operator's
    /// defaults are now.
    pub(super) fn keep_limits(&mut self, limits: Limits) {
        self.spec.limits = limits;
    }
}

/// An agent that has its place, and has not begun. Dropped, it leaves nothing.
pub struct Prepared {
    handle: Handle,
    born: Born,
    life: BoxFuture<'static, ()>,
}

impl Prepared {
    #[must_use]
    pub fn reply(&self) -> AgentReply {
        AgentReply {
            agent: self.handle.info(),
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("agent", &self.handle.id)
            .finish_non_exhaustive()
    }
}

/// Which agent it is to be.
pub(super) struct Identity {
    pub(super) id: AgentId,
    pub(super) created_ms: u64,
    /// Where its last run was lost with its host.
    pub(super) lost: Option<Lost>,
    /// What happened to it already; to a new one, nothing.
    pub(super) before: Before,
}

/// What an agent goes on from whose last run was lost with its host.
pub(super) struct Lost {
    pub(super) generation: u64,
    pub(super) started_ms: Option<u64>,
    pub(super) usage: Usage,
    /// Its log, if it has written any.
    pub(super) history: Option<History>,
    pub(super) again: Again,
}

/// Refuses, or gives the agent that is to be [begun](begin).
pub async fn prepare(core: &Arc<Core>, body: AgentSpawn) -> Result<Prepared, Error> {
    if core.draining.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let (admissible, born) = consider_new(core, body.spec).await?;
    // It may have come to that while a component was looked at.
    if core.draining.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let applicant = applicant(&admissible);
    let place = match body.when_full.unwrap_or(WhenFull::Queue) {
        WhenFull::Queue => core.slots.take_or_wait(applicant)?,
        WhenFull::Reject => Place::Now(core.slots.take(applicant)?),
    };
    let identity = Identity {
        id: AgentId::random(),
        created_ms: born.created_ms,
        lost: None,
        before: Before::default(),
    };
    let (handle, life) = assemble(core, admissible, place, identity)?;
    Ok(Prepared { handle, born, life })
}

/// Writes an agent down with the answer that tells of it, and lets it begin.
pub async fn begin(core: &Core, prepared: Prepared, reply: Reply) -> Result<(), Error> {
    let Prepared { handle, born, life } = prepared;
    let spawned = Spawned {
        id: handle.id,
        name: handle.name.clone(),
        ticket: handle.standing.as_ref().map(Standing::ticket),
        known: handle.known(),
        born,
    };
    let spawned = Change::Spawned(Box::new(spawned), reply);
    core.store.write(spawned).await?;
    launch(core, handle, life);
    Ok(())
}

/// The same as [`consider`], and what is remembered of the agent.
async fn consider_new(core: &Core, mut spec: AgentSpec) -> Result<(Admissible, Born), Error> {
    // Its bytes are kept as a component, not with each agent that is made of it.
    let component = spec.component.take();
    let mut kept = spec.clone();
    spec.component = component;
    let admissible = consider(core, spec).await?;
    kept.component = admissible.spec.info.component.map(ComponentRef::Digest);
    let born = Born {
        spec: kept,
        limits: admissible.spec.limits,
        enforced: admissible.runner.enforced(),
        created_ms: clock::now_ms(),
    };
    Ok((admissible, born))
}

pub(super) fn applicant(admissible: &Admissible) -> Applicant {
    Applicant {
        need: need(admissible),
        component: admissible.spec.info.component,
    }
}

/// From here on it is an agent of this host.
pub(super) fn launch(core: &Core, handle: Handle, life: BoxFuture<'static, ()>) {
    let state = handle.state();
    core.registry.insert(handle);
    core.counts.moved(None, state);
    core.tally.spawned();
    core.drivers.spawn(life);
}

/// Decides what is decided before anything is taken or run.
pub(super) async fn consider(core: &Core, spec: AgentSpec) -> Result<Admissible, Error> {
    let asks_processes = spec.limits.processes.is_some();
    let canonical = CanonicalSpec::without_component(&spec).map_err(|error| {
        tracing::error!(%error, "a spec has no canonical form");
        Error::Internal("a spec has no canonical form")
    })?;
    let mut spec = validate(spec, &core.rules)?;
    let inputs = inputs_of(core, &mut spec).await?;
    match spec.runner {
        RunnerKind::Wasm => {
            let component = component_of(core, &mut spec).await?;
            let program = Program::Component {
                digest: component.digest,
                bytes: bytes_of(core, &component).await?,
                asks_control: component.facts.asks_control,
            };
            Ok(Admissible {
                spec,
                program,
                runner: core.wasm.clone(),
                spec_digest: canonical.made_of(component.digest).digest(),
                component: Some(component),
                inputs,
            })
        }
        RunnerKind::Native => {
            let native = core.native.as_ref().ok_or(Error::NativeOff)?;
            let asked = Wanted {
                processes: asks_processes,
                dirs: !spec.dirs.is_empty(),
                inputs: !inputs.is_empty(),
            };
            native.check(asked).await?;
            let mut command = std::mem::take(&mut spec.command);
            if let Some(program) = command.first_mut() {
                *program = native
                    .check_program(program)?
                    .to_string_lossy()
                    .into_owned();
            }
            Ok(Admissible {
                spec,
                program: Program::Command(command),
                runner: native.clone(),
                component: None,
                inputs,
                spec_digest: canonical.digest(),
            })
        }
    }
}

/// What the agent takes of what all have together.
fn need(Admissible { spec, runner, .. }: &Admissible) -> Need {
    let enforced = runner.enforced().memory == Enforcement::Enforced;
    let stdin_bytes = match &spec.stdin {
        Stdin::Data(data) => data.len(),
        Stdin::Closed | Stdin::Open => 0,
    };
    let env_bytes: usize = (spec.env.iter())
        .map(|(key, value)| key.len() + value.len())
        .sum();
    // Its texts are there twice: to be shown, and for the guest. Besides, each
    // agent that waits takes some 13 KiB, whatever its spec; its component
    // counts among the components.
    let held_bytes = 2 * shown_bytes(&spec.info) + env_bytes + stdin_bytes;
    Need {
        memory_bytes: if enforced {
            spec.limits.memory_bytes
        } else {
            0
        },
        held_bytes: held_bytes as u64,
    }
}

async fn component_of(core: &Core, spec: &mut Spec) -> Result<Arc<Component>, Error> {
    let component = match spec.component.take() {
        Some(ComponentRef::Digest(digest)) => {
            let held = core.components.get(&digest);
            let held = held.ok_or(Error::NoComponent(digest))?;
            match held.facts.kind {
                Kind::Command | Kind::CoreModule => held,
                // It was put as any bytes are, and nobody was told why not.
                Kind::Blob => {
                    let bytes = bytes_of(core, &held).await?;
                    admit(core, bytes, Some(digest), Lifeless::Refuse).await?
                }
            }
        }
        Some(ComponentRef::Data(data)) => {
            check_size(spec, data.len())?;
            let bytes = Bytes::from(data.into_vec());
            admit(core, bytes, None, Lifeless::Refuse).await?
        }
        None => return Err(Error::Internal("a validated spec without its component")),
    };
    check_size(spec, component.size)?;
    component.facts.admits(&spec.limits)?;
    spec.made_of(component.digest);
    Ok(component)
}

/// The bytes of the inputs, all of which have to be here. Their copies take of
/// the disk what the agent may put there.
async fn inputs_of(core: &Core, spec: &mut Spec) -> Result<Vec<Input>, Error> {
    let mut inputs = Vec::with_capacity(spec.inputs.len());
    for (path, digest) in std::mem::take(&mut spec.inputs) {
        match core.components.get(&digest) {
            Some(content) => {
                let bytes = bytes_of(core, &content).await?;
                inputs.push(Input {
                    path,
                    bytes,
                    content,
                });
            }
            None => return Err(Error::NoInput { path, digest }),
        }
    }
    let needed = (inputs.iter()).map(|input| input.bytes.len() as u64).sum();
    let limit = spec.limits.disk_bytes;
    if needed > limit {
        return Err(Error::InputsTooLarge { needed, limit });
    }
    Ok(inputs)
}

fn check_size(spec: &Spec, bytes: usize) -> Result<(), Error> {
    let (asked, ceiling) = (bytes as u64, spec.limits.component_bytes);
    if asked > ceiling {
        Err(Error::ComponentTooLarge { asked, ceiling })
    } else {
        Ok(())
    }
}

/// Puts an agent together, with the life that it will have.
pub(super) fn assemble(
    core: &Arc<Core>,
    admissible: Admissible,
    place: Place,
    Identity {
        id,
        created_ms,
        before,
        lost,
    }: Identity,
) -> Result<(Handle, BoxFuture<'static, ()>), Error> {
    let Admissible {
        spec,
        program,
        runner,
        component,
        inputs,
        spec_digest,
    } = admissible;
    let rule = spec.restart;
    let mut dirs = spec.dirs;
    let mut env = spec.env;
    if !inputs.is_empty() {
        let host = core.inputs_root.join(id.to_string());
        let guest = match spec.runner {
            RunnerKind::Wasm => GUEST_DIR.to_owned(),
            // Where the host has it, as with all that a native agent is granted.
            RunnerKind::Native => host.to_string_lossy().into_owned(),
        };
        env.insert(VARIABLE.to_owned(), guest.clone());
        dirs.push(GrantedDir {
            host,
            guest,
            access: Access::Read,
        });
    }
    let scratch = if spec.scratch {
        let scratch = Scratch::make(&core.scratch_root, id).map_err(|error| {
            tracing::error!(%error, root = %core.scratch_root.display(), "no scratch directory");
            Error::Storage(error)
        })?;
        dirs.push(GrantedDir {
            host: scratch.path().to_owned(),
            guest: "/".to_owned(),
            access: Access::Scratch,
        });
        Some(scratch)
    } else {
        None
    };

    let (stdin, open_stdin, stdin_given) = match spec.stdin {
        Stdin::Closed => (StdinSource::Given(Vec::new()), None, 0),
        Stdin::Data(data) => {
            let bytes = data.len() as u64;
            (StdinSource::Given(data.into_vec()), None, bytes)
        }
        Stdin::Open => {
            let bound = usize::try_from(spec.limits.stdin_bytes).unwrap_or(usize::MAX);
            let (writer, reader) = stdin(bound, &[]);
            (StdinSource::Open(reader), Some(writer), 0)
        }
    };

    let (known, history, again) = match lost {
        Some(lost) => (
            (lost.generation, lost.started_ms, lost.usage),
            lost.history,
            Some(lost.again),
        ),
        None => Default::default(),
    };
    let (generation, started_ms, usage) = known;
    let history = history.unwrap_or_else(|| core.logs.create(id, spec.limits.output_history_bytes));
    let history = Arc::new(history.charged(shown_bytes(&spec.info) as u64));
    let on_fuel_exhausted = spec.info.on_fuel_exhausted;
    let agent = Arc::new(Agent {
        id,
        name: spec.name.clone(),
        runner: spec.runner,
        created_ms,
        spec: spec.info,
        limits: spec.limits,
        enforced: runner.enforced(),
        history: Arc::clone(&history),
        stdin: open_stdin,
        stdin_given,
        meter: UsageMeter::from(usage),
        standing: match &place {
            Place::Now(_) => None,
            Place::Later(turn) => Some(turn.standing()),
        },
    });
    let state = match &place {
        Place::Now(_) => AgentState::Starting,
        Place::Later(_) => AgentState::Queued,
    };
    let status = Status {
        state,
        paused_reason: None,
        generation,
        fuel: spec.limits.fuel,
        started_ms,
        begun: false,
        exited_ms: None,
        outcome: None,
        restart: None,
        receipt: None,
    };
    let (status, status_reader) = watch::channel(status);
    let (commands, mut command_reader) = mpsc::channel(COMMANDS);
    let handle = Handle::new(Arc::clone(&agent), status_reader, commands);

    let recorder = Recorder {
        agent: id,
        run: before.restarts,
        history,
        publisher: core.publisher.clone(),
        bytes_per_s: spec.limits.output_bytes_per_s,
        count: Arc::clone(&core.records),
        ended: CancellationToken::new(),
    };
    let publication = Arc::new(Publication {
        agent,
        spec_digest,
        status,
        publisher: core.publisher.clone(),
        counts: Arc::clone(&core.counts),
    });
    let launch = Launch {
        id,
        name: spec.name.to_string(),
        program,
        args: spec.args,
        env,
        task: Arc::new(spec.task),
        limits: spec.limits,
        on_fuel_exhausted,
        dirs,
        disk: DiskUse::default(),
    };
    let (host, published) = (Arc::clone(core), Arc::clone(&publication));
    let to_lay = inputs.clone();
    let life = async move {
        published.publish_status();
        let slot = match place {
            Place::Now(slot) => slot,
            Place::Later(later) => {
                let slot = turn(later, &mut command_reader, &host.shutdown).await?;
                // Or a host that comes after might run it again.
                let _ = host.store.write(Change::Started(id)).await;
                published.step(Step::Start);
                slot
            }
        };
        let root = host.inputs_root.clone();
        let laid = lay_inputs(root, id, to_lay, &mut command_reader, &host.shutdown).await?;
        let runs = Runs {
            driver: Driver {
                publication: published,
                commands: command_reader,
                shutdown: host.shutdown.clone(),
                shutdown_grace: host.grace,
            },
            restarts: Restarts::new(rule, before, Instant::now()),
            no_more_runs: host.draining.clone(),
            stdin,
            recorder,
            store: host.store.clone(),
        };
        Ok((runs.run(runner, launch, again).await, slot, laid))
    };
    let host = Arc::clone(core);
    let life = async move {
        let life = AssertUnwindSafe(life).catch_unwind().await;
        let (ending, slot, laid) = match life {
            Ok(Ok((ending, slot, laid))) => (ending, Some(slot), laid),
            Ok(Err(outcome)) => (Ending::before_start(outcome), None, None),
            Err(_) => {
                publication.agent.meter.kill_guest();
                let incident = crate::incident("a driver panicked");
                (Ending::unrecorded(incident), None, None)
            }
        };
        // All that the agent held is given back before its end is told: who
        // sees the end finds the slot free, the directories gone, and what it
        // left kept.
        if scratch.is_some() || laid.is_some() {
            let kept = Arc::clone(&host.kept);
            let tidy = move || {
                drop(laid);
                if let Some(scratch) = scratch {
                    kept.keep(id, scratch);
                }
            };
            let _ = tokio::task::spawn_blocking(tidy).await;
        }
        drop((component, inputs));
        drop(slot);
        host.tally.ended(&ending.outcome);
        let last = publication.last(ending);
        let given = &publication.agent.spec;
        let ended = Ended {
            id,
            bytes: publication.agent.history.bytes(),
            has_secrets: !given.env.is_empty() || given.stdin == StdinKind::Data,
            known: publication.agent.known(&last),
        };
        // Nobody sees an end that a host after this one does not know. If it
        // cannot be written now, the agent has ended all the same.
        let _ = host.store.write(Change::Ended(Box::new(ended))).await;
        publication.end(last);
        host.registry.has_ended(id).await;
    };
    Ok((handle, life.boxed()))
}
