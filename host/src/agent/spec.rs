//! A submitter's ask, checked against the operator's rules: pure but for the
//! look at granted directories, and it changes nothing.

mod dirs;

use std::collections::BTreeMap;
use std::path::PathBuf;

use skep_protocol::info::{SpecInfo, StdinKind};
use skep_protocol::path::is_plain;
use skep_protocol::spec::{ComponentRef, OnFuelExhausted, Stdin};
use skep_protocol::{AgentSpec, Digest, LimitName, Limits, RunnerKind};

use self::dirs::check_dirs;
use super::restart;
use crate::runner::{GrantedDir, Task};

/// The operator's rules that a spec must keep to.
#[derive(Debug, Clone)]
pub struct Rules {
    pub defaults: Limits,
    pub ceilings: Limits,
    /// Canonical.
    pub dir_roots: Vec<PathBuf>,
    /// Where compiled components lie: whoever can write there can run code as
    /// the host, so no agent is given it to write to.
    pub cache_dir: Option<PathBuf>,
    /// Where what outlives the host lies, with what clients have handed to their
    /// agents: whoever can read there reads what is others', so no agent is given
    /// it at all.
    pub state_dir: Option<PathBuf>,
}

/// Why a spec is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("`{field}`: {message}")]
    Invalid { field: String, message: String },
    #[error("`{field}` is not supported by this build: leave it out")]
    Unsupported { field: &'static str },
    #[error("a {} agent has no `{field}`: leave it out", runner.as_str())]
    NotOfRunner {
        field: &'static str,
        runner: RunnerKind,
    },
    #[error("the limit `{}` may be {ceiling} at most here, {asked} was asked for", limit.as_str())]
    OverCeiling {
        limit: LimitName,
        asked: u64,
        ceiling: u64,
    },
    #[error("`{field}`: {message}")]
    NotAllowed { field: String, message: String },
}

/// A spec that may run here.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What is told of it.
    pub info: SpecInfo,
    pub name: skep_protocol::AgentName,
    pub runner: RunnerKind,
    /// Where a component comes from; `None` with a native runner.
    pub component: Option<ComponentRef>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub task: Task,
    pub stdin: Stdin,
    /// By path; which of them are here is not checked yet.
    pub inputs: BTreeMap<String, Digest>,
    pub limits: Limits,
    pub dirs: Vec<GrantedDir>,
    pub scratch: bool,
    pub restart: restart::Rule,
}

/// Bytes of task, context, system prompt and model together, so that a spec
/// can be shown in a reply beside others.
const MAX_TEXTS: usize = 4 * 1024 * 1024;

const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 256;
const MAX_INPUTS: usize = 256;
/// With the host's own directory before it, it is still a path.
const MAX_INPUT_PATH: usize = 1024;

/// A text of the task that is longer is read through the SDK alone: the kernel
/// takes no string of the environment over 128 KiB, and few readers like one.
const MAX_TEXT_IN_ENV: usize = 32 * 1024;

/// Checks a spec.
///
/// # Errors
/// [`Denied`], by the first rule that the spec breaks.
pub fn validate(spec: AgentSpec, rules: &Rules) -> Result<Spec, Denied> {
    refuse_unsupported(&spec)?;
    let limits = resolve_limits(&spec, rules)?;
    check_texts(&spec, &limits)?;
    check_program(&spec)?;
    if let Stdin::Data(data) = &spec.stdin
        && data.len() as u64 > limits.stdin_bytes
    {
        return Err(invalid(
            "spec.stdin.data",
            format!(
                "{} bytes, and the limit stdin_bytes is {}: ask for more, or use an open stdin",
                data.len(),
                limits.stdin_bytes
            ),
        ));
    }
    let restart = restart::Rule::of(&spec.restart)
        .map_err(|restart::Nonsense { field, message }| invalid(field, message))?;
    let dirs = check_dirs(&spec, rules)?;
    check_inputs(&spec)?;

    let info = shown(&spec);
    let task = Task {
        task: spec.task,
        context: spec.context,
        system_prompt: spec.system_prompt,
        model: spec.model,
        labels: spec.labels,
    };
    let mut env = spec.env;
    for (name, text) in [
        ("SKEP_NAME", spec.name.as_str()),
        ("SKEP_TASK", &task.task),
        ("SKEP_CONTEXT", &task.context),
        ("SKEP_SYSTEM_PROMPT", &task.system_prompt),
        ("SKEP_MODEL", &task.model),
    ] {
        if (1..=MAX_TEXT_IN_ENV).contains(&text.len()) && !text.contains('\0') {
            env.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(Spec {
        info,
        name: spec.name,
        runner: spec.runner,
        component: spec.component,
        command: spec.command,
        args: spec.args,
        env,
        task,
        stdin: spec.stdin,
        inputs: spec.inputs,
        limits,
        dirs,
        scratch: spec.grants.scratch,
        restart,
    })
}

/// What is told of a spec: all but data and values of `env`.
#[must_use]
pub fn shown(spec: &AgentSpec) -> SpecInfo {
    SpecInfo {
        component: match &spec.component {
            Some(ComponentRef::Digest(digest)) => Some(*digest),
            _ => None,
        },
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.keys().cloned().collect(),
        task: spec.task.clone(),
        context: spec.context.clone(),
        system_prompt: spec.system_prompt.clone(),
        model: spec.model.clone(),
        labels: spec.labels.clone(),
        stdin: match spec.stdin {
            Stdin::Closed => StdinKind::Closed,
            Stdin::Open => StdinKind::Open,
            Stdin::Data(_) => StdinKind::Data,
        },
        inputs: spec.inputs.clone(),
        grants: spec.grants.clone(),
        on_fuel_exhausted: spec.on_fuel_exhausted,
        restart: spec.restart,
    }
}

impl Spec {
    /// Notes which component the agent is made of, once that is known.
    pub fn made_of(&mut self, digest: Digest) {
        self.info.component = Some(digest);
        self.component = Some(ComponentRef::Digest(digest));
    }
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> Denied {
    Denied::Invalid {
        field: field.into(),
        message: message.into(),
    }
}

fn refuse_unsupported(spec: &AgentSpec) -> Result<(), Denied> {
    let native = spec.runner == RunnerKind::Native;
    let field = if native && spec.on_fuel_exhausted == OnFuelExhausted::Pause {
        "spec.on_fuel_exhausted"
    } else if !spec.grants.http.is_empty() {
        "spec.grants.http"
    } else if !spec.grants.messages.is_empty() {
        "spec.grants.messages"
    } else {
        return Ok(());
    };
    Err(Denied::Unsupported { field })
}

fn resolve_limits(spec: &AgentSpec, rules: &Rules) -> Result<Limits, Denied> {
    for limit in LimitName::ALL {
        let Some(asked) = spec.limits.get(*limit) else {
            continue;
        };
        if asked == 0 {
            return Err(invalid(
                format!("spec.limits.{}", limit.as_str()),
                "must be at least 1",
            ));
        }
        let ceiling = rules.ceilings.get(*limit);
        if asked > ceiling {
            return Err(Denied::OverCeiling {
                limit: *limit,
                asked,
                ceiling,
            });
        }
        let not_here = match spec.runner {
            RunnerKind::Wasm => native_alone(*limit),
            RunnerKind::Native => wasm_alone(*limit),
        };
        if let Some(field) = not_here {
            let runner = spec.runner;
            return Err(Denied::NotOfRunner { field, runner });
        }
    }
    Ok(rules.defaults.with(&spec.limits))
}

/// The field of a limit that only the wasm runner holds: a native agent that
/// asks for it would be given what does not hold.
const fn wasm_alone(limit: LimitName) -> Option<&'static str> {
    match limit {
        LimitName::Fuel => Some("spec.limits.fuel"),
        LimitName::Instances => Some("spec.limits.instances"),
        LimitName::Handles => Some("spec.limits.handles"),
        LimitName::HostcallBytes => Some("spec.limits.hostcall_bytes"),
        LimitName::ComponentBytes => Some("spec.limits.component_bytes"),
        LimitName::DiskBytes => Some("spec.limits.disk_bytes"),
        LimitName::Files => Some("spec.limits.files"),
        _ => None,
    }
}

/// The field of a limit that only the native runner holds.
const fn native_alone(limit: LimitName) -> Option<&'static str> {
    match limit {
        LimitName::Processes => Some("spec.limits.processes"),
        _ => None,
    }
}

fn check_texts(spec: &AgentSpec, limits: &Limits) -> Result<(), Denied> {
    let field = match spec.runner {
        RunnerKind::Wasm => "spec.args",
        RunnerKind::Native => "spec.command",
    };
    let mut bytes = 0u64;
    for arg in spec.args.iter().chain(&spec.command) {
        if arg.contains('\0') {
            return Err(invalid(field, "an argument holds a NUL byte"));
        }
        bytes += arg.len() as u64 + 1;
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(
                "spec.env",
                "a name is empty or holds `=`, or something holds a NUL byte",
            ));
        }
        bytes += (name.len() + value.len() + 2) as u64;
    }
    if bytes > limits.args_env_bytes {
        return Err(invalid(
            field,
            format!(
                "arguments and environment have {bytes} bytes, and the limit args_env_bytes is {}",
                limits.args_env_bytes
            ),
        ));
    }
    let texts = [&spec.task, &spec.context, &spec.system_prompt, &spec.model];
    let text_bytes: usize = texts.iter().map(|text| text.len()).sum();
    if text_bytes > MAX_TEXTS {
        return Err(invalid(
            "spec.context",
            format!(
                "task, context, system_prompt and model have {text_bytes} bytes, {MAX_TEXTS} are allowed: \
                 give more over stdin"
            ),
        ));
    }
    let label_too_long = |text: &String| text.len() > MAX_LABEL_BYTES || text.contains('\0');
    if spec.labels.len() > MAX_LABELS
        || spec
            .labels
            .iter()
            .any(|(key, value)| key.is_empty() || label_too_long(key) || label_too_long(value))
    {
        return Err(invalid(
            "spec.labels",
            format!(
                "at most {MAX_LABELS} labels of at most {MAX_LABEL_BYTES} bytes each, with a name"
            ),
        ));
    }
    Ok(())
}

fn check_program(spec: &AgentSpec) -> Result<(), Denied> {
    match spec.runner {
        RunnerKind::Wasm if spec.component.is_none() => Err(invalid(
            "spec.component",
            "a wasm agent needs one: {digest} or {data}",
        )),
        RunnerKind::Wasm if !spec.command.is_empty() => Err(invalid(
            "spec.command",
            "is for the native runner: a wasm agent has `args`",
        )),
        RunnerKind::Native if spec.component.is_some() => Err(invalid(
            "spec.component",
            "is for the wasm runner: a native agent has a `command`",
        )),
        RunnerKind::Native if !spec.args.is_empty() => Err(invalid(
            "spec.args",
            "a native agent has its arguments in `command`",
        )),
        RunnerKind::Native if spec.command.first().is_none_or(String::is_empty) => Err(invalid(
            "spec.command",
            "a native agent needs a program and its arguments",
        )),
        RunnerKind::Wasm | RunnerKind::Native => Ok(()),
    }
}

/// Whether they can lie below one directory.
fn check_inputs(spec: &AgentSpec) -> Result<(), Denied> {
    let wrong = |message: String| Err(invalid("spec.inputs", message));
    if spec.inputs.len() > MAX_INPUTS {
        return wrong(format!("at most {MAX_INPUTS} files"));
    }
    for path in spec.inputs.keys() {
        // What is refused is not repeated at its full length.
        let shown: String = path.chars().take(80).collect();
        if path.len() > MAX_INPUT_PATH || !is_plain(path) {
            return wrong(format!(
                "`{shown}` is no relative path without `.`, `..` or a double slash, of at most \
                 {MAX_INPUT_PATH} bytes in parts of at most 255"
            ));
        }
        let mut above = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        if above.any(|above| spec.inputs.contains_key(above)) {
            return wrong(format!("`{shown}` lies below another file"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
