//! `agent.list`, `agent.get`, `agent.forget`.

use skep_protocol::info::SpecInfo;
use skep_protocol::op::{AgentList, AgentPage, AgentReply, Done};
use skep_protocol::{AgentId, AgentInfo, AgentState, RunnerKind};

use super::Error;
use super::pages::{Next, Pages};
use crate::agent::handle::Handle;
use crate::core::Core;

/// How many entries a page has if the request does not say.
pub(super) const PAGE: u64 = 100;

/// How many it has at most.
const MAX_PAGE: u64 = 1000;

/// A page ends after the agent that brings it over this, since the texts of a
/// thousand specs may be more than a payload holds. One agent's are bounded by
/// the payload that its spec came in, which had its component's bytes besides.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// The size of a page, checked.
pub(super) fn page_size(limit: Option<u64>) -> Result<usize, Error> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=MAX_PAGE => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
        limit => Err(Error::Invalid {
            field: "limit",
            message: format!("{limit} is not within 1 to {MAX_PAGE}"),
        }),
    }
}

/// The agent of that id.
pub(super) async fn find(core: &Core, id: AgentId) -> Result<Handle, Error> {
    core.registry.get(id).await?.ok_or(Error::NoAgent(id))
}

pub async fn get(core: &Core, id: AgentId) -> Result<AgentReply, Error> {
    let handle = find(core, id).await?;
    look_at(core, std::slice::from_ref(&handle)).await;
    Ok(AgentReply {
        agent: handle.info(),
    })
}

/// What native agents use is what was seen of them last.
async fn look_at(core: &Core, agents: &[Handle]) {
    let lives = |handle: &Handle| {
        handle.runner == RunnerKind::Native && handle.state() != AgentState::Exited
    };
    if let Some(native) = &core.native
        && agents.iter().any(lives)
    {
        native.look().await;
    }
}

pub async fn list(core: &Core, query: &AgentList) -> Result<AgentPage, Error> {
    let limit = page_size(query.limit)?;
    let wanted = |handle: &Handle| {
        query.after.is_none_or(|after| handle.id > after)
            && query.name.as_ref().is_none_or(|name| handle.name == *name)
            && query
                .states
                .as_ref()
                .is_none_or(|states| states.contains(&handle.state()))
            && query
                .labels
                .iter()
                .all(|(key, value)| handle.spec.labels.get(key) == Some(value))
    };
    // No more than these can come into the page, or tell that it is not the last.
    let of_now = core.registry.first(limit + 1, wanted);
    look_at(core, &of_now).await;
    let mut of_now = of_now.into_iter().peekable();
    let mut of_past = Pages::new(&core.registry.past, query, limit).await?;
    let mut agents: Vec<AgentInfo> = Vec::new();
    let mut bytes = 0;
    loop {
        let past = of_past.peek(wanted).await?;
        let now = of_now.peek().map(|handle| handle.id);
        if now.is_none() && past == Next::End {
            return Ok(AgentPage { agents, next: None });
        }
        if agents.len() == limit || bytes >= PAGE_BYTES {
            let next = agents.last().map(|agent| agent.id);
            return Ok(AgentPage { agents, next });
        }
        let next = match (now, past) {
            (Some(now), Next::Found(past) | Next::Beyond(past)) if now < past => of_now.next(),
            (Some(_), Next::End) => of_now.next(),
            (_, Next::Beyond(after)) => {
                let next = Some(after);
                return Ok(AgentPage { agents, next });
            }
            (_, Next::Found(_) | Next::End) => of_past.next(),
        };
        if let Some(handle) = next {
            bytes += shown_bytes(&handle.spec);
            agents.push(handle.info());
        }
    }
}

/// How many bytes an agent takes in a page and in memory, about: its texts,
/// which may be long, and what every agent has.
pub(super) fn shown_bytes(spec: &SpecInfo) -> usize {
    const REST: usize = 2048;
    let texts = [&spec.task, &spec.context, &spec.system_prompt, &spec.model];
    let lists = [&spec.args, &spec.command, &spec.env];
    let labels = spec
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len());
    let text_bytes = texts.iter().map(|text| text.len()).sum::<usize>();
    let list_bytes = lists
        .iter()
        .flat_map(|list| list.iter())
        .map(String::len)
        .sum::<usize>();
    REST + text_bytes + list_bytes + labels.sum::<usize>()
}

pub async fn forget(core: &Core, id: AgentId) -> Result<Done, Error> {
    // Those of hosts before have ended, also where their records cannot be read.
    if !core.registry.past.has(&id) {
        let handle = find(core, id).await?;
        if !handle.has_ended() {
            return Err(Error::WrongState {
                state: handle.state(),
                message: "only an agent that has ended can be forgotten: stop or kill it first",
            });
        }
    }
    core.registry.forget(id).await;
    Ok(Done {})
}
