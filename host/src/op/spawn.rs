//! `agent.spawn`: from a spec to a driver that runs. What bytes, imports,
//! limits and grants tell is refused here; compiling and instantiating are the
//! agent's own `starting`. A spawn of a known digest without directories
//! touches no disk and compiles nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use skep_protocol::op::{AgentReply, AgentSpawn, WhenFull};
use skep_protocol::spec::{ComponentRef, DirMode, Stdin};
use skep_protocol::{AgentId, AgentState, Outcome, RunnerKind};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::agents::shown_bytes;
use super::component::admit;
use crate::agent::driver::{Driver, Publication};
use crate::agent::handle::{Agent, COMMANDS, Handle, Status, UsageMeter};
use crate::agent::spec::{Spec, validate};
use crate::clock;
use crate::components::Component;
use crate::core::Core;
use crate::log::{History, Recorder};
use crate::runner::{GrantedDir, Launch, Program, Runner};
use crate::scratch::Scratch;
use crate::stdio::{output, stdin};

pub async fn spawn(core: &Arc<Core>, body: AgentSpawn) -> Result<AgentReply, Error> {
    if body.when_full == Some(WhenFull::Queue) {
        return Err(Error::UnsupportedField { field: "when_full" });
    }
    if core.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let mut spec = validate(body.spec, &core.rules)?;
    let (program, runner, component) = match spec.runner {
        RunnerKind::Wasm => {
            let component = component_of(core, &mut spec).await?;
            let program = Program::Component {
                digest: component.digest,
                bytes: component.bytes.clone(),
                asks_control: component.facts.asks_control,
            };
            let runner: Arc<dyn Runner> = core.wasm.clone();
            (program, runner, Some(component))
        }
        RunnerKind::Native => {
            let native = core.native.as_ref().ok_or(Error::NativeOff)?;
            let mut command = std::mem::take(&mut spec.command);
            if let Some(program) = command.first_mut() {
                *program = native
                    .check_program(program)?
                    .to_string_lossy()
                    .into_owned();
            }
            let runner: Arc<dyn Runner> = native.clone();
            (Program::Command(command), runner, None)
        }
    };
    let handle = start(core, spec, program, runner, component)?;
    Ok(AgentReply {
        agent: handle.info(),
    })
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

fn start(
    core: &Arc<Core>,
    spec: Spec,
    program: Program,
    runner: Arc<dyn Runner>,
    component: Option<Arc<Component>>,
) -> Result<Handle, Error> {
    let slot = core.registry.take_slot().map_err(|full| Error::Capacity {
        running: full.max as u64,
        max: full.max as u64,
    })?;
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
            mode: DirMode::Rw,
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

    let history = History::new(
        id,
        spec.limits.output_history_bytes,
        Arc::clone(&core.history),
    );
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
    });
    let status = Status {
        state: AgentState::Starting,
        paused_reason: None,
        generation: 0,
        fuel: spec.limits.fuel,
        started_ms: None,
        exited_ms: None,
        outcome: None,
    };
    let (status, status_reader) = watch::channel(status);
    let (commands, command_reader) = mpsc::channel(COMMANDS);
    let handle = Handle::new(Arc::clone(&agent), status_reader, commands);
    core.registry.insert(handle.clone());
    core.counts.moved(None, AgentState::Starting);
    core.tally.spawned();

    let unthrottle = CancellationToken::new();
    let recorder = Recorder {
        agent: id,
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
    let driver = Driver {
        publication: Arc::clone(&publication),
        commands: command_reader,
        shutdown: core.shutdown.clone(),
        shutdown_grace: core.grace,
        recorder: tokio::spawn(recorder.run(output)),
        unthrottle,
    };
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
    let host = Arc::clone(core);
    core.drivers.spawn(async move {
        let life = AssertUnwindSafe(driver.run(runner, launch)).catch_unwind();
        let outcome = life.await.unwrap_or_else(|_| {
            publication.agent.kill_guest();
            Outcome::HostFault {
                incident: crate::incident("a driver panicked"),
            }
        });
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
