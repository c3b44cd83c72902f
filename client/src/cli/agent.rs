//! What is done to agents by name: finding, inspecting, stopping, killing.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_client::protocol::{AgentId, AgentInfo, AgentName, Enforcement, ErrorCode, LimitName};
use skep_client::{AgentFilter, Client};

use super::args::{AgentsArgs, InspectArgs, RefuelArgs, StopArgs};
use super::failure::Failure;
use super::{Context, Outcome, ending, print, queue, restarts, text, verify};

/// The agent of that id, of an id with that beginning, or of that name.
pub(super) async fn find(client: &Client, text: &str) -> Result<AgentId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let agents = client.list_all(&AgentFilter::default()).await?;
    choose(text, agents.iter().map(|agent| (agent.id, &agent.name)))
}

fn choose<'a>(
    text: &str,
    agents: impl Iterator<Item = (AgentId, &'a AgentName)>,
) -> Result<AgentId, Failure> {
    let meant = |(id, name): &(AgentId, &AgentName)| {
        name.as_str() == text || (!text.is_empty() && id.to_string().starts_with(text))
    };
    let found: Vec<_> = agents.filter(meant).collect();
    match found.as_slice() {
        [(id, _)] => Ok(*id),
        [] => {
            let message = format!(
                "there is no agent `{}`: `skep ps -a` lists them",
                text::clean(text)
            );
            Err(Failure::of_skep(message).with_code(ErrorCode::NotFound.as_str()))
        }
        many => {
            let ids: Vec<String> = many.iter().map(|(id, _)| id.to_string()).take(5).collect();
            Err(Failure::of_skep(format!(
                "`{}` may be any of {} agents: say which by its id, such as {}",
                text::clean(text),
                many.len(),
                ids.join(", ")
            )))
        }
    }
}

/// `skep pause AGENT…`
pub(super) async fn pause(context: &Context, args: &AgentsArgs) -> Outcome {
    let client = context.client().await?;
    for text in &args.agents {
        let agent = find(&client, text).await?;
        tell(context, &client.pause(agent).await?)?;
    }
    Ok(0)
}

/// `skep resume AGENT…`
pub(super) async fn resume(context: &Context, args: &AgentsArgs) -> Outcome {
    let client = context.client().await?;
    for text in &args.agents {
        let agent = find(&client, text).await?;
        tell(context, &client.resume(agent).await?)?;
    }
    Ok(0)
}

/// `skep refuel AGENT FUEL`
pub(super) async fn refuel(context: &Context, args: &RefuelArgs) -> Outcome {
    let client = context.client().await?;
    let agent = find(&client, &args.agent.agent).await?;
    tell(context, &client.refuel(agent, args.fuel).await?)
}

/// `skep stop AGENT…`
pub(super) async fn stop(context: &Context, args: &StopArgs) -> Outcome {
    let client = context.client().await?;
    for text in &args.agents.agents {
        let agent = find(&client, text).await?;
        tell(context, &client.stop(agent, args.grace).await?)?;
    }
    Ok(0)
}

/// `skep kill AGENT…`
pub(super) async fn kill(context: &Context, args: &AgentsArgs) -> Outcome {
    let client = context.client().await?;
    for text in &args.agents {
        let agent = find(&client, text).await?;
        tell(context, &client.kill(agent).await?)?;
    }
    Ok(0)
}

/// Prints an agent after something was done to it.
fn tell(context: &Context, agent: &AgentInfo) -> Outcome {
    if context.json {
        print::json(agent)
    } else {
        print::line(&format!(
            "{} {} {}",
            agent.id,
            agent.name,
            text::state(agent)
        ))
    }
}

/// `skep inspect AGENT`
pub(super) async fn inspect(context: &Context, args: &InspectArgs) -> Outcome {
    let client = context.client().await?;
    let agent = find(&client, &args.agent.agent).await?;
    let agent = client.get(agent).await?;
    if args.receipt {
        return print::json(&verify::receipt_of(agent)?);
    }
    if context.json {
        return print::json(&agent);
    }
    let lines: Vec<String> = (describe(&agent).iter())
        .map(|(key, value)| format!("{key:<12} {value}").trim_end().to_owned())
        .collect();
    print::line(&lines.join("\n"))
}

/// Everything about an agent, a line each. What belongs to the key before has
/// none.
fn describe(agent: &AgentInfo) -> Vec<(&'static str, String)> {
    let AgentInfo {
        spec,
        usage,
        limits,
        enforced,
        ..
    } = agent;
    let mut lines = vec![
        ("id", agent.id.to_string()),
        ("name", agent.name.to_string()),
        ("runner", agent.runner.as_str().to_owned()),
        ("state", text::state(agent)),
    ];
    lines.extend(
        agent
            .outcome
            .as_ref()
            .map(|outcome| ("outcome", ending::told(outcome))),
    );
    lines.extend(agent.queue.as_ref().map(|own| ("queue", queue::place(own))));
    let restart = [
        restarts::policy(&spec.restart),
        restarts::so_far(agent, text::now_ms()),
    ];
    list(&mut lines, "restart", restart.into_iter().flatten());
    lines.push(("created", text::time(agent.created_ms)));
    lines.extend(agent.started_ms.map(|ms| ("started", text::time(ms))));
    lines.extend(agent.exited_ms.map(|ms| ("exited", text::time(ms))));

    lines.extend(
        spec.component
            .map(|digest| ("component", digest.to_string())),
    );
    list(
        &mut lines,
        "command",
        spec.command.iter().map(|arg| format!("{arg:?}")),
    );
    list(
        &mut lines,
        "args",
        spec.args.iter().map(|arg| format!("{arg:?}")),
    );
    list(
        &mut lines,
        "env",
        spec.env.iter().map(|name| text::clean(name)),
    );
    list(&mut lines, "labels", pairs(&spec.labels));
    for (key, value) in [
        ("task", &spec.task),
        ("context", &spec.context),
        ("prompt", &spec.system_prompt),
        ("model", &spec.model),
    ] {
        list(&mut lines, key, value.lines().map(text::clean));
    }
    let dirs = spec.grants.dirs.iter().map(|dir| {
        let mode = format!("{:?}", dir.mode).to_lowercase();
        format!(
            "{} at {} ({mode})",
            text::clean(&dir.host),
            text::clean(&dir.guest)
        )
    });
    list(
        &mut lines,
        "dirs",
        dirs.chain(spec.grants.scratch.then(|| "scratch at /".to_owned())),
    );

    let inputs =
        (spec.inputs.iter()).map(|(path, digest)| format!("{} is {digest}", text::clean(path)));
    list(&mut lines, "inputs", inputs);

    let fuel_left = usage
        .fuel_left
        .map(|left| format!(", {} left", text::count(left)));
    lines.extend([
        (
            "fuel",
            format!(
                "{} used{}",
                text::count(usage.fuel_used),
                fuel_left.unwrap_or_default()
            ),
        ),
        (
            "memory",
            format!(
                "{}, peak {}",
                text::size(usage.memory_bytes),
                text::size(usage.memory_peak_bytes)
            ),
        ),
        ("cpu", text::duration(Duration::from_millis(usage.cpu_ms))),
        (
            "stdio",
            format!(
                "{} in, {} out, {} err; next record {}",
                text::size(usage.stdin_bytes),
                text::size(usage.stdout_bytes),
                text::size(usage.stderr_bytes),
                agent.next_seq
            ),
        ),
    ]);
    let limits = LimitName::ALL.iter().map(|&name| {
        let value = limits.get(name);
        let shown = match name.as_str() {
            name if name.contains("bytes") => text::size(value),
            name if name.ends_with("_ms") => text::duration(Duration::from_millis(value)),
            _ => text::count(value),
        };
        format!("{} {shown}", name.as_str())
    });
    list(&mut lines, "limits", limits);
    let enforced = [
        ("memory", enforced.memory),
        ("cpu", enforced.cpu),
        ("wall", enforced.wall),
        ("files", enforced.files),
        ("network", enforced.network),
        ("pause", enforced.pause),
    ];
    list(
        &mut lines,
        "enforced",
        enforced
            .iter()
            .map(|(what, how)| format!("{what} {}", word(*how))),
    );
    lines
}

fn list(
    lines: &mut Vec<(&'static str, String)>,
    key: &'static str,
    values: impl Iterator<Item = String>,
) {
    lines.extend(
        std::iter::once(key)
            .chain(std::iter::repeat(""))
            .zip(values),
    );
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    map.iter()
        .map(|(key, value)| format!("{}={}", text::clean(key), text::clean(value)))
}

fn word(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Enforced => "enforced",
        Enforcement::BestEffort => "best effort",
        Enforcement::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_found_by_what_only_it_bears() {
        let id = |start: &str| {
            format!("{start}-0000-4000-8000-000000000000")
                .parse()
                .unwrap()
        };
        let name = |name: &str| name.parse::<AgentName>().unwrap();
        let (hello, other, abc) = (name("hello"), name("other"), name("abc"));
        let agents = [
            (id("abcd0000"), &hello),
            (id("abce0000"), &other),
            (id("12340000"), &other),
            (id("77770000"), &abc),
        ];
        let found = |text| choose(text, agents.iter().copied()).ok();
        assert_eq!(found("hello"), Some(id("abcd0000")));
        assert_eq!(found("12"), Some(id("12340000")));
        assert_eq!(found("abce"), Some(id("abce0000")));
        for unclear in ["other", "abc", "", "nobody", "x"] {
            assert_eq!(found(unclear), None, "{unclear}");
        }
    }
}
