//! Clients who ask for too much, too fast, or at the wrong time, and agents by
//! the thousand.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use skep_client::protocol::op::{ComponentPut, WhenFull};
use skep_client::protocol::spec::{ComponentRef, Stdin};
use skep_client::protocol::{AgentSpec, AgentState, Digest, Outcome};
use skep_client::{Client, ClientError};
use skep_protocol::ErrorCode;
use skep_tests::hostile::core_module;
use skep_tests::raw::{Raw, new_id, request};
use skep_tests::{DEADLINE, end_of, eventually, guest, probe, run, soon, spec};
use tokio::task::JoinSet;

use super::{NEIGHBOURS, Scene};
use crate::{PROMPTLY, refused, running, written};

fn chunk(bytes: &[u8], from: usize, to: usize) -> ComponentPut {
    ComponentPut {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        offset: from as u64,
        data: ByteBuf::from(&bytes[from..to]),
    }
}

fn by_digest(bytes: &[u8]) -> AgentSpec {
    let mut spec = spec("echo", &[]);
    spec.component = Some(ComponentRef::Digest(Digest::of(bytes)));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_upload_is_resumed() {
    let scene = Scene::set().await;
    let bytes = guest("echo");
    let middle = bytes.len() / 2;
    let leaver = scene.host().client();
    leaver
        .put_component(&chunk(&bytes, 0, middle))
        .await
        .unwrap();
    leaver.connection().close().await;

    let client = scene.client().await;
    refused(
        client.spawn(by_digest(&bytes), None).await,
        ErrorCode::NotFound,
    );
    // Somebody else's bytes under this digest are found out, and cost nothing
    // but the upload.
    let mut wrong = chunk(&bytes, middle, bytes.len());
    wrong.data[0] ^= 1;
    refused(
        client.put_component(&wrong).await,
        ErrorCode::DigestMismatch,
    );
    let reply = client.put_component(&chunk(&bytes, 0, middle)).await;
    assert_eq!(reply.unwrap().received, middle as u64);
    let reply = client
        .put_component(&chunk(&bytes, middle, bytes.len()))
        .await
        .unwrap();
    assert!(reply.complete, "{reply:?}");
    let ended = run(&client, by_digest(&bytes)).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_uploads_of_one_digest_are_one_component() {
    let scene = Scene::set().await;
    let client = scene.client().await;
    let compiled = client.stats().await.unwrap().compile_misses;
    let (bytes, mut uploading) = (guest("echo"), JoinSet::new());
    for _ in 0..8 {
        let (client, bytes) = (scene.host().client(), bytes.clone());
        uploading.spawn(async move {
            client.upload(&bytes).await.unwrap();
            run(&client, by_digest(&bytes)).await.outcome
        });
    }
    while let Some(ended) = soon("an upload", uploading.join_next()).await {
        assert_eq!(ended.unwrap(), Outcome::Exited { code: 0 });
    }
    let compiled = client.stats().await.unwrap().compile_misses - compiled;
    assert_eq!(compiled, 1, "compilations of one component");
    scene.end().await;
}

const REJECT: Option<WhenFull> = Some(WhenFull::Reject);

/// Starts as many as it is let; the others are refused for want of room.
async fn flood(client: Client, count: usize, when_full: Option<WhenFull>) -> (usize, usize) {
    let sleeper = by_digest_of_probe(&["sleep", "600000"]);
    let mut spawning = JoinSet::new();
    for _ in 0..count {
        let (client, sleeper) = (client.clone(), sleeper.clone());
        spawning.spawn(async move { client.spawn(sleeper, when_full).await });
    }
    let (mut taken, mut refused) = (0, 0);
    while let Some(spawned) = soon("an answer", spawning.join_next()).await {
        match spawned.unwrap() {
            Ok(_) => taken += 1,
            Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::Capacity => {
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (taken, refused)
}

fn by_digest_of_probe(args: &[&str]) -> AgentSpec {
    let mut spec = probe(args);
    spec.component = Some(ComponentRef::Digest(Digest::of(&guest("probe"))));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_spawns_at_once_leave_room_for_others() {
    const SPAWNS: usize = 10_000;
    const MAX: usize = 200;
    let scene = Scene::with(&["--max-agents", &MAX.to_string()]).await;
    let client = scene.client().await;
    client.upload(&guest("probe")).await.unwrap();
    let flooding = tokio::spawn(flood(scene.host().client(), SPAWNS, REJECT));
    let other = scene.host().client();
    let mut longest = Duration::ZERO;
    while !flooding.is_finished() {
        let start = std::time::Instant::now();
        match other
            .spawn(by_digest_of_probe(&["exit", "0"]), REJECT)
            .await
        {
            Ok(agent) => drop(other.wait(agent.id, Some(DEADLINE)).await.unwrap()),
            other => refused(other, ErrorCode::Capacity),
        }
        longest = longest.max(start.elapsed());
    }
    let (taken, turned_away) = flooding.await.unwrap();
    assert_eq!(taken + turned_away, SPAWNS);
    assert!(taken <= MAX && turned_away >= SPAWNS - MAX, "{taken}");
    // A second is promised.
    assert!(longest < 10 * PROMPTLY, "{longest:?}");
    end_all(&client, "probe").await;
    scene.end().await;
}

/// Kills and forgets all of this name.
async fn end_all(client: &Client, name: &str) {
    let filter = skep_client::AgentFilter {
        name: Some(name.parse().unwrap()),
        ..skep_client::AgentFilter::default()
    };
    for agent in client.list_all(&filter).await.unwrap() {
        // The neighbours are of that name too.
        if agent.spec.args.first().map(String::as_str) != Some("tick") {
            client.kill(agent.id).await.unwrap();
            client.forget(agent.id).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_nobody_reads_is_bounded() {
    const PUSH: usize = 512 * 1024;
    let scene = Scene::set().await;
    let client = scene.client().await;
    let mut sleeper = probe(&["sleep", "600000"]);
    sleeper.stdin = Stdin::Open;
    let agent = client.spawn(sleeper, None).await.unwrap().id;
    running(&client, agent).await;
    let mut taken = 0;
    for _ in 0..100 {
        taken += client.stdin(agent, &[b'x'; PUSH], false).await.unwrap();
    }
    assert_eq!(taken, 1024 * 1024);
    for _ in 0..2 {
        client.close_stdin(agent).await.unwrap();
    }
    let killed = client.kill(agent).await.unwrap();
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    client.forget(agent).await.unwrap();
    scene.end().await;
}

/// Ends when the clock shows that time.
fn until(end: SystemTime) -> AgentSpec {
    let end_ns = end.duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let imports = r#"
        (import "wasi_snapshot_preview1" "clock_time_get"
            (func $time (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))"#;
    // A subscription to the monotonic clock: its id at 64, its time at 88.
    let start = format!(
        "(drop (call $time (i32.const 0) (i64.const 1) (i32.const 32))) \
         (if (i64.lt_u (i64.load (i32.const 32)) (i64.const {end_ns})) (then \
            (i32.store (i32.const 80) (i32.const 1)) \
            (i64.store (i32.const 88) (i64.sub (i64.const {end_ns}) (i64.load (i32.const 32)))) \
            (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)) \
                (then unreachable)))) \
         (call $write (i32.const 1024) (i32.const 4))"
    );
    core_module(imports, b"now\n", &start)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_end_in_the_same_tick_are_all_told() {
    const AGENTS: usize = 1000;
    let scene = Scene::with(&["--max-agents", "1100"]).await;
    let client = scene.client().await;
    // Late enough for most of them to be there.
    let spec = until(SystemTime::now() + Duration::from_secs(8));
    let mut living = JoinSet::new();
    for _ in 0..AGENTS {
        let agent = client.spawn(spec.clone(), None).await.unwrap().id;
        let client = client.clone();
        living.spawn(async move {
            let ended = client.wait(agent, Some(DEADLINE)).await.unwrap();
            let page = client.output(agent, None, 0, None).await.unwrap();
            client.forget(agent).await.unwrap();
            (ended.outcome.unwrap(), page.records[0].data.clone())
        });
    }
    for _ in 0..AGENTS {
        let (outcome, line) = soon("an end", living.join_next()).await.unwrap().unwrap();
        assert_eq!(
            (outcome, &line[..]),
            (Outcome::Exited { code: 0 }, &b"now"[..])
        );
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_has_compiled_is_no_component() {
    let scene = Scene::set().await;
    let client = scene.client().await;
    let entries = scene.host().compiled();
    assert!(!entries.is_empty());
    for entry in entries {
        // After what the host puts before it, wasmtime's own.
        let code = entry.windows(4).position(|bytes| bytes == b"\x7fELF");
        let genuine = entry[code.unwrap()..].to_vec();
        for bytes in [entry, genuine] {
            let digest = Digest::of(&bytes);
            let mut inline = spec("hello", &[]);
            inline.component = Some(ComponentRef::Data(ByteBuf::from(bytes.clone())));
            refused(
                client.spawn(inline, None).await,
                ErrorCode::InvalidComponent,
            );
            // As bytes it may lie there, and does not run.
            client.upload(&bytes).await.unwrap();
            assert_eq!(client.stat_component(digest).await.unwrap().kind, "blob");
            let mut uploaded = spec("hello", &[]);
            uploaded.component = Some(ComponentRef::Digest(digest));
            refused(
                client.spawn(uploaded, None).await,
                ErrorCode::InvalidComponent,
            );
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pauses_lose_no_line() {
    const AGENTS: usize = 10;
    const PAUSES: usize = 1000;
    let scene = Scene::set().await;
    let mut pausing = JoinSet::new();
    for _ in 0..AGENTS {
        let client = scene.host().client();
        pausing.spawn(async move {
            let ticker = by_digest_of_probe(&["tick", "1000000000", "1", "line"]);
            let agent = client.spawn(ticker, None).await.unwrap().id;
            let before = running(&client, agent).await.generation;
            for number in 1..=PAUSES as u64 {
                let held = client.pause(agent).await.unwrap();
                assert_eq!(held.state, AgentState::Paused);
                let on = client.resume(agent).await.unwrap();
                assert_eq!(on.state, AgentState::Running);
                assert_eq!(on.generation, before + 2 * number);
            }
            let enough = client.get(agent).await.unwrap().next_seq + 10;
            written(&client, agent, enough).await;
            client.kill(agent).await.unwrap();
            let ended = end_of(&client, agent).await;
            assert_eq!(ended.outcome, Outcome::Killed);
            for (number, record) in ended.output.records.iter().enumerate() {
                assert_eq!(record.data, format!("line {}", number + 1).as_bytes());
            }
            client.forget(agent).await.unwrap();
        });
    }
    while let Some(ended) = soon("a thousand pauses", pausing.join_next()).await {
        ended.unwrap();
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_wait_hold_up_nobody_and_can_be_ended() {
    const SPAWNS: usize = 10_000;
    const MAX_QUEUED: usize = 2000;
    let max_agents = (2 * NEIGHBOURS + 4).to_string();
    let max_queued = MAX_QUEUED.to_string();
    let scene = Scene::with(&["--max-agents", &max_agents, "--max-queued", &max_queued]).await;
    let client = scene.client().await;
    client.upload(&guest("probe")).await.unwrap();
    let flooding = tokio::spawn(flood(scene.host().client(), SPAWNS, None));
    let other = scene.host().client();
    let mut longest = Duration::ZERO;
    while !flooding.is_finished() {
        let start = std::time::Instant::now();
        other.health().await.unwrap();
        longest = longest.max(start.elapsed());
    }
    let (taken, turned_away) = flooding.await.unwrap();
    assert_eq!(taken + turned_away, SPAWNS);
    assert_eq!(
        client.health().await.unwrap().agents.queued,
        MAX_QUEUED as u64
    );
    assert!(longest < 10 * PROMPTLY, "{longest:?}");
    end_all(&client, "probe").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_are_bounded_and_hold_up_nobody() {
    const WAITS: usize = 8192;
    let scene = Scene::set().await;
    let client = scene.client().await;
    let agent = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap();
    let agent = agent.id;
    running(&client, agent).await;
    let mut waiting = Raw::connect(&scene.host().control()).await;
    let body = json!({"agent": agent.to_string(), "timeout_ms": 3_600_000});
    let ask = |op: &str, body: &Value| {
        let id = new_id();
        (request(&id, op, body.clone()), id)
    };
    // Those who leave wait no more.
    let mut leaving = Raw::connect(&scene.host().control()).await;
    for _ in 0..WAITS {
        leaving.send(ask("agent.wait", &body).0).await;
    }
    let answer = leaving.ask(ask("agent.wait", &body).0).await;
    assert_eq!(answer.code(), "rate_limited");
    drop(leaving);
    let moment = json!({"agent": agent.to_string(), "timeout_ms": 1});
    eventually("places of those who left", || async {
        let mut comes = Raw::connect(&scene.host().control()).await;
        let answer = comes.ask(ask("agent.wait", &moment).0).await;
        answer.ok().then_some(())
    })
    .await;
    let mut ids = HashSet::new();
    for _ in 0..WAITS {
        let (request, id) = ask("agent.wait", &body);
        waiting.send(request).await;
        ids.insert(id);
    }
    let (one_more, id) = ask("agent.wait", &body);
    let answer = waiting.ask(one_more).await;
    assert_eq!((answer.code(), answer.id()), ("rate_limited", id.as_str()));
    // Others are answered, and end what all of them wait for.
    let short = by_digest_of_probe(&["sleep", "600000"]);
    let short = client.spawn(short, None).await.unwrap().id;
    client.stop(short, None).await.unwrap();
    client.kill(agent).await.unwrap();
    for _ in 0..WAITS {
        let answer = waiting.answer().await;
        assert_eq!(answer.body()["agent"]["outcome"]["kind"], "killed");
        assert!(ids.remove(answer.id()), "{}", answer.id());
    }
    client.wait(short, Some(DEADLINE)).await.unwrap();
    for agent in [agent, short] {
        client.forget(agent).await.unwrap();
    }
    scene.end().await;
}
