//! Logs on disk: what a follower has seen is there, whatever becomes of the
//! host, and goes when the agent is forgotten.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use skep_client::protocol::event::{LogRecord, Stream};
use skep_client::protocol::{AgentId, Outcome};
use skep_client::{FollowOptions, LogItem};
use skep_host::config::Config;
use skep_host::log::{Budget, Logs};
use skep_host::{Endpoints, Host, Purpose};
use skep_tests::{HostProcess, TestHost, eventually, probe, run, start_in_vain};

const BOUND: u64 = 8 * 1024 * 1024;

fn logs_of(state_dir: &Path) -> PathBuf {
    state_dir.join("logs")
}

/// The directories of agents.
fn directories(state_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(logs_of(state_dir)).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_has_left_every_record_that_anyone_saw() {
    const AGENTS: usize = 50;
    const FOLLOWERS: usize = 10;
    let mut host = HostProcess::start(&[]).await;
    let spawner = host.client();
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let spec = probe(&["tick", "10000000", "20", &format!("agent {number}")]);
        agents.push(spawner.spawn(spec, None).await.unwrap().id);
    }
    let seen: Arc<Mutex<BTreeMap<(AgentId, u64), LogRecord>>> = Arc::default();
    let mut following = Vec::new();
    for followed in agents.chunks(AGENTS / FOLLOWERS) {
        let client = host.client();
        for &agent in followed {
            let (client, seen) = (client.clone(), Arc::clone(&seen));
            following.push(tokio::spawn(async move {
                let mut log = client.follow(agent, FollowOptions::default());
                while let Ok(Some(item)) = log.next().await {
                    let LogItem::Record(record) = item else {
                        panic!("{item:?}")
                    };
                    seen.lock().unwrap().insert((agent, record.seq), record);
                }
            }));
        }
    }
    eventually("a hundred records of each agent", || {
        let seen = seen.lock().unwrap();
        let all = agents.iter().all(|agent| seen.contains_key(&(*agent, 100)));
        async move { all.then_some(()) }
    })
    .await;
    host.kill_9();
    for follower in following {
        // It waits for a host that does not come, or has found it gone.
        follower.abort();
        if let Err(error) = follower.await {
            assert!(error.is_cancelled(), "{error}");
        }
    }

    // A copy, so that the next host finds it as it was.
    let copy = tempfile::tempdir().unwrap();
    for directory in directories(&host.state_dir()) {
        let to = copy.path().join(directory.file_name().unwrap());
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&directory).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let logs = Logs::on_disk(copy.path(), Budget::new(u64::MAX)).unwrap();
    let mut written = BTreeMap::new();
    for &agent in &agents {
        let history = logs.recover(agent, BOUND, 0).unwrap().expect("a log");
        let history = Arc::new(history);
        let mut next = 0;
        while next < history.next_seq() {
            let window = history.window(next, &Stream::ALL, BOUND).await.unwrap();
            assert_eq!(window.expired, None);
            for record in window.records {
                assert_eq!(record.seq, next);
                written.insert((agent, next), record);
                next += 1;
            }
            assert_eq!(next, window.next_seq);
        }
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.len() > 100 * AGENTS);
    for (key, record) in &seen {
        assert_eq!(written.get(key), Some(record), "{key:?}");
    }

    // Who comes after it has them all, and removes what is nobody's.
    let stranger = logs_of(&host.state_dir()).join(AgentId::random().to_string());
    std::fs::create_dir(&stranger).unwrap();
    host.start_again().await;
    let client = host.client();
    for &agent in &agents {
        let mut next = 0;
        loop {
            let output = client.output(agent, None, next, None).await.unwrap();
            assert_eq!(output.expired, None);
            for record in &output.records {
                assert_eq!(written.get(&(agent, record.seq)), Some(record));
            }
            next = output.next_seq;
            if output.end {
                break;
            }
        }
        assert_eq!(next, client.get(agent).await.unwrap().next_seq);
        assert!(written.contains_key(&(agent, next - 1)));
        assert!(!written.contains_key(&(agent, next)));
    }
    eventually("no log of a stranger", || {
        let there = stranger.exists();
        async move { (!there).then_some(()) }
    })
    .await;
    assert_eq!(directories(&host.state_dir()).len(), AGENTS);
    let said = host.log();
    assert!(said.contains("agents that nobody knows"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_forgotten_leaves_nothing_on_disk() {
    let host = TestHost::with(|config| config.capacity.max_ended = 2).await;
    let client = host.client().await;
    let state = host.dir().to_owned();
    let mut ended = Vec::new();
    for _ in 0..4 {
        ended.push(run(&client, probe(&["lines", "1000"])).await.info.id);
    }
    let left = |expected: &[AgentId]| {
        let mut expected: Vec<_> = expected
            .iter()
            .map(|agent| logs_of(&state).join(agent.to_string()))
            .collect();
        let mut found = directories(&state);
        expected.sort();
        found.sort();
        let same = found == expected;
        async move { same.then_some(()) }
    };
    eventually("the oldest were forgotten", || left(&ended[2..])).await;
    client.forget(ended[3]).await.unwrap();
    eventually("one more was", || left(&ended[2..3])).await;
    // One that said nothing has nothing there.
    let silent = run(&client, probe(&["exit", "0"])).await;
    assert_eq!(silent.outcome, Outcome::Exited { code: 0 });
    eventually("no directory for it", || left(&ended[2..3])).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_one_hosts_alone() {
    let host = HostProcess::start(&[]).await;
    let client = host.client();
    let agent = run(&client, probe(&["lines", "1000"])).await.info.id;
    let said = start_in_vain("tcp://127.0.0.1:0", &host.state_dir()).await;
    assert!(said.contains("another host"), "{said}");
    let log = logs_of(&host.state_dir()).join(agent.to_string());
    assert!(log.is_dir(), "the second has removed the first one's logs");
    let ended = run(&client, probe(&["exit", "0"])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_one_agent_keeps_nothing_on_disk() {
    let parent = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: parent.path().join("state"),
        helper: Some(skep_tests::skep_binary()),
        ..Config::embedded()
    };
    let (wire, connection) = skep_transport::local();
    let host = Host::start(&config, wire, Endpoints::default(), Purpose::RunOne).unwrap();
    let client = skep_client::Client::over(connection);
    let ended = run(&client, probe(&["lines", "10000"])).await;
    assert_eq!(ended.output.records.len(), 10_000);
    assert!(!config.state_dir.exists());
    host.shutdown().await;
}
