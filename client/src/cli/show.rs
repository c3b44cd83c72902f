//! One agent's output as it comes, and beside it what else there is to see: its
//! progress, previews, and why nothing happens.

use std::io::{self, IsTerminal};
use std::time::Duration;

use skep_client::protocol::event::{ProgressEvent, StatusEvent};
use skep_client::protocol::info::PausedReason;
use skep_client::protocol::{AgentId, AgentName, AgentState};
use skep_client::{Client, Follow, LogItem, Watch, WatchEvent};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::away::Away;
use super::failure::Failure;
use super::previews::Previews;
use super::progress::{Bar, Lines};
use super::sink::{Form, Sink};
use super::{exit, print, restarts, text};

/// How long the last report of progress may take once all output is there.
const LAST_REPORT: Duration = Duration::from_secs(2);

/// What is told when Ctrl-C is pressed for the first time.
pub(super) const STOPPING: &str = "stopping the agent; Ctrl-C again kills it";

/// How progress is shown.
#[derive(Debug)]
pub(super) enum View {
    None,
    Json,
    Bar(Bar),
    Lines(Lines),
}

impl View {
    /// A bar where there is a terminal; else lines, if they are wanted.
    pub(super) fn of(form: Form, lines: bool) -> Self {
        match form {
            Form::Json => Self::Json,
            Form::Raw | Form::Timestamps if io::stderr().is_terminal() => Self::Bar(Bar::default()),
            Form::Raw | Form::Timestamps if lines => Self::Lines(Lines::default()),
            Form::Raw | Form::Timestamps => Self::None,
        }
    }
}

/// What is shown beside an agent's output.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) agent: AgentId,
    pub(super) name: AgentName,
    pub(super) view: View,
    pub(super) previews: Option<Previews>,
    /// Where the events come from; absent where none are wanted.
    pub(super) watch: Option<Watch>,
    /// Whether it is told why the agent stands still.
    pub(super) hints: bool,
    /// Tells of its runs, if that is wanted.
    pub(super) notes: Option<restarts::Notes>,
    /// What a key made this command do, to be told below the output.
    pub(super) answers: mpsc::Receiver<&'static str>,
}

impl Beside {
    /// Whether it needs an agent's events.
    pub(super) fn wants_events(view: &View, previews: Option<&Previews>, told: bool) -> bool {
        !matches!(view, View::None) || previews.is_some() || told
    }

    /// Writes the agent's output until it ends.
    pub(super) async fn show(
        &mut self,
        client: &Client,
        log: &mut Follow,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let mut away = Away::new(client);
        loop {
            let draw_at = self.draw_at();
            tokio::select! {
                item = log.next() => match item? {
                    Some(item) => self.write(client, item, log, sink).await?,
                    None => break,
                },
                event = next_event(&mut self.watch) => match event {
                    Some(event) => self.event(client, &event, sink).await?,
                    // It has ended, or the follower will say what is wrong.
                    None => self.watch = None,
                },
                () = at(draw_at) => self.draw(sink),
                told = away.next() => self.note(told, sink).map_err(broken)?,
                Some(told) = self.answers.recv() => {
                    if !self.hide() && io::stderr().is_terminal() {
                        // Behind the key's echo, which else went with the bar.
                        print::end_line();
                    }
                    self.note(told, sink).map_err(broken)?;
                }
            }
        }
        let last = async {
            while self.watch.is_some() {
                match next_event(&mut self.watch).await {
                    Some(event) => self.event(client, &event, sink).await?,
                    None => self.watch = None,
                }
            }
            Ok::<(), Failure>(())
        };
        if let Ok(told) = tokio::time::timeout(LAST_REPORT, last).await {
            told?;
        }
        self.hide();
        Ok(())
    }

    /// Writes as much at a time as there is.
    async fn write(
        &mut self,
        client: &Client,
        item: LogItem,
        log: &mut Follow,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let mut next = Some(item);
        while let Some(item) = next {
            if let LogItem::Record(record) = &item {
                self.run(client, record.run, sink).await?;
            }
            self.hide();
            sink.item(self.agent, &item).map_err(broken)?;
            next = log.try_next();
        }
        sink.flush().map_err(broken)?;
        self.wrote();
        Ok(())
    }

    /// Tells of a run before its first line.
    async fn run(&mut self, client: &Client, run: u64, sink: &mut Sink) -> Result<(), Failure> {
        if !self.notes.as_ref().is_some_and(|notes| notes.lacks(run)) {
            return Ok(());
        }
        // Why there is another was published before it began.
        while let Some(event) = self.watch.as_mut().and_then(Watch::try_next) {
            self.event(client, &event, sink).await?;
        }
        let note = self.notes.as_mut().and_then(|notes| notes.of_output(run));
        note.map_or(Ok(()), |note| self.note(&note, sink).map_err(broken))
    }

    async fn event(
        &mut self,
        client: &Client,
        event: &WatchEvent,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        match event {
            WatchEvent::Progress(progress) => self.progress(progress, sink).map_err(broken),
            WatchEvent::Status(status) if self.hints && status.state == AgentState::Paused => {
                let hint = paused(client, status).await;
                self.note(&hint, sink).map_err(broken)
            }
            WatchEvent::Status(status) => {
                match self
                    .notes
                    .as_mut()
                    .and_then(|notes| notes.of(status, text::now_ms()))
                {
                    Some(note) => self.note(&note, sink).map_err(broken),
                    None => Ok(()),
                }
            }
            WatchEvent::Gone(_) => Ok(()),
        }
    }

    fn progress(&mut self, progress: &ProgressEvent, sink: &mut Sink) -> io::Result<()> {
        let saved = self.previews.as_mut().zip(progress.preview.as_ref());
        let problem = saved.and_then(|(previews, preview)| previews.save(&self.name, preview));
        let line = match &mut self.view {
            View::None => None,
            View::Json => {
                sink.progress(progress)?;
                sink.flush()?;
                None
            }
            View::Bar(bar) => {
                bar.report(progress);
                None
            }
            View::Lines(lines) => lines.report(progress),
        };
        for text in [line, problem].into_iter().flatten() {
            self.note(&text, sink)?;
        }
        Ok(())
    }

    fn note(&mut self, text: &str, sink: &mut Sink) -> io::Result<()> {
        self.hide();
        sink.note(text)?;
        self.wrote();
        Ok(())
    }

    /// Takes the bar away; whether there was one.
    pub(super) fn hide(&mut self) -> bool {
        match &mut self.view {
            View::Bar(bar) => bar.hide(),
            _ => false,
        }
    }

    fn wrote(&mut self) {
        if let View::Bar(bar) = &mut self.view {
            bar.wrote();
        }
    }

    fn draw_at(&self) -> Option<Instant> {
        match &self.view {
            View::Bar(bar) => bar.draw_at(),
            _ => None,
        }
    }

    fn draw(&mut self, sink: &Sink) {
        if let View::Bar(bar) = &mut self.view {
            bar.draw(sink.line_is_open());
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn next_event(watch: &mut Option<Watch>) -> Option<WatchEvent> {
    match watch {
        Some(watch) => watch.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Why an agent stands still, and how it goes on.
async fn paused(client: &Client, status: &StatusEvent) -> String {
    let agent: AgentId = status.agent;
    let info = client.get(agent).await.ok();
    match info.and_then(|info| info.paused_reason) {
        Some(PausedReason::OutOfFuel) => format!(
            "the agent is out of fuel and paused: `skep refuel {agent} 1G` lets it go on, `skep \
             kill {agent}` ends it"
        ),
        _ => format!("the agent was paused: `skep resume {agent}` lets it go on"),
    }
}

/// An error of writing the agent's output.
fn broken(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::quiet(exit::NOBODY_READS)
    } else {
        error.into()
    }
}
