//! A host that is killed again and again while its agents print, are followed in
//! every way, and others are spawned: nobody who follows is told anything twice,
//! in another order or not at all, and nobody who was told of a spawn waits for
//! its outcome in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep_client::protocol::spec::{Restart, RestartPolicy};
use skep_client::protocol::{AgentId, Outcome};
use skep_client::{Client, ConnectionConfig, Endpoint, FollowOptions, LogItem};
use skep_tests::{HostProcess, eventually, probe, soon};
use tokio::task::{JoinHandle, JoinSet};

use crate::{running, written};

const KILLS: usize = 5;
/// Agents that run again after each.
const LASTING: usize = 10;
/// They print a thousand lines a second together.
const AGENTS: usize = 50;
const LINE_EVERY_MS: &str = "50";
/// Longer than a line takes to be printed: such a one never catches up before
/// the agent has ended.
const SLOW: Duration = Duration::from_millis(60);
/// Records that somebody sees who is cut off again and again, each time.
const BETWEEN_CUTS: u64 = 7;
/// Lines that are there before somebody comes late, unless the agent has ended.
const LATE: u64 = 10;

/// How somebody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Steady,
    Slow,
    Late,
    CutOff,
}

/// Of ten, three are slow, three late, and two are cut off.
fn habit(number: usize) -> Habit {
    match number % 10 {
        0 | 1 => Habit::Steady,
        2..=4 => Habit::Slow,
        5..=7 => Habit::Late,
        _ => Habit::CutOff,
    }
}

fn connect(control: &Endpoint) -> Client {
    Client::connect(ConnectionConfig::new(control.clone()))
}

/// Follows an agent to its end, through all of its runs, and says how many
/// records that were.
async fn follow(control: Endpoint, agent: AgentId, prefix: String, habit: Habit) -> u64 {
    let mut client = connect(&control);
    if habit == Habit::Late {
        eventually("some lines, or the end", || async {
            let info = client.get(agent).await.ok()?;
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
        let mut log = client.follow(agent, options);
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
                Habit::Slow => tokio::time::sleep(SLOW).await,
                Habit::CutOff if next % BETWEEN_CUTS == 0 => break,
                _ => {}
            }
        }
        client = connect(&control);
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
    let mut following = JoinSet::new();
    let mut lasting = Vec::new();
    for number in 0..LASTING {
        let prefix = format!("lasting-{number}");
        let mut spec = probe(&["tick", "1000000000", LINE_EVERY_MS, &prefix]);
        spec.restart = Restart {
            policy: RestartPolicy::OnFailure,
            backoff_ms: Some(100),
            max_backoff_ms: Some(100),
            ..Restart::default()
        };
        let agent = client.spawn(spec, None).await.expect("a spawn").id;
        let followed = follow(host.control(), agent, prefix, habit(number));
        following.spawn(async move { (agent, followed.await) });
        lasting.push(agent);
    }
    for kill in 0..KILLS {
        let mut printing = Vec::new();
        for number in 0..AGENTS {
            let prefix = format!("agent-{kill}-{number}");
            let spec = probe(&["tick", "1000000000", LINE_EVERY_MS, &prefix]);
            let agent = client.spawn(spec, None).await.expect("a spawn").id;
            let followed = follow(host.control(), agent, prefix, habit(number));
            following.spawn(async move { (agent, followed.await) });
            printing.push(agent);
        }
        // At some moment, in the middle of whatever goes on.
        let one = fastrand::usize(..AGENTS);
        written(&client, printing[one], fastrand::u64(1..40)).await;
        host.kill_9();
        host.start_again().await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = spawning.await.expect("who spawns");
    for agent in &lasting {
        let last = running(&client, *agent).await;
        assert_eq!(last.usage.restarts, KILLS as u64);
        written(&client, *agent, last.next_seq + 1).await;
        client.kill(*agent).await.expect("a kill");
    }

    let mut seen = 0;
    while let Some(followed) = following.join_next().await {
        let (agent, records) = followed.expect("a follower that found all in order");
        let info = client.get(agent).await.expect("an agent");
        let expected = if lasting.contains(&agent) {
            Outcome::Killed
        } else {
            Outcome::HostLost
        };
        assert_eq!(info.outcome, Some(expected));
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
