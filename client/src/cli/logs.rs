//! `skep logs`: the output of agents, what is there or until they end.

use std::io;

use skep_client::protocol::{AgentId, AgentInfo};
use skep_client::{
    Absence, AgentFilter, Client, ClientError, ConnectionConfig, FollowOptions, LogItem,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::args::LogsArgs;
use super::away::Away;
use super::failure::{Failed, Failure};
use super::lines::Lines;
use super::previews::Previews;
use super::show::{Beside, View};
use super::sink::{Form, Sink};
use super::{Context, Outcome, agent, connect_with};

mod pages;

use pages::Pages;

/// How many agents are followed by one command. Each has queues of its own, of
/// at most [`WAITING_BYTES`].
const MAX_AGENTS: usize = 256;
/// How much may wait for this command of each stream of events: what finds no
/// room is read from the history.
const WAITING_BYTES: usize = 512 * 1024;
/// How many records of all agents wait to be written.
const WAITING: usize = 256;

pub(super) async fn logs(context: &Context, args: &LogsArgs) -> Outcome {
    let mut config = ConnectionConfig::new(context.endpoint()?);
    config.max_waiting_event_bytes = WAITING_BYTES;
    let client = connect_with(config).await?;
    let form = match (context.json, args.timestamps) {
        (true, _) => Form::Json,
        (false, true) => Form::Timestamps,
        (false, false) => Form::Raw,
    };
    let agents = chosen(&client, args).await?;
    let (mut pages, mut failed) = (Vec::new(), Failed::default());
    for agent in &agents {
        match Pages::find(&client, agent, args, agents.len() == 1).await {
            Ok(page) => pages.push(page),
            Err(failure) if agents.len() == 1 => return Err(failure),
            Err(failure) => failed.note(Err(failure.about(&agent.id.to_string())))?,
        }
    }
    match (agents.as_slice(), pages.as_slice()) {
        ([agent], [page]) if args.follow => {
            let mut sink = Sink::new(form);
            let previews = Previews::new(&args.previews)?;
            let watch = match previews {
                Some(_) => Some(client.watch(agent.id).await?),
                None => None,
            };
            let mut beside = Beside {
                agent: agent.id,
                name: agent.name.clone(),
                view: View::None,
                previews,
                watch,
                hints: false,
                notes: None,
                answers: mpsc::channel(1).1,
            };
            let mut log = client.follow(agent.id, page.options());
            beside.show(&client, &mut log, &mut sink).await?;
            return Ok(0);
        }
        _ if args.previews.preview_dir.is_some() => {
            return Err(Failure::of_skep(
                "--preview-dir needs --follow and one agent: previews are not kept by the host",
            ));
        }
        _ => {}
    }
    let mut out = match (agents.as_slice(), form) {
        ([_], _) | (_, Form::Json) => Out::Sink(Sink::new(form)),
        _ => Out::Lines(Lines::new(&agents, args.timestamps)),
    };
    let mut away = Away::new(&client);
    history(&client, &mut pages, &mut away, &mut out, &mut failed).await?;
    if args.follow {
        follow(&client, pages, &mut away, &mut out, &mut failed).await?;
    }
    for agent in &agents {
        out.end(agent.id)?;
    }
    out.flush()?;
    Ok(failed.code())
}

/// The agents that were asked for, each once, the oldest first.
async fn chosen(client: &Client, args: &LogsArgs) -> Result<Vec<AgentInfo>, Failure> {
    let mut agents = Vec::new();
    if args.agents.is_empty() {
        let labels = args.label.iter().cloned().collect();
        let filter = AgentFilter {
            labels,
            ..AgentFilter::default()
        };
        agents = client.list_all(&filter).await?;
        if agents.is_empty() {
            return Err(Failure::of_skep(
                "there are no such agents: `skep ps -a` lists them",
            ));
        }
    }
    for text in &args.agents {
        let agent = agent::find(client, text).await?;
        agents.push(client.get(agent).await?);
    }
    agents.sort_by_key(|agent| (agent.created_ms, agent.id));
    agents.dedup_by_key(|agent| agent.id);
    if agents.len() > MAX_AGENTS {
        return Err(Failure::of_skep(format!(
            "these are {} agents, and {MAX_AGENTS} can be read at a time: choose some with --label",
            agents.len()
        )));
    }
    Ok(agents)
}

/// Where everything is written.
enum Out {
    /// One agent, or JSON.
    Sink(Sink),
    Lines(Lines),
}

impl Out {
    fn item(&mut self, agent: AgentId, item: &LogItem) -> io::Result<()> {
        match self {
            Self::Sink(sink) => sink.item(agent, item),
            Self::Lines(lines) => lines.item(agent, item),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Sink(sink) => sink.note(text),
            Self::Lines(lines) => lines.note(text),
        }
    }

    fn end(&mut self, agent: AgentId) -> io::Result<()> {
        match self {
            Self::Sink(_) => Ok(()),
            Self::Lines(lines) => lines.end(agent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Sink(sink) => sink.flush(),
            Self::Lines(lines) => lines.flush(),
        }
    }
}

/// What there is now, in the order in which it was written. What could not be read to
/// its end is followed no further.
async fn history(
    client: &Client,
    pages: &mut Vec<Pages>,
    away: &mut Away,
    out: &mut Out,
    failed: &mut Failed,
) -> Result<(), Failure> {
    let mut absence = Absence::new(FollowOptions::default().host_away);
    loop {
        let mut at = 0;
        while let Some(page) = pages.get_mut(at) {
            if !page.is_due() {
                at += 1;
                continue;
            }
            // Until the host has answered.
            out.flush()?;
            let read = tokio::select! {
                read = page.read(client, &mut absence) => read,
                told = away.next() => {
                    out.note(told)?;
                    continue;
                }
            };
            match read {
                Ok(()) => {}
                // Nor does the host answer for the others.
                Err(error @ (ClientError::Timeout { .. } | ClientError::Connection(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    let lost = pages.remove(at);
                    tell_of_lost(lost.agent, error, failed, out)?;
                }
            }
        }
        let earliest = (pages.iter_mut())
            .filter_map(|page| Some((page.time()?, page)))
            .min_by_key(|(time, _)| *time);
        let Some((page, item)) = earliest.and_then(|(_, page)| Some((page.agent, page.pop()?)))
        else {
            return Ok(());
        };
        out.item(page, &item)?;
    }
}

/// Says why an agent is not read to its end. The others are.
fn tell_of_lost(
    agent: AgentId,
    error: ClientError,
    failed: &mut Failed,
    out: &mut Out,
) -> Result<(), Failure> {
    out.end(agent)?;
    out.flush()?;
    failed.note(Err(Failure::from(error).about(&agent.to_string())))
}

/// What comes, until all have ended.
async fn follow(
    client: &Client,
    pages: Vec<Pages>,
    away: &mut Away,
    out: &mut Out,
    failed: &mut Failed,
) -> Result<(), Failure> {
    let (sender, mut items) = mpsc::channel(WAITING);
    let mut following = JoinSet::new();
    for page in pages.into_iter().filter(|page| !page.is_complete()) {
        let (client, sender) = (client.clone(), sender.clone());
        following.spawn(async move {
            let mut log = client.follow(page.agent, page.options());
            loop {
                let item = log.next().await.transpose();
                let ended = !matches!(item, Some(Ok(_)));
                if sender.send((page.agent, item)).await.is_err() || ended {
                    return;
                }
            }
        });
    }
    drop(sender);
    // What there was before: it may take long until there is more.
    out.flush()?;
    loop {
        let next = tokio::select! {
            next = items.recv() => next,
            told = away.next() => {
                out.note(told)?;
                continue;
            }
        };
        let Some((agent, item)) = next else {
            return Ok(());
        };
        match item {
            Some(Ok(item)) => out.item(agent, &item)?,
            Some(Err(error)) => tell_of_lost(agent, error, failed, out)?,
            None => out.end(agent)?,
        }
        if items.is_empty() {
            out.flush()?;
        }
    }
}
