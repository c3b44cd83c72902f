//! Agents that go on printing while something else is tried: each of their
//! records has to be there, in order, and none late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_client::protocol::{AgentId, Outcome};
use skep_client::{Client, FollowOptions, LogItem};
use skep_tests::{Output, eventually, probe, soon};
use tokio::task::JoinHandle;

/// The pause between two lines of a neighbour.
const EVERY_MS: &str = "20";
/// A neighbour is never held up for more than 250 ms; tests give it ten times
/// that.
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);

pub(crate) struct Neighbours {
    client: Client,
    all: Vec<Neighbour>,
}

struct Neighbour {
    agent: AgentId,
    prefix: String,
    seen: Arc<AtomicU64>,
    following: JoinHandle<Output>,
}

impl Neighbours {
    /// Starts them and waits until each has printed.
    pub(crate) async fn start(client: &Client, count: usize) -> Self {
        let mut all = Vec::new();
        for number in 0..count {
            let prefix = format!("neighbour-{number}");
            let spec = probe(&["tick", "1000000", EVERY_MS, &prefix]);
            let agent = client.spawn(spec, None).await.unwrap().id;
            let seen = Arc::new(AtomicU64::new(0));
            let following = tokio::spawn(follow(client.clone(), agent, Arc::clone(&seen)));
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
    pub(crate) async fn go_on(&self) {
        let seen = |neighbour: &Neighbour| neighbour.seen.load(Ordering::Relaxed);
        let before: Vec<u64> = self.all.iter().map(seen).collect();
        eventually("neighbours that go on", || async {
            let mut all = self.all.iter().zip(&before);
            all.all(|(neighbour, before)| seen(neighbour) >= before + 10)
                .then_some(())
        })
        .await;
    }

    /// Ends them and checks all that they have printed.
    pub(crate) async fn end(self) {
        for neighbour in self.all {
            let ended = self.client.kill(neighbour.agent).await.unwrap();
            assert_eq!(ended.outcome, Some(Outcome::Killed));
            let output = soon("the end of a log", neighbour.following).await.unwrap();
            assert_eq!(
                output.records.len() as u64,
                ended.next_seq,
                "{}",
                neighbour.prefix
            );
            let mut before = None;
            for record in output.records {
                let expected = format!("{} {}", neighbour.prefix, record.seq + 1);
                assert_eq!(String::from_utf8_lossy(&record.data), expected);
                assert!(!record.partial, "{expected}");
                let pause =
                    record.time_ns - before.replace(record.time_ns).unwrap_or(record.time_ns);
                let pause = Duration::from_nanos(pause);
                assert!(pause < LONGEST_PAUSE, "{pause:?} before {expected}");
            }
        }
    }
}

async fn follow(client: Client, agent: AgentId, seen: Arc<AtomicU64>) -> Output {
    let mut output = Output {
        records: Vec::new(),
    };
    let mut log = client.follow(agent, FollowOptions::default());
    while let Some(item) = log.next().await.unwrap() {
        match item {
            LogItem::Record(record) => output.push(agent, record),
            LogItem::Gap(gap) => panic!("{gap:?}"),
        }
        seen.store(output.records.len() as u64, Ordering::Relaxed);
    }
    output
}
