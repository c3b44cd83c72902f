//! An agent put together from what was admitted: what it is granted, how it is
//! seen and steered, and the [`Life`] that it will have.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::info::RestartInfo;
use skep_protocol::spec::Stdin;
use skep_protocol::{AgentId, AgentState, RunnerKind, Usage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::admissible::Admissible;
use super::agents::shown_bytes;
use super::life::{Course, Holdings, Life};
use crate::agent::handle::{Agent, COMMANDS, Handle, Status};
use crate::agent::meter::UsageMeter;
use crate::agent::publication::Publication;
use crate::agent::restart::Before;
use crate::agent::runs::{Again, StdinSource, milliseconds};
use crate::agent::slots::Place;
use crate::agent::spec::Spec;
use crate::clock;
use crate::core::Core;
use crate::inputs::{GUEST_DIR, VARIABLE};
use crate::log::{History, Recorder};
use crate::runner::{Access, DiskUse, GrantedDir, Launch};
use crate::scratch::Scratch;
use crate::stdio::{self, StdinWriter};

/// Which agent it is to be.
pub(super) struct Identity {
    pub(super) id: AgentId,
    pub(super) created_ms: u64,
    pub(super) past: Past,
}

/// What happened to it already, under a host before; to a new one, nothing.
#[derive(Default)]
pub(super) struct Past {
    pub(super) generation: u64,
    pub(super) started_ms: Option<u64>,
    pub(super) usage: Usage,
    /// Its log, if it has written any.
    pub(super) history: Option<History>,
    pub(super) before: Before,
    /// Where its last run was lost with its host.
    pub(super) again: Option<Again>,
}

/// Puts an agent together, with the life that it will have.
pub(super) fn assemble(
    core: &Arc<Core>,
    admissible: Admissible,
    place: Place,
    Identity {
        id,
        created_ms,
        past,
    }: Identity,
) -> Result<(Handle, Life), Error> {
    let Admissible {
        mut spec,
        program,
        runner,
        component,
        inputs,
        spec_digest,
    } = admissible;
    if !inputs.is_empty() {
        grant_inputs(core, id, &mut spec);
    }
    let scratch = grant_scratch(core, id, &mut spec)?;
    let (stdin, stdin_writer, stdin_given) = stdin_of(spec.stdin, spec.limits.stdin_bytes);
    let history = match past.history {
        Some(history) => history,
        None => core.logs.create(id, spec.limits.output_history_bytes),
    };
    let history = Arc::new(history.charged(shown_bytes(&spec.info) as u64));
    // Where it goes on may not be on disk yet, and its next run may be far.
    history.heal_in_time();
    let on_fuel_exhausted = spec.info.on_fuel_exhausted;

    let (state, standing) = match &place {
        Place::Now(_) => (AgentState::Starting, None),
        Place::Later(turn) => (AgentState::Queued, Some(turn.standing())),
    };
    let agent = Arc::new(Agent {
        id,
        name: spec.name.clone(),
        runner: spec.runner,
        created_ms,
        spec: spec.info,
        limits: spec.limits,
        enforced: runner.enforced(),
        history: Arc::clone(&history),
        stdin: stdin_writer,
        stdin_given,
        meter: UsageMeter::from(past.usage),
        standing,
    });
    let now_ms = clock::now_ms();
    let failed = past.before.failed.iter();
    let failed_ms = failed.map(|ago| now_ms.saturating_sub(milliseconds(*ago)));
    let restart = past.again.as_ref().map(|again| RestartInfo {
        next_run_ms: Some(now_ms.saturating_add(milliseconds(again.wait))),
        ..again.told.clone()
    });
    let (status, status_reader) = watch::channel(Status {
        state,
        paused_reason: None,
        generation: past.generation,
        fuel: spec.limits.fuel,
        started_ms: past.started_ms,
        begun: false,
        exited_ms: None,
        outcome: None,
        asked_to_end: false,
        restart,
        failed_ms: failed_ms.collect(),
        receipt: None,
    });
    let (commands, command_reader) = mpsc::channel(COMMANDS);
    let handle = Handle::new(Arc::clone(&agent), status_reader, commands);

    // What the agent says and what is said of it, in one order.
    let publisher = core.publisher.of_its_own();
    let publication = Arc::new(Publication {
        agent,
        spec_digest,
        status,
        publisher: publisher.clone(),
        counts: Arc::clone(&core.counts),
    });
    let course = Course {
        place,
        commands: command_reader,
        inputs: inputs.clone(),
        runner,
        launch: Launch {
            id,
            name: spec.name.to_string(),
            program,
            args: spec.args,
            env: spec.env,
            task: Arc::new(spec.task),
            limits: spec.limits,
            on_fuel_exhausted,
            dirs: spec.dirs,
            disk: DiskUse::default(),
        },
        stdin,
        recorder: Recorder {
            agent: id,
            run: past.before.restarts,
            may_run_again: spec.restart.allows_any(),
            history,
            publisher,
            bytes_per_s: spec.limits.output_bytes_per_s,
            count: Arc::clone(&core.records),
            ended: CancellationToken::new(),
        },
        rule: spec.restart,
        before: past.before,
        again: past.again,
    };
    let life = Life {
        core: Arc::clone(core),
        publication,
        course,
        held: Holdings {
            scratch,
            component,
            inputs,
        },
    };
    Ok((handle, life))
}

/// Lets the agent read its inputs, and tells it where they are.
fn grant_inputs(core: &Core, id: AgentId, spec: &mut Spec) {
    let host = core.inputs_root.path().join(id.to_string());
    let guest = match spec.runner {
        RunnerKind::Wasm => GUEST_DIR.to_owned(),
        // Where the host has it, as with all that a native agent is granted.
        RunnerKind::Native => host.to_string_lossy().into_owned(),
    };
    spec.env.insert(VARIABLE.to_owned(), guest.clone());
    spec.dirs.push(GrantedDir {
        host,
        guest,
        access: Access::Read,
    });
}

/// Makes the agent's own directory, if it asked for one.
fn grant_scratch(core: &Core, id: AgentId, spec: &mut Spec) -> Result<Option<Scratch>, Error> {
    if !spec.scratch {
        return Ok(None);
    }
    let root = &core.scratch_root;
    let made = root.ready().and_then(|root| Scratch::make(root, id));
    let scratch = made.map_err(|error| {
        tracing::error!(%error, root = %root.path().display(), "no scratch directory");
        Error::Storage(error)
    })?;
    spec.dirs.push(GrantedDir {
        host: scratch.path().to_owned(),
        guest: "/".to_owned(),
        access: Access::Scratch,
    });
    Ok(Some(scratch))
}

/// What its runs read, where clients write if they may, and how many bytes it was
/// given.
fn stdin_of(stdin: Stdin, bound_bytes: u64) -> (StdinSource, Option<StdinWriter>, u64) {
    match stdin {
        Stdin::Closed => (StdinSource::Given(Bytes::new()), None, 0),
        Stdin::Data(data) => {
            let bytes = data.len() as u64;
            (StdinSource::Given(data.into_vec().into()), None, bytes)
        }
        Stdin::Open => {
            let bound = usize::try_from(bound_bytes).unwrap_or(usize::MAX);
            let (writer, reader) = stdio::stdin(bound, Bytes::new());
            (StdinSource::Open(reader), Some(writer), 0)
        }
    }
}
