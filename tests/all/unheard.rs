//! A stderr that takes nothing: a disk that is full, a terminal that was closed, a
//! pipe whose reader has gone, or that nobody reads. Whoever writes there goes on as if
//! it did.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;

use serde_json::Value;
use skep_client::AgentFilter;
use skep_client::protocol::{AgentState, Outcome};
use skep_tests::{HostProcess, Terminal, eventually, native, probe, run, skep_binary};

use crate::command::{prebuilt, skep, skep_unheard};
use crate::events::{everything, next};

/// The names of the agents whose spawns are on record.
fn spawns(host: &HostProcess) -> Vec<String> {
    let record = host.state_dir().join("audit/audit.jsonl");
    let record = std::fs::read_to_string(record).unwrap_or_default();
    let lines = record
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["op"] == "agent.spawn")
        .filter_map(|line| Some(line["name"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_goes_on() {
    let mut host =
        HostProcess::start_unheard(&["--allow-native", "--set", "log.filter=info"]).await;
    let client = host.client();
    // What the machine grants to native agents is told when the first one comes.
    for _ in 0..2 {
        let ended = run(&client, native(&["/bin/true"])).await;
        assert_eq!(ended.info.outcome, Some(Outcome::Exited { code: 0 }));
    }
    // The record's thread has something to complain of.
    let state = host.state_dir();
    let (there, away) = (state.join("audit"), state.join("elsewhere"));
    std::fs::rename(&there, &away).unwrap();
    let mut meanwhile = probe(&["exit", "0"]);
    meanwhile.name = "meanwhile".parse().unwrap();
    run(&client, meanwhile).await;
    eventually("a host that is not well", || async {
        let health = client.health().await.unwrap();
        (!health.reasons.is_empty()).then_some(())
    })
    .await;
    std::fs::rename(&away, &there).unwrap();
    eventually("the record goes on", || async {
        spawns(&host)
            .contains(&"meanwhile".to_owned())
            .then_some(())
    })
    .await;
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
}

/// A host that logs hundreds of lines for each agent.
const TALKS: [&str; 2] = ["--set", "log.filter=trace"];

/// Agents of which more is logged than waits for a stderr that is not read.
const AGENTS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_log_nobody_reads_goes_on_and_ends() {
    let (mut host, mut pipe) = HostProcess::start_piped(&TALKS).await;
    let client = host.client();
    let mut events = everything(&client).await;
    for _ in 0..AGENTS {
        let ended = run(&client, probe(&["lines", "1"])).await;
        next(&mut events, &format!("log.{}.stdout", ended.info.id)).await;
    }
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    let mut log = Vec::new();
    pipe.read_to_end(&mut log).unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("skep: listening on "), "{log}");
    // The pipe was full.
    assert!(!log.contains("skep: ending"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_log_that_nobody_read_are_told_as_lost_and_the_last_ones_come() {
    const LOST: &str = " lines of this log were lost: standard error did not take them";
    let (mut host, pipe) = HostProcess::start_piped(&TALKS).await;
    let client = host.client();
    for _ in 0..AGENTS {
        run(&client, probe(&["lines", "1"])).await;
    }
    let (tell, told) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut ending = false;
        for line in BufReader::new(pipe).lines() {
            let line = line.unwrap();
            ending |= line == "skep: ending";
            if let Some(lost) = line.strip_suffix(LOST) {
                let lost = lost.strip_prefix("skep: ").unwrap();
                tell.send(lost.parse::<u64>().unwrap()).unwrap();
            }
        }
        ending
    });
    let lost = eventually("a word of what was lost", || async {
        run(&client, probe(&["lines", "1"])).await;
        told.try_recv().ok()
    })
    .await;
    assert!(lost > 0);
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    assert!(reading.join().unwrap(), "it did not say that it ends");
}

#[tokio::test]
async fn a_command_ends_with_the_same_code() {
    let probe = prebuilt("probe");
    let nobody = ["--host", "tcp://127.0.0.1:1"];
    for (args, code) in [
        (&["run", "/nowhere/at/all.wasm"][..], 127),
        (&[&nobody[..], &["logs", "a"]].concat(), 125),
        (&["logs", "--no-such-flag"], 125),
        (&["run", "--stats", &probe, "panic"], 134),
        (&["run", &probe, "stderr", "5"], 0),
    ] {
        assert_eq!(skep_unheard(args).await.code, Some(code), "{args:?}");
    }
}

/// What it prints goes nowhere then, which is not what ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_prints_has_its_grace_where_a_terminal_is_closed() {
    const PRINTS: &str = "trap stopped=1 TERM; while [ -z $stopped ]; do echo on; sleep 0.02; done; \
                          for i in $(seq 50); do echo off; sleep 0.02; done; echo done";
    let mut host = HostProcess::start(&["--allow-native"]).await;
    let client = host.client();
    let control = host.control().to_string();
    let args = [
        "--host", &control, "run", "--native", "--name", "prints", "--grace", "1m", "--",
        "/bin/sh", "-c", PRINTS,
    ];
    let terminal = Terminal::start(skep_binary().to_str().unwrap(), &args, &[]);
    terminal.shows("on\non").await;
    assert_eq!(terminal.close().await.code(), Some(143));
    let ended = eventually("its end", || async {
        let agents = client.list_all(&AgentFilter::default()).await.unwrap();
        let mut agents = agents.into_iter();
        agents.find(|agent| agent.state == AgentState::Exited)
    })
    .await;
    assert_eq!(ended.outcome, Some(Outcome::Stopped { forced: false }));
    let logs = skep(&["--host", &control, "logs", "--tail", "1", "prints"]).await;
    assert_eq!(logs.stdout, "done\n");
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
}
