//! Processes under the same contract, through the real binary as their shim.

mod jail;
mod programs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use skep_client::protocol::spec::Stdin;
use skep_client::protocol::{ErrorCode, Outcome, RunnerKind};
use skep_client::{FollowOptions, LogItem};
use skep_host::config::Native;
use skep_tests::{TestHost, end_of, eventually, native, processes_with, run, sh, soon};

use crate::{PROMPTLY, quiet, refusal, running, written};

pub(crate) async fn host() -> TestHost {
    host_with(&[]).await
}

async fn host_with(programs: &[&str]) -> TestHost {
    let programs = programs.iter().map(PathBuf::from).collect();
    TestHost::with(|config| {
        config.native = Some(Native {
            programs,
            user: None,
        });
    })
    .await
}

/// A number that stands on no other command line, for `sleep`.
fn mark() -> String {
    let unique = uuid::Uuid::new_v4().as_u128() % 1_000_000_000;
    format!("9{unique:09}.5")
}

/// Asserts that nothing of that mark is left, now and later.
fn gone(mark: &str) {
    assert_eq!(
        processes_with(mark),
        Vec::<u32>::new(),
        "processes were left behind"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_prints_and_ends_with_its_code() {
    let host = host().await;
    let client = host.client().await;
    assert_eq!(
        client.hello().await.unwrap().runners,
        [RunnerKind::Wasm, RunnerKind::Native]
    );
    for code in [0, 7, 255] {
        let ended = run(&client, sh(&format!("echo out; echo err >&2; exit {code}"))).await;
        assert_eq!(ended.outcome, Outcome::Exited { code });
        assert_eq!(
            (ended.output.stdout(), ended.output.stderr()),
            ("out\n".into(), "err\n".into())
        );
        assert_eq!(ended.info.runner, RunnerKind::Native);
    }
    let ended = run(&client, sh("head -c 1000000 /dev/zero")).await;
    assert_eq!(
        ended
            .output
            .records
            .iter()
            .map(|record| record.data.len())
            .sum::<usize>(),
        1_000_000
    );
    quiet(&client).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_reads_its_stdin() {
    let host = host().await;
    let client = host.client().await;
    let ended = run(&client, native(&["/bin/cat"])).await;
    assert_eq!(
        (ended.outcome, ended.output.stdout()),
        (Outcome::Exited { code: 0 }, String::new())
    );
    let mut given = native(&["/usr/bin/wc", "-c"]);
    given.stdin = Stdin::Data(ByteBuf::from(vec![b'x'; 1_000_000]));
    assert_eq!(run(&client, given).await.output.stdout().trim(), "1000000");

    let mut cat = native(&["/bin/cat"]);
    cat.stdin = Stdin::Open;
    let agent = client.spawn(cat, None).await.unwrap().id;
    let mut log = client.follow(agent, FollowOptions::default());
    for line in ["one", "two"] {
        client
            .stdin(agent, format!("{line}\n").as_bytes(), false)
            .await
            .unwrap();
        let answer = soon("an answer", log.next()).await.unwrap();
        let Some(LogItem::Record(record)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(record.data, line.as_bytes());
    }
    client.close_stdin(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(
        refusal(client.stdin(agent, b"x", false).await).code,
        ErrorCode::WrongState
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_inherited() {
    let host = host().await;
    let client = host.client().await;
    let mut env = native(&["/usr/bin/env"]);
    env.name = "asker".parse().unwrap();
    env.task = "look around".to_owned();
    env.env = BTreeMap::from([("A".into(), "b=c".into()), ("EMPTY".into(), String::new())]);
    let ended = run(&client, env).await;
    let stdout = ended.output.stdout();
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "A=b=c",
            "EMPTY=",
            "SKEP_NAME=asker",
            "SKEP_TASK=look around"
        ]
    );

    // The fourth is that of the directory which is being listed.
    let ended = run(&client, native(&["/bin/ls", "/proc/self/fd"])).await;
    assert_eq!(
        ended.output.stdout().lines().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    let ended = run(
        &client,
        sh("ps -o pgid=,sid= -p $$; echo $$; grep NoNewPrivs /proc/self/status"),
    )
    .await;
    let stdout = ended.output.stdout();
    let lines: Vec<_> = stdout.lines().collect();
    let [group, session] = lines[0].split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{stdout}")
    };
    assert_eq!(group, lines[1], "it leads no group of its own");
    // That of the host has no number where the agent cannot see it, and agents stay in it
    // where the kernel would share the processors by session.
    assert!(
        [lines[1], "0"].contains(&session),
        "it is in another's session"
    );
    assert_eq!(lines[2], "NoNewPrivs:\t1");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_ends_the_whole_tree() {
    let host = host().await;
    let client = host.client().await;
    let mark = mark();
    // One child, one that was forked twice into a group of its own, all deaf
    // to SIGTERM.
    let script = format!(
        "trap '' TERM HUP; (timeout 9999 sh -c \"trap '' TERM; sleep {mark}\" >/dev/null 2>&1 &) & \
         sleep {mark} & sleep {mark} & echo ready; wait"
    );
    let agent = client.spawn(sh(&script), None).await.unwrap().id;
    written(&client, agent, 1).await;
    eventually("the whole tree", || {
        let found = processes_with(&mark);
        // The script itself, the inner shell and three that sleep.
        async move { (found.len() >= 4).then_some(()) }
    })
    .await;
    let start = Instant::now();
    let killed = client.kill(agent).await.unwrap();
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    gone(&mark);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_ends_with_its_first_process() {
    let host = host().await;
    let client = host.client().await;
    let mark = mark();
    // A grandchild holds stdout open.
    let script = format!("(timeout 9999 sleep {mark} &); echo done; exit 3");
    let ended = run(&client, sh(&script)).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 3 });
    assert_eq!(ended.output.stdout(), "done\n");
    gone(&mark);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_a_sigterm_and_then_a_kill() {
    let host = host().await;
    let client = host.client().await;
    let polite = "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.05; done";
    let agent = client.spawn(sh(polite), None).await.unwrap().id;
    written(&client, agent, 1).await;
    client.stop(agent, None).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Stopped { forced: false });
    assert_eq!(ended.output.stdout(), "ready\nbye\n");

    // Without a handler it ends by the signal: that is what was asked for.
    let agent = client
        .spawn(native(&["/bin/sleep", "1000"]), None)
        .await
        .unwrap()
        .id;
    running(&client, agent).await;
    let stopped = client.stop(agent, None).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: false }));

    let mark = mark();
    let deaf = format!("trap '' TERM; echo ready; sleep {mark} & while true; do wait; done");
    let agent = client.spawn(sh(&deaf), None).await.unwrap().id;
    written(&client, agent, 1).await;
    let (start, grace) = (Instant::now(), Duration::from_millis(300));
    let stopped = client.stop(agent, Some(grace)).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: true }));
    let took = start.elapsed();
    assert!(took >= grace && took < grace + PROMPTLY, "{took:?}");
    gone(&mark);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_and_a_deadline_are_told_as_such() {
    let host = host().await;
    let client = host.client().await;
    for signal in [6, 9, 11, 15] {
        let ended = run(&client, sh(&format!("kill -{signal} $$"))).await;
        assert_eq!(ended.outcome, Outcome::Signaled { signal });
    }
    let mut slow = native(&["/bin/sleep", "1000"]);
    slow.limits.wall_ms = Some(300);
    let ended = run(&client, slow).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 300 });
    host.end().await;
}
