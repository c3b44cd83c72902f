//! `skep ps --watch`: the table of agents, renewed as they go on.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use console::Term;
use skep_client::protocol::event::{ProgressEvent, StatusEvent};
use skep_client::protocol::{AgentId, AgentInfo, AgentState};
use skep_client::{AgentFilter, Client, ClientError, WatchEvent};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::away::Away;
use super::failure::Failure;
use super::signals::Signals;
use super::{Outcome, exit, print, progress, ps, text};

/// The table is drawn this often at most.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// What agents have used is asked for this often.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// And this often at most where one is unknown.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// How long one that has ended stays to be seen.
const LINGERS: Duration = Duration::from_secs(5);
/// The steps of a bar.
const BAR: usize = 10;

type Asking = JoinHandle<skep_client::Result<Vec<AgentInfo>>>;

/// Shows agents until a signal comes.
pub(super) async fn show(client: &Client, filter: &AgentFilter, all: bool) -> Outcome {
    let mut signals = Signals::new()?;
    let mut watch = client.watch_all().await?;
    let mut away = Away::new(client);
    let mut board = Board::default();
    let (mut asked_at, mut ask_at) = (Instant::now(), Instant::now());
    let mut draw_at = Instant::now();
    let mut asking: Option<Asking> = None;
    loop {
        tokio::select! {
            signal = signals.next() => return Ok(exit::of_signal(signal)),
            event = watch.next() => match event? {
                Some(event) => if !board.take(event) {
                    ask_at = ask_at.min(asked_at + ASK_AGAIN);
                },
                None => return Ok(0),
            },
            agents = answer(&mut asking) => {
                if let Some(agents) = agents? {
                    board.renew(agents, all);
                }
                ask_at = Instant::now() + ASK_EVERY;
            }
            () = tokio::time::sleep_until(ask_at), if asking.is_none() => {
                asked_at = Instant::now();
                asking = Some(ask(client, filter));
            }
            () = tokio::time::sleep_until(draw_at) => {
                draw_at = Instant::now() + DRAW_EVERY;
                board.draw()?;
            }
            told = away.next() => board.told = Some(told),
        }
    }
}

/// In a task of its own: here it would be given up at each frame.
fn ask(client: &Client, filter: &AgentFilter) -> Asking {
    let (client, filter) = (client.clone(), filter.clone());
    tokio::spawn(async move { client.list_all(&filter).await })
}

/// What the host has; `None` where it does not answer, as while it is started
/// again. Whoever watches is told if that takes too long.
async fn answer(asking: &mut Option<Asking>) -> Result<Option<Vec<AgentInfo>>, Failure> {
    let Some(task) = asking else {
        return std::future::pending().await;
    };
    let answer = task.await;
    *asking = None;
    match answer {
        Ok(Ok(agents)) => Ok(Some(agents)),
        Ok(Err(ClientError::Timeout { .. })) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(Failure::of_skep(format!(
            "agents cannot be listed: {error}"
        ))),
    }
}

/// What is known, and what was drawn of it.
#[derive(Debug, Default)]
struct Board {
    rows: HashMap<AgentId, Row>,
    drawn: Vec<String>,
    told: Option<&'static str>,
}

#[derive(Debug)]
struct Row {
    info: AgentInfo,
    progress: Option<ProgressEvent>,
    leaves_at: Option<Instant>,
}

impl Board {
    /// Takes what was told; `false` where the host must be asked for more.
    fn take(&mut self, event: WatchEvent) -> bool {
        let Some(row) = self.rows.get_mut(&event.agent()) else {
            return !matches!(event, WatchEvent::Status(_));
        };
        match event {
            WatchEvent::Progress(progress) => {
                row.progress = Some(ProgressEvent {
                    preview: None,
                    ..progress
                });
                true
            }
            WatchEvent::Gone(agent) => {
                self.rows.remove(&agent);
                true
            }
            WatchEvent::Status(StatusEvent {
                generation,
                state,
                outcome,
                usage,
                restart,
                ..
            }) => {
                if generation >= row.info.generation {
                    row.info.generation = generation;
                    row.info.state = state;
                    row.info.outcome = outcome;
                    row.info.usage = usage;
                    row.info.restart = restart;
                    row.info.paused_reason = None;
                }
                // Why it is paused, and its place in the queue, are not told.
                !matches!(state, AgentState::Paused | AgentState::Queued)
            }
        }
    }

    /// Takes all that the host has.
    fn renew(&mut self, agents: Vec<AgentInfo>, all: bool) {
        let mut before = std::mem::take(&mut self.rows);
        for info in agents {
            let old = before.remove(&info.id);
            let ended = old
                .as_ref()
                .filter(|old| old.info.generation > info.generation);
            let (info, leaves_at) = match ended {
                // It has gone on since the host was asked.
                Some(old) => (old.info.clone(), old.leaves_at),
                None => (info, None),
            };
            let progress = old.and_then(|old| old.progress);
            let row = Row {
                info,
                progress,
                leaves_at,
            };
            self.rows.insert(row.info.id, row);
        }
        let now = Instant::now();
        for (agent, mut row) in before {
            let leaves_at = *row.leaves_at.get_or_insert(now + LINGERS);
            if !all && leaves_at > now {
                self.rows.insert(agent, row);
            }
        }
    }

    /// Writes it over what was drawn before, if it is another.
    fn draw(&mut self) -> io::Result<()> {
        let (height, width) = Term::stdout().size();
        let (height, width) = (usize::from(height), usize::from(width));
        let lines = self.lines(height.saturating_sub(1).max(3), width.saturating_sub(1));
        if lines == self.drawn {
            return Ok(());
        }
        let mut frame = String::new();
        if !self.drawn.is_empty() {
            frame.push_str(&format!("\x1b[{}A\r", self.drawn.len()));
        }
        for line in &lines {
            frame.push_str(line);
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        self.drawn = lines;
        // At once, so that nothing is seen half drawn.
        let mut stdout = io::stdout().lock();
        stdout.write_all(frame.as_bytes())?;
        stdout.flush()
    }

    fn lines(&self, height: usize, width: usize) -> Vec<String> {
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by_key(|row| (row.info.created_ms, row.info.id));
        let mut table = print::table([
            "ID", "NAME", "STATE", "AGE", "FUEL", "MEMORY", "OUTPUT", "PROGRESS",
        ]);
        let now = text::now_ms();
        let notice = self.told.map(|told| format!("skep: {told}"));
        let room = height.saturating_sub(1 + usize::from(notice.is_some()));
        let shown = if rows.len() > room {
            room - 1
        } else {
            rows.len()
        };
        for row in rows.iter().take(shown) {
            let progress = row.progress.as_ref().map(bar).unwrap_or_default();
            let [id, name, state, age, fuel, memory, output] = ps::row(&row.info, now);
            table.add_row([id, name, state, age, fuel, memory, output, progress]);
        }
        let mut lines = print::table_lines(table);
        if shown < rows.len() {
            lines.push(format!("and {} more", rows.len() - shown));
        }
        lines.extend(notice);
        let fit = |line: String| console::truncate_str(&line, width, "…").into_owned();
        lines.into_iter().map(fit).collect()
    }
}

/// `[=====     ] reading 3/6: page 3`
fn bar(event: &ProgressEvent) -> String {
    let said = progress::describe(event);
    let Some(fraction) = progress::fraction(event) else {
        return said;
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "it lies between 0 and the length of the bar"
    )]
    let done = (fraction * BAR as f64) as usize;
    format!("[{:<BAR$}] {said}", "=".repeat(done))
}

#[cfg(test)]
mod tests {
    use skep_transport::local;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_away_ends_nothing() {
        let (wire, connection) = local();
        let client = Client::over(connection);
        // It is there, and answers nothing.
        let mut asking = Some(ask(&client, &AgentFilter::default()));
        assert!(matches!(answer(&mut asking).await, Ok(None)));
        assert!(asking.is_none(), "it is asked again");
        drop(wire);
        let mut asking = Some(ask(&client, &AgentFilter::default()));
        assert!(answer(&mut asking).await.is_err());
    }
}
