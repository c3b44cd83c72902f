//! Agents that go on printing while something else is tried: each of their
//! records has to be there, in order, and none late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_client::protocol::event::LogRecord;
use skep_client::protocol::{AgentId, Outcome};
use skep_client::{Client, FollowOptions, LogItem};
use tokio::task::JoinHandle;

use crate::guests::probe;
use crate::wait::{eventually, soon};

/// The pause between two lines of a neighbour, unless it is told.
const EVERY: Duration = Duration::from_millis(20);
/// A neighbour is never held up for more than 250 ms; tests give it ten times
/// that.
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);

/// Some agents that print numbered lines, and those who read them.
#[derive(Debug)]
pub struct Neighbours {
    client: Client,
    all: Vec<Neighbour>,
}

#[derive(Debug)]
struct Neighbour {
    agent: AgentId,
    prefix: String,
    seen: Arc<AtomicU64>,
    following: JoinHandle<Heard>,
}

/// What was heard of neighbours.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The records that came.
    pub records: u64,
    /// Those that did not, or were other than what was printed.
    pub lost: u64,
    /// The longest time between two records, by the host's clock.
    pub longest_pause: Duration,
    /// The longest time from a record until its reader had it.
    pub longest_way: Duration,
}

impl Neighbours {
    /// Starts them and waits until each has printed.
    pub async fn start(client: &Client, count: usize) -> Self {
        Self::start_every(client, count, EVERY).await
    }

    /// The same, with another pause between two lines.
    ///
    /// # Panics
    /// If one is refused, or does not print.
    pub async fn start_every(client: &Client, count: usize, every: Duration) -> Self {
        let every_ms = every.as_millis().to_string();
        let mut all = Vec::new();
        for number in 0..count {
            let prefix = format!("neighbour-{number}");
            let spec = probe(&["tick", "1000000000", &every_ms, &prefix]);
            let agent = client.spawn(spec, None).await.expect("a spawn").id;
            let seen = Arc::new(AtomicU64::new(0));
            let (client, seen_too) = (client.clone(), Arc::clone(&seen));
            let following = tokio::spawn(follow(client, agent, prefix.clone(), seen_too));
            all.push(Neighbour {
                agent,
                prefix,
                seen,
                following,
            });
        }
        let neighbours = Self {
            client: client.clone(),
            all,
        };
        neighbours.go_on().await;
        neighbours
    }

    /// Waits until each has printed ten lines more.
    pub async fn go_on(&self) {
        let seen = |neighbour: &Neighbour| neighbour.seen.load(Ordering::Relaxed);
        let before: Vec<u64> = self.all.iter().map(seen).collect();
        eventually("neighbours that go on", || async {
            let mut all = self.all.iter().zip(&before);
            all.all(|(neighbour, before)| seen(neighbour) >= before + 10)
                .then_some(())
        })
        .await;
    }

    /// Ends them and tells what was heard of all of them.
    ///
    /// # Panics
    /// If one has ended before.
    pub async fn heard(self) -> Heard {
        let mut heard = Heard::default();
        for neighbour in self.all {
            let ended = self.client.kill(neighbour.agent).await.expect("a kill");
            assert_eq!(ended.outcome, Some(Outcome::Killed), "{}", neighbour.prefix);
            let own = soon("the end of a log", neighbour.following)
                .await
                .expect("a log");
            heard.records += own.records;
            heard.lost += own.lost + ended.next_seq.saturating_sub(own.records + own.lost);
            heard.longest_pause = heard.longest_pause.max(own.longest_pause);
            heard.longest_way = heard.longest_way.max(own.longest_way);
            self.client
                .forget(neighbour.agent)
                .await
                .expect("an agent that has ended");
        }
        heard
    }

    /// Ends them.
    ///
    /// # Panics
    /// If a record of theirs is missing, wrong or late.
    pub async fn end(self) {
        let heard = self.heard().await;
        assert_eq!(heard.lost, 0, "records of neighbours were lost: {heard:?}");
        assert!(heard.longest_pause < LONGEST_PAUSE, "{heard:?}");
    }
}

async fn follow(client: Client, agent: AgentId, prefix: String, seen: Arc<AtomicU64>) -> Heard {
    let mut heard = Heard::default();
    let mut before: Option<LogRecord> = None;
    let mut log = client.follow(agent, FollowOptions::default());
    while let Some(item) = log.next().await.expect("a log") {
        match item {
            LogItem::Record(record) => {
                let expected = format!("{prefix} {}", record.seq + 1);
                let next = before.as_ref().map_or(0, |before| before.seq + 1);
                let right = record.data == expected.as_bytes() && !record.partial;
                if right && record.seq == next {
                    heard.records += 1;
                } else {
                    heard.lost += 1;
                }
                if let Some(before) = &before {
                    let pause = Duration::from_nanos(record.time_ns.saturating_sub(before.time_ns));
                    heard.longest_pause = heard.longest_pause.max(pause);
                }
                let way = Duration::from_nanos(now_ns().saturating_sub(record.time_ns));
                heard.longest_way = heard.longest_way.max(way);
                before = Some(record);
            }
            LogItem::Gap(gap) => heard.lost += gap.to_seq - gap.from_seq + 1,
        }
        seen.store(heard.records, Ordering::Relaxed);
    }
    heard
}

/// The time since 1970, as records have it.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
