//! What is done to agents by name: finding, stopping, killing.

use skep_client::protocol::{AgentId, AgentInfo, AgentName, ErrorCode};
use skep_client::{AgentFilter, Client};

use super::args::{AgentsArgs, RefuelArgs, StopArgs};
use super::failure::Failure;
use super::{Context, Outcome, print, text};

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
