//! `skep logs`: the output of agents, what is there or until they end.

use std::collections::VecDeque;
use std::io;

use skep_client::protocol::event::{LogRecord, Stream};
use skep_client::protocol::{AgentId, AgentInfo};
use skep_client::{AgentFilter, Client, ConnectionConfig, FollowOptions, LogItem};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::args::LogsArgs;
use super::away::Away;
use super::failure::Failure;
use super::lines::Lines;
use super::previews::Previews;
use super::show::{Beside, View};
use super::sink::{Form, Sink};
use super::{Context, Outcome, agent, connect_with};

/// How many agents are followed by one command. Each has queues of its own, of
/// at most [`WAITING_BYTES`].
const MAX_AGENTS: usize = 256;
/// How much may wait for this command of each stream of events: what finds no
/// room is read from the history.
const WAITING_BYTES: usize = 512 * 1024;
/// How much of each history is read at a time where there are several.
const PAGE_OF_MANY: u64 = 64 * 1024;
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
    let mut pages = Vec::new();
    for agent in &agents {
        pages.push(Pages::find(&client, agent, args, agents.len() == 1).await?);
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
            let log = client.follow(agent.id, page.options());
            beside.show(&client, log, &mut sink).await?;
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
    history(&client, &mut pages, &mut out).await?;
    let code = match args.follow {
        true => follow(&client, pages, &mut out).await?,
        false => 0,
    };
    for agent in &agents {
        out.end(agent.id)?;
    }
    out.flush()?;
    Ok(code)
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

/// A range of one agent's history, page by page.
#[derive(Debug)]
struct Pages {
    agent: AgentId,
    streams: Option<Vec<Stream>>,
    next_seq: u64,
    end_seq: u64,
    max_bytes: Option<u64>,
    ready: VecDeque<LogItem>,
}

impl Pages {
    /// From where to where the flags say, and no further than there is now: an
    /// agent that writes on is not followed.
    async fn find(
        client: &Client,
        agent: &AgentInfo,
        args: &LogsArgs,
        alone: bool,
    ) -> Result<Self, Failure> {
        let streams = args.stream.map(|stream| vec![Stream::from(stream)]);
        let mut end_seq = agent.next_seq;
        if let Some(until) = args.until {
            end_seq = end_seq.min(until.seq(client, agent.id).await?);
        }
        let mut next_seq = match args.since {
            Some(since) => since.seq(client, agent.id).await?,
            None => 0,
        };
        if let Some(lines) = args.tail {
            let tail = client.seq_of_last(agent.id, streams.as_deref(), lines, end_seq);
            next_seq = next_seq.max(tail.await?);
        }
        Ok(Self {
            agent: agent.id,
            streams,
            next_seq,
            end_seq,
            max_bytes: (!alone).then_some(PAGE_OF_MANY),
            ready: VecDeque::new(),
        })
    }

    /// How its follower goes on.
    fn options(&self) -> FollowOptions {
        FollowOptions {
            streams: self.streams.clone(),
            from_seq: self.next_seq,
            ..FollowOptions::default()
        }
    }

    /// The time of the next item, 0 for a gap; `None` at the end.
    async fn time(&mut self, client: &Client) -> Result<Option<u64>, Failure> {
        while self.ready.is_empty() && self.next_seq < self.end_seq {
            let from = self.next_seq;
            let streams = self.streams.as_deref();
            let reply = client.output(self.agent, streams, from, self.max_bytes);
            let reply = reply.await?;
            self.ready.extend(reply.expired.map(LogItem::Gap));
            let within = |record: &LogRecord| record.seq < self.end_seq;
            let records = reply.records.into_iter().filter(within);
            self.ready.extend(records.map(LogItem::Record));
            self.next_seq = reply.next_seq.min(self.end_seq);
            if reply.end || self.next_seq <= from {
                self.next_seq = self.end_seq;
            }
        }
        Ok(self.ready.front().map(|item| match item {
            LogItem::Record(record) => record.time_ns,
            LogItem::Gap(_) => 0,
        }))
    }
}

/// What there is now, in the order in which it was written.
async fn history(client: &Client, pages: &mut [Pages], out: &mut Out) -> Result<(), Failure> {
    loop {
        let mut first: Option<(u64, usize)> = None;
        for (at, page) in pages.iter_mut().enumerate() {
            if page.ready.is_empty() && page.next_seq < page.end_seq {
                // Until the host has answered.
                out.flush()?;
            }
            if let Some(time) = page.time(client).await?
                && first.is_none_or(|(earliest, _)| time < earliest)
            {
                first = Some((time, at));
            }
        }
        let page = first.and_then(|(_, at)| pages.get_mut(at));
        let Some((page, item)) = page.and_then(|page| Some((page.agent, page.ready.pop_front()?)))
        else {
            return Ok(());
        };
        out.item(page, &item)?;
    }
}

/// What comes, until all have ended; gives the exit code of the first that could
/// not be followed to its end.
async fn follow(client: &Client, pages: Vec<Pages>, out: &mut Out) -> Outcome {
    let (sender, mut items) = mpsc::channel(WAITING);
    let mut following = JoinSet::new();
    for page in pages {
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
    let mut away = Away::new(client);
    let mut code = 0;
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
            return Ok(code);
        };
        match item {
            Some(Ok(item)) => out.item(agent, &item)?,
            Some(Err(error)) => {
                // The others go on.
                out.end(agent)?;
                let told = Failure::from(error).about(&agent.to_string()).tell();
                if code == 0 {
                    code = told;
                }
            }
            None => out.end(agent)?,
        }
        if items.is_empty() {
            out.flush()?;
        }
    }
}
