//! `skep inspect`: everything about one agent.

use std::time::Duration;

use skep_client::protocol::{AgentInfo, Enforcement, LimitName};

use super::args::InspectArgs;
use super::{Context, Outcome, agent, ending, print, queue, restarts, text, verify};

pub(super) async fn inspect(context: &Context, args: &InspectArgs) -> Outcome {
    let client = context.client().await?;
    let agent = agent::find(&client, &args.agent.agent).await?;
    let agent = client.get(agent).await?;
    if args.receipt {
        return print::json(&verify::receipt_of(agent)?);
    }
    if context.json {
        return print::json(&agent);
    }
    let mut lines = Lines::default();
    state(&agent, &mut lines);
    given(&agent, &mut lines);
    used(&agent, &mut lines);
    held(&agent, &mut lines);
    print::line(&lines.0.join("\n"))
}

/// A line for each value, the first of them behind what they are.
#[derive(Debug, Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let keys = std::iter::once(key).chain(std::iter::repeat(""));
        for (key, value) in keys.zip(values) {
            let line = format!("{key:<12} {value}");
            self.0.push(line.trim_end().to_owned());
        }
    }
}

/// Which it is, and where it stands.
fn state(agent: &AgentInfo, lines: &mut Lines) {
    lines.add("id", [agent.id.to_string()]);
    lines.add("name", [agent.name.to_string()]);
    lines.add("runner", [agent.runner.as_str().to_owned()]);
    lines.add("state", [text::state(agent)]);
    lines.add("outcome", agent.outcome.as_ref().map(ending::told));
    lines.add("queue", agent.queue.as_ref().map(queue::place));
    let restart = [
        restarts::policy(&agent.spec.restart),
        restarts::so_far(agent, text::now_ms()),
    ];
    lines.add("restart", restart.into_iter().flatten());
    lines.add("created", [text::time(agent.created_ms)]);
    lines.add("started", agent.started_ms.map(text::time));
    lines.add("exited", agent.exited_ms.map(text::time));
}

/// What it runs, and what it was given to do so.
fn given(agent: &AgentInfo, lines: &mut Lines) {
    let spec = &agent.spec;
    let quoted = |arg: &String| format!("{arg:?}");
    let component = spec.component.map(|digest| digest.to_string());
    lines.add("component", component);
    lines.add("command", spec.command.iter().map(quoted));
    lines.add("args", spec.args.iter().map(quoted));
    lines.add("env", spec.env.iter().map(|name| text::clean(name)));
    let labels = spec.labels.iter();
    let labels = labels.map(|(key, value)| format!("{}={}", text::clean(key), text::clean(value)));
    lines.add("labels", labels);
    for (key, value) in [
        ("task", &spec.task),
        ("context", &spec.context),
        ("prompt", &spec.system_prompt),
        ("model", &spec.model),
    ] {
        lines.add(key, value.lines().map(text::clean));
    }
    let dirs = spec.grants.dirs.iter().map(|dir| {
        let mode = format!("{:?}", dir.mode).to_lowercase();
        let (host, guest) = (text::clean(&dir.host), text::clean(&dir.guest));
        format!("{host} at {guest} ({mode})")
    });
    let scratch = spec.grants.scratch.then(|| "scratch at /".to_owned());
    lines.add("dirs", dirs.chain(scratch));
    let inputs = spec.inputs.iter();
    let inputs = inputs.map(|(path, digest)| format!("{} is {digest}", text::clean(path)));
    lines.add("inputs", inputs);
}

/// What it has used so far.
fn used(agent: &AgentInfo, lines: &mut Lines) {
    let usage = &agent.usage;
    let fuel_left = usage.fuel_left.map(text::count);
    let fuel_left = fuel_left.map(|left| format!(", {left} left"));
    let (fuel_used, fuel_left) = (text::count(usage.fuel_used), fuel_left.unwrap_or_default());
    lines.add("fuel", [format!("{fuel_used} used{fuel_left}")]);
    let memory = text::size(usage.memory_bytes);
    let peak = text::size(usage.memory_peak_bytes);
    lines.add("memory", [format!("{memory}, peak {peak}")]);
    lines.add("cpu", [text::duration(Duration::from_millis(usage.cpu_ms))]);
    let stdio = format!(
        "{} in, {} out, {} err; next record {}",
        text::size(usage.stdin_bytes),
        text::size(usage.stdout_bytes),
        text::size(usage.stderr_bytes),
        agent.next_seq
    );
    lines.add("stdio", [stdio]);
}

/// Its limits, and how far the machine holds it to them.
fn held(agent: &AgentInfo, lines: &mut Lines) {
    let limits = LimitName::ALL.iter().map(|&name| {
        let value = agent.limits.get(name);
        let shown = match name.as_str() {
            name if name.contains("bytes") => text::size(value),
            name if name.ends_with("_ms") => text::duration(Duration::from_millis(value)),
            _ => text::count(value),
        };
        format!("{} {shown}", name.as_str())
    });
    lines.add("limits", limits);
    let enforced = &agent.enforced;
    let enforced = [
        ("memory", enforced.memory),
        ("cpu", enforced.cpu),
        ("wall", enforced.wall),
        ("files", enforced.files),
        ("network", enforced.network),
        ("pause", enforced.pause),
    ];
    let enforced = enforced.iter();
    lines.add(
        "enforced",
        enforced.map(|(what, how)| format!("{what} {}", word(*how))),
    );
}

fn word(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Enforced => "enforced",
        Enforcement::BestEffort => "best effort",
        Enforcement::None => "none",
    }
}
