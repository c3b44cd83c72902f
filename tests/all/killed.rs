//! A host that is killed again and again while its agents print, are followed in
//! every way, and others are spawned: nobody who follows is told anything twice,
//! in another order or not at all, and nobody who was told of a spawn waits for
//! its outcome in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep_client::protocol::spec::RestartPolicy;
use skep_client::protocol::{AgentId, Outcome};
use skep_client::{Client, ConnectionConfig, Endpoint, FollowOptions, LogItem};
use skep_tests::{HostProcess, eventually, probe, soon};
use tokio::task::{JoinHandle, JoinSet};

use crate::supervision::{again, with};
use crate::{running, written};

const KILLS: usize = 5;
/// They print a thousand lines a second together, and run again after each kill.
const AGENTS: usize = 50;
const LINE_EVERY_MS: &str = "50";
/// Each follows all agents: three are slow, three come late, two are cut off.
const FOLLOWERS: [Habit; 10] = [
    Habit::Steady,
    Habit::Steady,
    Habit::Slow,
    Habit::Slow,
    Habit::Slow,
    Habit::Late,
    Habit::Late,
    Habit::Late,
    Habit::CutOff,
    Habit::CutOff,
];
/// In this time an agent prints five lines: such a one falls behind for as long as
/// the agents print.
const SLOW: Duration = Duration::from_millis(250);
/// Records that somebody sees who is cut off again and again, each time.
const BETWEEN_CUTS: u64 = 20;
/// Lines that are there before somebody comes late, unless the agent has ended.
const LATE: u64 = 100;

/// How somebody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Steady,
    Slow,
    Late,
    CutOff,
}

fn connect(control: &Endpoint) -> Client {
    Client::connect(ConnectionConfig::new(control.clone()))
}

/// Somebody who follows.
#[derive(Clone)]
struct Follower {
    control: Endpoint,
    client: Client,
    habit: Habit,
    /// Whether all agents have been told to end.
    over: Arc<AtomicBool>,
}

impl Follower {
    /// Follows an agent to its end, through all of its runs, and says how many
    /// records that were.
    async fn follow(mut self, agent: AgentId, prefix: String) -> u64 {
        let habit = self.habit;
        if habit == Habit::Late {
            eventually("some lines, or the end", || async {
                let info = self.client.get(agent).await.ok()?;
                (info.next_seq >= LATE || info.outcome.is_some()).then_some(())
            })
            .await;
        }
        let mut next = 0;
        // Each run counts its lines anew.
        let (mut run, mut line) = (0, 0);
        loop {
            let options = FollowOptions {
                from_seq: next,
                ..FollowOptions::default()
            };
            let mut log = self.client.follow(agent, options);
            loop {
                match soon("a record, or the end", log.next())
                    .await
                    .expect("a log")
                {
                    Some(LogItem::Record(record)) => {
                        if record.run > run {
                            (run, line) = (record.run, 0);
                        }
                        next += 1;
                        line += 1;
                        let said = String::from_utf8_lossy(&record.data).into_owned();
                        let expected = (next - 1, run, format!("{prefix} {line}"));
                        assert_eq!((record.seq, record.run, said), expected, "{habit:?}");
                    }
                    // All of it is within the history.
                    Some(LogItem::Gap(gap)) => panic!("{habit:?}: {gap:?} is missing"),
                    None => return next,
                }
                match habit {
                    Habit::Slow if !self.over.load(Ordering::Relaxed) => {
                        tokio::time::sleep(SLOW).await;
                    }
                    Habit::CutOff if next % BETWEEN_CUTS == 0 => break,
                    _ => {}
                }
            }
            self.client = connect(&self.control);
        }
    }
}

/// Spawns one agent after the other, whether the host is there or not, and gives
/// those that were acknowledged.
fn spawn_all_the_while(client: Client, stop: Arc<AtomicBool>) -> JoinHandle<Vec<AgentId>> {
    let client = client.with_patience(Duration::from_millis(500));
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if let Ok(agent) = client.spawn(probe(&["lines", "3"]), None).await {
                acknowledged.push(agent.id);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        acknowledged
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_anyone_saw_is_lost_however_often_the_host_is_killed() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let stop = Arc::new(AtomicBool::new(false));
    let spawning = spawn_all_the_while(host.client(), Arc::clone(&stop));
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let prefix = format!("agent-{number}");
        let spec = with(
            probe(&["tick", "1000000000", LINE_EVERY_MS, &prefix]),
            again(RestartPolicy::OnFailure, None),
        );
        let agent = client.spawn(spec, None).await.expect("a spawn").id;
        agents.push((agent, prefix));
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut following = JoinSet::new();
    for habit in FOLLOWERS {
        let follower = Follower {
            control: host.control(),
            client: connect(&host.control()),
            habit,
            over: Arc::clone(&over),
        };
        for (agent, prefix) in agents.clone() {
            let followed = follower.clone().follow(agent, prefix);
            following.spawn(async move { (agent, followed.await) });
        }
    }
    for _ in 0..KILLS {
        // At some moment, in the middle of whatever goes on.
        let (one, _) = agents[fastrand::usize(..AGENTS)];
        let now = running(&client, one).await.next_seq;
        written(&client, one, now + fastrand::u64(1..60)).await;
        host.kill_9();
        host.start_again().await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = spawning.await.expect("who spawns");
    for (agent, _) in &agents {
        let last = running(&client, *agent).await;
        assert_eq!(last.usage.restarts, KILLS as u64);
        written(&client, *agent, last.next_seq + 1).await;
        client.kill(*agent).await.expect("a kill");
    }
    over.store(true, Ordering::Relaxed);

    let mut seen = 0;
    while let Some(followed) = following.join_next().await {
        let (agent, records) = followed.expect("a follower that found all in order");
        let info = client.get(agent).await.expect("an agent");
        assert_eq!(info.outcome, Some(Outcome::Killed));
        assert_eq!(info.next_seq, records, "{agent}");
        seen += records;
    }
    assert!(seen > 0);
    assert!(!acknowledged.is_empty());
    for agent in acknowledged {
        eventually("an outcome", || async {
            client.get(agent).await.expect("an agent").outcome
        })
        .await;
    }
    assert_eq!(host.panics(), Vec::<String>::new());
}
