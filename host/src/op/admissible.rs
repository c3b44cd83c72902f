//! What may run here, as far as can be told from bytes, imports, limits and
//! grants, before anything is taken or run. A known digest without directories
//! touches no disk but the store's, and compiles nothing.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::receipt::CanonicalSpec;
use skep_protocol::spec::{ComponentRef, Stdin};
use skep_protocol::{AgentSpec, Digest, Enforcement, Limits, RunnerKind};

use super::Error;
use super::agents::shown_bytes;
use super::component::{Lifeless, admit, bytes_of};
use crate::agent::admission::Need;
use crate::agent::slots::Applicant;
use crate::agent::spec::{Spec, validate};
use crate::components::Component;
use crate::core::Core;
use crate::inputs::Input;
use crate::runner::native::Wanted;
use crate::runner::{Program, Runner};

/// What may run here, as far as can be told before it does.
pub(super) struct Admissible {
    pub(super) spec: Spec,
    pub(super) program: Program,
    pub(super) runner: Arc<dyn Runner>,
    /// Of a wasm agent.
    pub(super) component: Option<Arc<Component>>,
    pub(super) inputs: Vec<Input>,
    pub(super) spec_digest: Digest,
}

impl Admissible {
    /// Lets it have the limits that it was given, whatever the operator's
    /// defaults are now.
    pub(super) fn keep_limits(&mut self, limits: Limits) {
        self.spec.limits = limits;
    }

    /// What it asks for of what all have together.
    pub(super) fn applicant(&self) -> Applicant {
        Applicant {
            need: need(self),
            component: self.spec.info.component,
        }
    }
}

/// Decides what is decided before anything is taken or run. `held` are components
/// that the agent has already, whether or not they were deleted meanwhile.
pub(super) async fn consider(
    core: &Core,
    spec: AgentSpec,
    held: &[Arc<Component>],
) -> Result<Admissible, Error> {
    let asks_processes = spec.limits.processes.is_some();
    let canonical = CanonicalSpec::without_component(&spec).map_err(|error| {
        tracing::error!(%error, "a spec has no canonical form");
        Error::Internal("a spec has no canonical form")
    })?;
    let mut spec = validate(spec, &core.rules)?;
    let inputs = inputs_of(core, &mut spec, held).await?;
    match spec.runner {
        RunnerKind::Wasm => {
            let component = component_of(core, &mut spec, held).await?;
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

/// What an agent has, though it was deleted.
fn of_agent(held: &[Arc<Component>], digest: &Digest) -> Option<Arc<Component>> {
    held.iter().find(|held| held.digest == *digest).cloned()
}

async fn component_of(
    core: &Core,
    spec: &mut Spec,
    held: &[Arc<Component>],
) -> Result<Arc<Component>, Error> {
    let component = match spec.component.take() {
        Some(ComponentRef::Digest(digest)) => {
            match core.components.get(&digest) {
                Some(known) if known.is_known() => known,
                // It was put as any bytes are, and nobody was told why not; or by a
                // host that knew it otherwise.
                Some(unknown) => {
                    let bytes = bytes_of(core, &unknown).await?;
                    admit(core, move || bytes, None, Some(digest), Lifeless::Refuse).await?
                }
                None => of_agent(held, &digest).ok_or(Error::NoComponent(digest))?,
            }
        }
        Some(ComponentRef::Data(data)) => {
            check_size(spec, data.len())?;
            let bytes = Bytes::from(data.into_vec());
            admit(core, move || bytes, None, None, Lifeless::Refuse).await?
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
async fn inputs_of(
    core: &Core,
    spec: &mut Spec,
    held: &[Arc<Component>],
) -> Result<Vec<Input>, Error> {
    let mut inputs = Vec::with_capacity(spec.inputs.len());
    for (path, digest) in std::mem::take(&mut spec.inputs) {
        let found = core.components.get(&digest);
        match found.or_else(|| of_agent(held, &digest)) {
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
