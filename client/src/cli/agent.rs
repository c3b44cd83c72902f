//! What is done to agents by name: finding, stopping, killing.

use skep_client::protocol::{AgentId, AgentInfo, AgentName, ErrorCode};
use skep_client::{AgentFilter, Client};

use super::args::{AgentsArgs, RefuelArgs, StopArgs};
use super::failure::{Failed, Failure};
use super::{Context, Outcome, print, text};

/// What is shorter than this is no beginning of an id: it may be the name of an
/// agent that is gone, and would end another in its stead.
const MIN_PREFIX: usize = 4;

/// The agent of that id, of that name, or of an id with that beginning.
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
    let (mut named, mut begun) = (Vec::new(), Vec::new());
    for (id, name) in agents {
        if name.as_str() == text {
            named.push(id);
        } else if text.len() >= MIN_PREFIX && id.to_string().starts_with(text) {
            begun.push(id);
        }
    }
    // Nobody else's id takes a name away.
    let found = if named.is_empty() { begun } else { named };
    match found.as_slice() {
        [id] => Ok(*id),
        [] => {
            let mut message = format!(
                "there is no agent `{}`: `skep ps -a` lists them",
                text::clean(text)
            );
            if text.len() < MIN_PREFIX {
                message += &format!(
                    ", by their ids, of which the first {MIN_PREFIX} characters or more are enough"
                );
            }
            Err(Failure::of_skep(message).with_code(ErrorCode::NotFound.as_str()))
        }
        many => {
            let ids: Vec<String> = many.iter().map(AgentId::to_string).take(5).collect();
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
    each(context, args, Client::pause).await
}

/// `skep resume AGENT…`
pub(super) async fn resume(context: &Context, args: &AgentsArgs) -> Outcome {
    each(context, args, Client::resume).await
}

/// `skep refuel AGENT FUEL`
pub(super) async fn refuel(context: &Context, args: &RefuelArgs) -> Outcome {
    let client = context.client().await?;
    let agent = find(&client, &args.agent.agent).await?;
    tell(context, &client.refuel(agent, args.fuel).await?)
}

/// `skep stop AGENT…`
pub(super) async fn stop(context: &Context, args: &StopArgs) -> Outcome {
    let stop = async |client: &Client, agent| client.stop(agent, args.grace).await;
    each(context, &args.agents, stop).await
}

/// `skep kill AGENT…`
pub(super) async fn kill(context: &Context, args: &AgentsArgs) -> Outcome {
    each(context, args, Client::kill).await
}

/// Does it to each of them, and tells what came of it.
async fn each(
    context: &Context,
    args: &AgentsArgs,
    act: impl AsyncFn(&Client, AgentId) -> skep_client::Result<AgentInfo>,
) -> Outcome {
    let client = context.client().await?;
    let mut failed = Failed::default();
    for text in &args.agents {
        let done = async {
            let agent = find(&client, text).await?;
            match act(&client, agent).await {
                Ok(agent) => tell(context, &agent),
                Err(error) => Err(Failure::from(error).about(&text::clean(text))),
            }
        };
        failed.note(done.await)?;
    }
    Ok(failed.code())
}

/// Prints an agent after something was done to it, which may be one of many.
fn tell(context: &Context, agent: &AgentInfo) -> Outcome {
    if context.json {
        print::json_line(agent)
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
        // As an id begins.
        let digits = name("1234");
        let agents = [
            (id("abcd0000"), &hello),
            (id("abce0000"), &other),
            (id("12340000"), &other),
            (id("77770000"), &abc),
            (id("88880000"), &digits),
        ];
        let found = |text| choose(text, agents.iter().copied()).ok();
        assert_eq!(found("hello"), Some(id("abcd0000")));
        assert_eq!(found("12340"), Some(id("12340000")));
        assert_eq!(found("abce"), Some(id("abce0000")));
        assert_eq!(found("abc"), Some(id("77770000")), "its name");
        assert_eq!(found("1234"), Some(id("88880000")), "its name");
        // Three digits are too few, even where they are one agent's alone.
        for unclear in ["other", "", "nobody", "x", "7", "777", "abcdef"] {
            assert_eq!(found(unclear), None, "{unclear}");
        }
    }
}
