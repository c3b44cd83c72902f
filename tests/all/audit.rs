//! The record of who asked for what: whole, bounded, and without what was handed
//! to an agent.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep_client::protocol::op::HostGc;
use skep_client::protocol::spec::Stdin;
use skep_client::protocol::{AgentId, Digest, ErrorCode, Outcome};
use skep_host::config::Audit;
use skep_tests::raw::{Raw, new_id, request};
use skep_tests::{HostProcess, TestHost, end_of, eventually, probe, run, spec};

use crate::{refused, running};

fn lines_of(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last may be under way.
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn lines(state: &Path) -> Vec<Value> {
    lines_of(&state.join("audit/audit.jsonl"))
}

/// Waits until a line like this is there.
async fn line(state: &Path, like: &Value) -> Value {
    eventually(&format!("a line like {like}"), || async {
        let is_like = |line: &Value| {
            let wanted = like.as_object().unwrap();
            wanted.iter().all(|(key, value)| line[key] == *value)
        };
        lines(state).into_iter().find(is_like)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_and_every_refusal_is_told() {
    const SECRET: &str = "correct-horse-battery-staple";
    let host = TestHost::start().await;
    let (client, state) = (host.client().await, host.dir().to_owned());
    let mut ticker = probe(&["tick", "1000000", "1000", SECRET]);
    ticker.env.insert("TOKEN".to_owned(), SECRET.to_owned());
    ticker.task = SECRET.to_owned();
    ticker.context = SECRET.to_owned();
    ticker.stdin = Stdin::Open;
    ticker.limits.fuel = Some(5_000_000_000);
    ticker.grants.scratch = true;
    let name = ticker.name.to_string();
    let agent = client.spawn(ticker, None).await.unwrap();
    let id = agent.id.to_string();
    running(&client, agent.id).await;
    client
        .stdin(agent.id, SECRET.as_bytes(), false)
        .await
        .unwrap();
    client.pause(agent.id).await.unwrap();
    client.refuel(agent.id, 7).await.unwrap();
    client.resume(agent.id).await.unwrap();
    client.kill(agent.id).await.unwrap();
    refused(client.pause(agent.id).await, ErrorCode::WrongState);
    client.forget(agent.id).await.unwrap();
    let nobody = AgentId::random();
    refused(client.kill(nobody).await, ErrorCode::NotFound);
    let stopped = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, stopped).await;
    client.stop(stopped, None).await.unwrap();
    let mut denied = spec("hello", &[]);
    denied.env.insert("KEY".to_owned(), SECRET.to_owned());
    denied.limits.memory_bytes = Some(1 << 60);
    refused(
        client.spawn(denied, None).await,
        ErrorCode::LimitExceedsCeiling,
    );
    let component = Digest::of(&skep_tests::guest("hello"));
    client.upload(&skep_tests::guest("hello")).await.unwrap();
    client.remove_component(component).await.unwrap();
    let gc = HostGc {
        older_than_ms: Some(3_600_000),
        components: false,
        dry_run: false,
    };
    client.gc(&gc).await.unwrap();
    let mut bare = Raw::connect(host.control()).await;
    bare.send(vec![0xc1; 100]).await;
    bare.answer().await;
    client.drain(Duration::ZERO).await.unwrap();

    let spawned = line(
        &state,
        &json!({"op": "agent.spawn", "agent": id, "result": "ok"}),
    )
    .await;
    assert_eq!(spawned["name"], name);
    assert_eq!(spawned["principal"], "local");
    assert_eq!(spawned["env"], json!(["TOKEN"]));
    assert_eq!(spawned["limits"]["fuel"], 5_000_000_000_u64);
    assert_eq!(spawned["scratch"], true);
    assert_eq!(
        spawned["component"],
        Digest::of(&skep_tests::guest("probe")).to_string()
    );
    assert!(spawned["id"].is_string() && spawned["duration_us"].is_u64());
    assert!(spawned["time"].as_str().unwrap().ends_with('Z'));
    for like in [
        json!({"op": "agent.stdin", "agent": id, "stdin_bytes": SECRET.len(), "result": "ok"}),
        json!({"op": "agent.pause", "agent": id, "result": "ok"}),
        json!({"op": "agent.refuel", "agent": id, "fuel": 7, "result": "ok"}),
        json!({"op": "agent.resume", "agent": id, "result": "ok"}),
        json!({"op": "agent.kill", "agent": id, "result": "ok"}),
        json!({"op": "agent.pause", "agent": id, "result": "wrong_state"}),
        json!({"op": "agent.forget", "agent": id, "result": "ok"}),
        json!({"op": "agent.kill", "agent": nobody.to_string(), "result": "not_found"}),
        json!({"op": "agent.stop", "agent": stopped.to_string(), "result": "ok"}),
        json!({"op": "agent.spawn", "env": ["KEY"], "result": "limit_exceeds_ceiling",
               "limit": "memory_bytes", "asked": 1_u64 << 60}),
        json!({"op": "component.put", "component": component.to_string(), "result": "ok"}),
        json!({"op": "component.remove", "component": component.to_string(), "result": "ok"}),
        json!({"op": "host.gc", "older_than_ms": 3_600_000, "result": "ok"}),
        json!({"op": "host.drain", "result": "ok"}),
        json!({"kind": "request", "result": "malformed"}),
    ] {
        line(&state, &like).await;
    }
    let _left = host.end_and_leave().await;
    let told = lines(&state);
    let reads = ["host.hello", "agent.get", "agent.wait", "host.health"];
    assert!(
        !told
            .iter()
            .any(|line| reads.iter().any(|read| line["op"] == *read))
    );
    assert_eq!(told.first().unwrap()["kind"], "started");
    assert_eq!(told.last().unwrap()["kind"], "ended");
    let path = state.join("audit/audit.jsonl");
    assert!(!std::fs::read_to_string(&path).unwrap().contains(SECRET));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_is_told_once() {
    let host = TestHost::start().await;
    let mut bare = Raw::connect(host.control()).await;
    let id = new_id();
    let body = json!({"agent": AgentId::random().to_string()});
    let request = request(&id, "agent.kill", body);
    let mut answers = Vec::new();
    for _ in 0..5 {
        bare.send(request.clone()).await;
        answers.push(bare.answer().await.bytes);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let state = host.dir().to_owned();
    let _left = host.end_and_leave().await;
    // Whose first answer took long was told to have begun before.
    let told = lines(&state)
        .into_iter()
        .filter(|line| line["id"] == id && line["result"] != "begun");
    assert_eq!(told.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_before_it_is_answered_is_told_when_it_begins() {
    let mut host = HostProcess::start(&[]).await;
    let (client, state) = (host.client(), host.state_dir());
    let agent = client.spawn(probe(&["spin"]), None).await.unwrap().id;
    running(&client, agent).await;
    let hour = Duration::from_secs(3600);
    let asked = [
        tokio::spawn({
            let client = client.clone();
            async move { client.stop(agent, Some(hour)).await.map(drop) }
        }),
        tokio::spawn({
            let client = client.clone();
            async move { client.drain(hour).await.map(drop) }
        }),
    ];
    let agent_id = agent.to_string();
    let stop =
        json!({"op": "agent.stop", "agent": agent_id, "grace_ms": 3_600_000, "result": "begun"});
    let begun = [
        line(&state, &stop).await,
        line(&state, &json!({"op": "host.drain", "result": "begun"})).await,
    ];
    assert!(asked.iter().all(|asked| !asked.is_finished()));
    client.kill(agent).await.unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    for begun in begun {
        line(&state, &json!({"id": begun["id"], "result": "ok"})).await;
    }
    host.kill_9();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_is_summed_up_and_every_one_counts() {
    const FLOOD: u64 = 20_000;
    let host = TestHost::start().await;
    let (client, state) = (host.client().await, host.dir().to_owned());
    let mut bare = Raw::connect(host.control()).await;
    for _ in 0..FLOOD / 100 {
        for _ in 0..100 {
            bare.send(vec![0xc1; 64]).await;
        }
        for _ in 0..100 {
            bare.answer().await;
        }
    }
    // Others are told as ever.
    let ended = run(&client, spec("hello", &[])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let id = ended.info.id.to_string();
    line(&state, &json!({"op": "agent.spawn", "agent": id})).await;
    let _left = host.end_and_leave().await;
    let told = lines(&state);
    let singly = told
        .iter()
        .filter(|line| line["result"] == "malformed")
        .count() as u64;
    let sums = told.iter().filter(|line| line["kind"] == "refusals");
    let summed: u64 = sums
        .map(|line| {
            assert_eq!(line["count"], line["codes"]["malformed"]);
            line["count"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(singly + summed, FLOOD);
    assert!(
        singly < FLOOD / 2 && told.len() < 10_000,
        "{singly} of {FLOOD}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_rotated_and_nothing_between_is_lost() {
    const REQUESTS: u64 = 1500;
    let host = TestHost::with(|config| {
        config.audit = Some(Audit {
            max_bytes: 64 * 1024,
            files: 3,
        });
    })
    .await;
    let (client, state) = (host.client().await, host.dir().to_owned());
    let mut echo = spec("echo", &[]);
    echo.stdin = Stdin::Open;
    let agent = client.spawn(echo, None).await.unwrap().id;
    running(&client, agent).await;
    for number in 0..REQUESTS {
        let bytes = vec![b'x'; usize::try_from(number % 100).unwrap()];
        client.stdin(agent, &bytes, false).await.unwrap();
    }
    client.stdin(agent, &[], true).await.unwrap();
    end_of(&client, agent).await;
    let _left = host.end_and_leave().await;
    let mut files: BTreeMap<String, u64> = BTreeMap::new();
    for entry in state.join("audit").read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.insert(name, entry.metadata().unwrap().len());
    }
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]);
    assert!(files.values().all(|bytes| *bytes <= 64 * 1024), "{files:?}");
    let told: Vec<Value> = (names.iter().rev())
        .flat_map(|name| lines_of(&state.join("audit").join(name)))
        .filter(|line| line["op"] == "agent.stdin")
        .collect();
    // The last is the one that closed it, and before it they count down.
    assert!(told.len() > 300, "{}", told.len());
    for (line, number) in told.iter().rev().skip(1).zip((0..REQUESTS).rev()) {
        assert_eq!(line["stdin_bytes"], number % 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_comes_after_one_that_was_killed_goes_on() {
    let mut host = HostProcess::start(&[]).await;
    let state = host.state_dir();
    let agent = host
        .client()
        .spawn(spec("hello", &[]), None)
        .await
        .unwrap()
        .id;
    line(
        &state,
        &json!({"op": "agent.spawn", "agent": agent.to_string()}),
    )
    .await;
    host.kill_9();
    host.start_again().await;
    let client = host.client();
    let second = client.spawn(spec("hello", &[]), None).await.unwrap().id;
    line(
        &state,
        &json!({"op": "agent.spawn", "agent": second.to_string()}),
    )
    .await;
    let told = lines(&state);
    assert!(told.iter().any(|line| line["agent"] == agent.to_string()));
    let started = told.iter().filter(|line| line["kind"] == "started");
    assert_eq!(started.count(), 2);
    // Without, there is none.
    let none = HostProcess::start(&["--set", "audit.enabled=false"]).await;
    run(&none.client(), spec("hello", &[])).await;
    assert!(!none.state_dir().join("audit").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_lines_stops_nobody() {
    let host = TestHost::with(|config| {
        let dir = config.state_dir.join("audit");
        std::fs::create_dir(&dir).unwrap();
        symlink("/dev/full", dir.join("audit.jsonl")).unwrap();
    })
    .await;
    let (client, state) = (host.client().await, host.dir().to_owned());
    let ended = run(&client, spec("hello", &[])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let reasons = eventually("a host that says so", || async {
        let health = client.health().await.unwrap();
        (!health.healthy).then_some(health.reasons)
    })
    .await;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.message.contains("audit")),
        "{reasons:?}"
    );
    std::fs::remove_file(state.join("audit/audit.jsonl")).unwrap();
    eventually("a host that has healed", || async {
        let health = client.health().await.unwrap();
        health.healthy.then_some(())
    })
    .await;
    // What was asked meanwhile is there.
    let id = ended.info.id.to_string();
    line(&state, &json!({"op": "agent.spawn", "agent": id})).await;
    assert_eq!(lines(&state)[0]["kind"], "started");
    host.end().await;
}
