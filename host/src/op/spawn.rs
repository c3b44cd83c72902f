//! `agent.spawn`: from a spec to a driver that runs. What bytes, imports,
//! limits and grants tell is refused here; compiling and instantiating are the
//! agent's own `starting`. A spawn of a known digest without directories
//! touches no disk and compiles nothing. Where there is no room the agent is
//! there all the same, and waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use skep_protocol::op::{AgentReply, AgentSpawn, WhenFull};
use skep_protocol::spec::{ComponentRef, Stdin};
use skep_protocol::{AgentId, AgentSpec, AgentState, Enforcement, Outcome, RunnerKind};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::agents::shown_bytes;
use super::component::admit;
use crate::agent::Step;
use crate::agent::admission::Need;
use crate::agent::driver::{Driver, Publication};
use crate::agent::handle::{Agent, COMMANDS, Handle, Status, UsageMeter};
use crate::agent::slots::{Applicant, Place};
use crate::agent::spec::{Spec, validate};
use crate::agent::turn::turn;
use crate::clock;
use crate::components::Component;
use crate::core::Core;
use crate::log::Recorder;
use crate::runner::{Access, GrantedDir, Launch, Program, Runner};
use crate::scratch::Scratch;
use crate::stdio::{output, stdin};

/// What may run here, as far as can be told before it does.
pub(super) struct Admissible {
    spec: Spec,
    program: Program,
    runner: Arc<dyn Runner>,
    /// Of a wasm agent.
    component: Option<Arc<Component>>,
}

pub async fn spawn(core: &Arc<Core>, body: AgentSpawn) -> Result<AgentReply, Error> {
    if core.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let admissible = consider(core, body.spec).await?;
    let applicant = Applicant {
        need: need(&admissible),
        component: admissible.spec.info.component,
    };
    let place = match body.when_full.unwrap_or(WhenFull::Queue) {
        WhenFull::Queue => core.slots.take_or_wait(applicant)?,
        WhenFull::Reject => Place::Now(core.slots.take(applicant)?),
    };
    let handle = start(core, admissible, place)?;
    Ok(AgentReply {
        agent: handle.info(),
    })
}

/// Decides what is decided before anything is taken or run.
pub(super) async fn consider(core: &Core, spec: AgentSpec) -> Result<Admissible, Error> {
    let asks_processes = spec.limits.processes.is_some();
    let mut spec = validate(spec, &core.rules)?;
    match spec.runner {
        RunnerKind::Wasm => {
            let component = component_of(core, &mut spec).await?;
            let program = Program::Component {
                digest: component.digest,
                bytes: component.bytes.clone(),
                asks_control: component.facts.asks_control,
            };
            Ok(Admissible {
                spec,
                program,
                runner: core.wasm.clone(),
                component: Some(component),
            })
        }
        RunnerKind::Native => {
            let native = core.native.as_ref().ok_or(Error::NativeOff)?;
            native.check(asks_processes, !spec.dirs.is_empty()).await?;
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
        Some(ComponentRef::Digest(digest)) => core
            .components
            .get(&digest)
            .ok_or(Error::NoComponent(digest))?,
        Some(ComponentRef::Data(data)) => {
            check_size(spec, data.len())?;
            admit(core, Bytes::from(data.into_vec()), None).await?
        }
        None => return Err(Error::Internal("a validated spec without its component")),
    };
    check_size(spec, component.bytes.len())?;
    component.facts.admits(&spec.limits)?;
    spec.made_of(component.digest);
    Ok(component)
}

fn check_size(spec: &Spec, bytes: usize) -> Result<(), Error> {
    let (asked, ceiling) = (bytes as u64, spec.limits.component_bytes);
    if asked > ceiling {
        Err(Error::ComponentTooLarge { asked, ceiling })
    } else {
        Ok(())
    }
}

fn start(core: &Arc<Core>, admissible: Admissible, place: Place) -> Result<Handle, Error> {
    let Admissible {
        spec,
        program,
        runner,
        component,
    } = admissible;
    let id = AgentId::random();
    let mut dirs = spec.dirs;
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

    let (stdout, stderr, output) = output();
    let bound = usize::try_from(spec.limits.stdin_bytes).unwrap_or(usize::MAX);
    let given: &[u8] = if let Stdin::Data(data) = &spec.stdin {
        data
    } else {
        &[]
    };
    let (stdin_writer, stdin_reader) = stdin(bound, given);
    let stdin_given = given.len() as u64;
    let open_stdin = matches!(spec.stdin, Stdin::Open).then_some(stdin_writer);

    let history = core.logs.create(id, spec.limits.output_history_bytes);
    let history = Arc::new(history.charged(shown_bytes(&spec.info) as u64));
    let on_fuel_exhausted = spec.info.on_fuel_exhausted;
    let agent = Arc::new(Agent {
        id,
        name: spec.name.clone(),
        runner: spec.runner,
        created_ms: clock::now_ms(),
        spec: spec.info,
        limits: spec.limits,
        enforced: runner.enforced(),
        history: Arc::clone(&history),
        stdin: open_stdin,
        meter: UsageMeter::new(output.counter(), stdin_given),
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
        generation: 0,
        fuel: spec.limits.fuel,
        started_ms: None,
        exited_ms: None,
        outcome: None,
    };
    let (status, status_reader) = watch::channel(status);
    let (commands, mut command_reader) = mpsc::channel(COMMANDS);
    let handle = Handle::new(Arc::clone(&agent), status_reader, commands);
    core.registry.insert(handle.clone());
    core.counts.moved(None, state);
    core.tally.spawned();

    let unthrottle = CancellationToken::new();
    let recorder = Recorder {
        agent: id,
        run: 0,
        history,
        publisher: core.publisher.clone(),
        bytes_per_s: spec.limits.output_bytes_per_s,
        count: Arc::clone(&core.records),
        ended: unthrottle.clone(),
    };
    let publication = Arc::new(Publication {
        agent,
        status,
        publisher: core.publisher.clone(),
        counts: Arc::clone(&core.counts),
    });
    let launch = Launch {
        id,
        name: spec.name.to_string(),
        program,
        args: spec.args,
        env: spec.env,
        task: spec.task,
        limits: spec.limits,
        on_fuel_exhausted,
        dirs,
        stdin: stdin_reader,
        stdout,
        stderr,
    };
    let (host, published) = (Arc::clone(core), Arc::clone(&publication));
    let life = async move {
        published.publish_status();
        let slot = match place {
            Place::Now(slot) => slot,
            Place::Later(later) => {
                let slot = turn(later, &mut command_reader, &host.shutdown).await?;
                published.step(Step::Start);
                slot
            }
        };
        let driver = Driver {
            publication: published,
            commands: command_reader,
            shutdown: host.shutdown.clone(),
            shutdown_grace: host.grace,
            recorder: tokio::spawn(recorder.run(output)),
            unthrottle,
        };
        Ok((driver.run(runner, launch).await, slot))
    };
    let host = Arc::clone(core);
    core.drivers.spawn(async move {
        let life = AssertUnwindSafe(life).catch_unwind().await;
        let (outcome, slot) = match life {
            Ok(Ok((outcome, slot))) => (outcome, Some(slot)),
            Ok(Err(outcome)) => (outcome, None),
            Err(_) => {
                publication.agent.kill_guest();
                let incident = crate::incident("a driver panicked");
                (Outcome::HostFault { incident }, None)
            }
        };
        // All that the agent held is given back before its end is told: who
        // sees the end finds the slot free and the directory gone.
        if scratch.is_some() {
            let _ = tokio::task::spawn_blocking(move || drop(scratch)).await;
        }
        drop(component);
        drop(slot);
        host.tally.ended(&outcome);
        publication.end(outcome);
        host.registry.has_ended(id);
    });
    Ok(handle)
}
