//! Agents that wait for their turn: in which order it comes, who ends before
//! it does, and what they wait for.

use std::time::Instant;

use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use skep_client::protocol::spec::{ComponentRef, Stdin};
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec, AgentState, Outcome};
use skep_client::{AgentFilter, Client};
use skep_protocol::ErrorCode;
use skep_protocol::info::QueueInfo;
use skep_protocol::op::WhenFull;
use skep_tests::{
    HostProcess, Resources, TestHost, end_of, eventually, guest, probe, run, soon, spec,
};
use tokio::task::JoinSet;

use crate::command::skep;
use crate::{PROMPTLY, ended, refusal, refused, running};

const MIB: u64 = 1024 * 1024;

/// A host with room for one agent at a time.
async fn narrow() -> TestHost {
    TestHost::with(|config| config.capacity.max_agents = 1).await
}

fn sleeper() -> AgentSpec {
    probe(&["sleep", "600000"])
}

async fn spawn(client: &Client, spec: AgentSpec) -> AgentInfo {
    client.spawn(spec, None).await.unwrap()
}

async fn position(client: &Client, agent: AgentId) -> Option<u64> {
    let info = client.get(agent).await.unwrap();
    info.queue.map(|queue| queue.position)
}

fn with_memory(mut spec: AgentSpec, bytes: u64) -> AgentSpec {
    spec.limits.memory_bytes = Some(bytes);
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_come_in_the_order_of_arrival() {
    let host = narrow().await;
    let client = host.client().await;
    let first = spawn(&client, sleeper()).await;
    assert_eq!((first.state, first.queue), (AgentState::Starting, None));
    let mut agents = Vec::new();
    for place in 1..=6_u64 {
        let agent = spawn(&client, spec("hello", &[])).await;
        assert_eq!(agent.state, AgentState::Queued);
        // None has ended yet by whose time it could be told.
        let queue = QueueInfo {
            position: place,
            estimated_wait_ms: None,
        };
        assert_eq!(
            (agent.queue, agent.generation, agent.started_ms),
            (Some(queue), 0, None)
        );
        agents.push(agent.id);
    }
    assert_eq!(client.health().await.unwrap().agents.queued, 6);
    // One gives up: those behind it move up.
    let killed = client.kill(agents.remove(1)).await.unwrap();
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    for (place, agent) in agents.iter().enumerate() {
        assert_eq!(position(&client, *agent).await, Some(place as u64 + 1));
    }

    client.kill(first.id).await.unwrap();
    let mut before = 0;
    for agent in agents {
        let info = ended(&client, agent).await;
        assert_eq!(info.outcome, Some(Outcome::Exited { code: 0 }));
        assert_eq!((info.queue, info.generation), (None, 3));
        let started = info.started_ms.unwrap();
        assert!(started >= before, "{started} after {before}");
        before = info.exited_ms.unwrap();
        assert_eq!(
            end_of(&client, agent).await.output.stdout(),
            "Hello, world!\n"
        );
    }
    assert_eq!(client.health().await.unwrap().agents.queued, 0);

    // Now something is known.
    spawn(&client, sleeper()).await;
    let waits = spawn(&client, spec("hello", &[])).await;
    assert!(waits.queue.unwrap().estimated_wait_ms.is_some());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_can_be_ended_and_the_host_can_end() {
    let host = narrow().await;
    let client = host.client().await;
    let runs = spawn(&client, sleeper()).await;
    let stopped = spawn(&client, spec("hello", &[])).await;
    spawn(&client, spec("hello", &[])).await;

    // Nothing of it runs that could be held.
    for declined in [
        client.pause(stopped.id).await,
        client.resume(stopped.id).await,
        client.refuel(stopped.id, 1).await,
    ] {
        let refusal = refusal(declined);
        assert_eq!(refusal.code, ErrorCode::WrongState, "{refusal}");
        assert_eq!(refusal.details.state.as_deref(), Some("queued"));
    }

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { end_of(&client, stopped.id).await }
    });
    let told = client.stop(stopped.id, None).await.unwrap();
    assert_eq!(told.outcome, Some(Outcome::Stopped { forced: false }));
    assert_eq!((told.started_ms, told.queue), (None, None));
    let seen = soon("who follows it", waiting).await.unwrap();
    assert_eq!(seen.outcome, Outcome::Stopped { forced: false });
    assert!(seen.output.records.is_empty());
    client.forget(stopped.id).await.unwrap();

    // Who waits for its turn is left to the next host, and whoever would end it now
    // is told so.
    let (runs, ()) = tokio::join!(ended(&client, runs.id), async {
        // Answered after the host has taken it.
        client.health().await.unwrap();
        host.end().await;
    });
    assert_eq!(runs.outcome, Some(Outcome::Stopped { forced: true }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_says_how_full_it_is() {
    let host = TestHost::with(|config| {
        config.capacity.max_agents = 1;
        config.capacity.max_queued = 2;
    })
    .await;
    let client = host.client().await;
    let runs = spawn(&client, sleeper()).await;
    let rejected = refusal(client.spawn(sleeper(), Some(WhenFull::Reject)).await);
    assert_eq!(rejected.details.queued, Some(0));
    spawn(&client, sleeper()).await;
    let last = spawn(&client, sleeper()).await;
    for when_full in [None, Some(WhenFull::Queue), Some(WhenFull::Reject)] {
        let refusal = refusal(client.spawn(sleeper(), when_full).await);
        assert_eq!(refusal.code, ErrorCode::Capacity, "{refusal}");
        let details = refusal.details;
        assert_eq!((details.running, details.max), (Some(1), Some(1)));
        assert_eq!(details.queued, Some(2));
    }
    // Each that leaves makes room for one.
    client.kill(last.id).await.unwrap();
    assert_eq!(spawn(&client, sleeper()).await.queue.unwrap().position, 2);
    refused(client.spawn(sleeper(), None).await, ErrorCode::Capacity);
    client.kill(runs.id).await.unwrap();
    assert_eq!(spawn(&client, sleeper()).await.queue.unwrap().position, 2);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_an_agent_begins_with_its_turn() {
    let host = narrow().await;
    let client = host.client().await;
    let runs = spawn(&client, sleeper()).await;
    let mut short = probe(&["until-stop"]);
    short.limits.wall_ms = Some(5000);
    let agent = spawn(&client, short).await;
    let spawned = client.health().await.unwrap().uptime_ms;
    eventually("more time than it has", || async {
        let now = client.health().await.unwrap().uptime_ms;
        (now > spawned + 5200).then_some(())
    })
    .await;
    assert_eq!(position(&client, agent.id).await, Some(1));
    client.kill(runs.id).await.unwrap();
    let info = ended(&client, agent.id).await;
    assert_eq!(info.outcome, Some(Outcome::Deadline { limit_ms: 5000 }));
    assert!(info.started_ms.is_some());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_waits_is_given_no_stdin_yet() {
    let host = narrow().await;
    let client = host.client().await;
    let runs = spawn(&client, sleeper()).await;
    let mut open = spec("echo", &[]);
    open.stdin = Stdin::Open;
    let agent = spawn(&client, open).await.id;
    let mut given = spec("echo", &[]);
    given.stdin = Stdin::Data(ByteBuf::from(b"from the spec\n".to_vec()));
    let with_data = spawn(&client, given).await.id;

    assert_eq!(client.stdin(agent, b"early\n", true).await.unwrap(), 0);
    client.kill(runs.id).await.unwrap();
    soon("its stdin", client.write_all_stdin(agent, b"late\n", None))
        .await
        .unwrap();
    client.close_stdin(agent).await.unwrap();
    assert_eq!(end_of(&client, agent).await.output.stdout(), "late\n");
    let ended = end_of(&client, with_data).await;
    assert_eq!(ended.output.stdout(), "from the spec\n");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_memory_that_add_up_to_too_much_wait() {
    let host = TestHost::with(|config| {
        config.capacity.memory_bytes = 64 * MIB;
        config.capacity.memory_overcommit = 2;
        config.ceilings.memory_bytes = 256 * MIB;
    })
    .await;
    let client = host.client().await;
    let first = spawn(&client, with_memory(sleeper(), 96 * MIB)).await;
    let second = spawn(&client, with_memory(sleeper(), 32 * MIB)).await;
    assert_eq!(second.state, AgentState::Starting);
    let third = spawn(&client, with_memory(sleeper(), 64 * MIB)).await;
    assert_eq!(third.queue.unwrap().position, 1);
    client.kill(second.id).await.unwrap();
    // There is room for this one, but not past the one that came before.
    let small = spawn(&client, with_memory(sleeper(), 16 * MIB)).await;
    assert_eq!(small.queue.unwrap().position, 2);
    refused(
        client
            .spawn(with_memory(sleeper(), MIB * 16), Some(WhenFull::Reject))
            .await,
        ErrorCode::Capacity,
    );
    // Its turn would never come.
    refused(
        client
            .spawn(with_memory(sleeper(), 128 * MIB + 1), None)
            .await,
        ErrorCode::Capacity,
    );
    client.kill(first.id).await.unwrap();
    running(&client, third.id).await;
    running(&client, small.id).await;
    host.end().await;
}

/// A component that takes so many pages of memory and keeps them.
fn keeper(pages: u64) -> AgentSpec {
    let component = format!(
        r#"(component
            (core module $m
                (memory {pages})
                (func (export "run") (result i32) (loop $l br $l) unreachable))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    );
    let mut spec = spec("hello", &[]);
    spec.component = Some(ComponentRef::Data(ByteBuf::from(
        wat::parse_str(component).unwrap(),
    )));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_agents_together_use_no_more_memory_than_the_host_gives() {
    let host = TestHost::with(|config| config.capacity.memory_bytes = 80 * MIB).await;
    let client = host.client().await;
    let keeps = spawn(&client, keeper(640)).await;
    running(&client, keeps.id).await;
    assert_eq!(
        client.get(keeps.id).await.unwrap().usage.memory_bytes,
        40 * MIB
    );

    // Refused by the host, within its own limit.
    let ended = run(&client, probe(&["alloc"])).await;
    let Outcome::OutOfMemory {
        limit_bytes,
        asked_bytes,
    } = ended.outcome
    else {
        panic!("{:?}", ended.outcome)
    };
    assert!(limit_bytes == 64 * MIB && asked_bytes <= limit_bytes);
    assert!(ended.info.usage.memory_peak_bytes <= 40 * MIB);
    // Not even made.
    let refused = run(&client, keeper(641)).await.outcome;
    let Outcome::StartFailed { code, message } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(code, ErrorCode::Capacity, "{message}");
    // The twin fits to the byte.
    let fits = spawn(&client, keeper(640)).await;
    running(&client, fits.id).await;
    client.kill(fits.id).await.unwrap();

    // With the others gone it is its own limit again.
    client.kill(keeps.id).await.unwrap();
    let ended = run(&client, probe(&["alloc"])).await;
    let Outcome::OutOfMemory { asked_bytes, .. } = ended.outcome else {
        panic!("{:?}", ended.outcome)
    };
    assert!(asked_bytes > 64 * MIB, "{asked_bytes}");
    assert!(ended.info.usage.memory_peak_bytes > 40 * MIB);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_spawns_at_once_wait_or_are_refused_and_others_are_answered() {
    const MANY: usize = 10_000;
    const WAIT: usize = 9_000;
    let queued = WAIT.to_string();
    let host = HostProcess::start(&["--max-agents", "4", "--max-queued", &queued]).await;
    let client = host.client();
    let digest = client.upload(&guest("probe")).await.unwrap();
    let sleeper = move || AgentSpec {
        component: Some(ComponentRef::Digest(digest)),
        ..sleeper()
    };
    let before = Resources::of(host.pid());
    let mut spawning = JoinSet::new();
    for _ in 0..MANY {
        let (client, spec) = (client.clone(), sleeper());
        spawning.spawn(async move { client.spawn(spec, None).await });
    }
    // Another client among them.
    let other = host.client();
    let asked = Instant::now();
    let reply = other.spawn(sleeper(), None).await;
    assert!(asked.elapsed() < 10 * PROMPTLY, "{:?}", asked.elapsed());
    let (mut accepted, mut refusals) = (usize::from(reply.is_ok()), usize::from(reply.is_err()));
    while let Some(spawned) = soon("ten thousand answers", spawning.join_next()).await {
        match spawned.unwrap() {
            Ok(_) => accepted += 1,
            failed => {
                let refusal = refusal(failed);
                assert_eq!(refusal.code, ErrorCode::Capacity, "{refusal}");
                refusals += 1;
            }
        }
    }
    assert_eq!((accepted, refusals), (WAIT + 4, MANY + 1 - WAIT - 4));

    let filter = AgentFilter {
        states: Some(vec![AgentState::Queued]),
        ..AgentFilter::default()
    };
    let queued = soon("the list", other.list_all(&filter)).await.unwrap();
    let mut places: Vec<u64> = (queued.iter())
        .map(|agent| agent.queue.unwrap().position)
        .collect();
    places.sort_unstable();
    assert!(places.into_iter().eq(1..=WAIT as u64));
    let grown = Resources::of(host.pid()).resident - before.resident;
    assert!(grown < WAIT as u64 * 32 * 1024, "{grown} bytes for {WAIT}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_shows_who_waits_and_waits_with_them() {
    let host = narrow().await;
    let client = host.client().await;
    let runs = spawn(&client, sleeper()).await;
    let at = host.control().to_string();
    let hello = crate::command::prebuilt("hello");
    let command = async |args: &[&str]| skep(&[&["--host", &at], args].concat()).await;

    let refused = command(&["spawn", "--no-queue", &hello]).await;
    assert_eq!(refused.code, Some(125), "{}", refused.stderr);
    assert!(refused.stderr.contains("(capacity)"), "{}", refused.stderr);
    let spawned = command(&["spawn", &hello]).await;
    let agent = spawned.stdout.trim().to_owned();
    let table = command(&["ps"]).await.stdout;
    assert!(table.contains("queued, place 1"), "{table}");
    let inspected = command(&["inspect", &agent]).await.stdout;
    assert!(inspected.contains("queue        place 1"), "{inspected}");
    let shown = command(&["--json", "inspect", &agent]).await.stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["queue"], json!({ "position": 1 }));

    let waiting = crate::command::start(&["--host", &at, "wait", &agent]);
    let following = crate::command::start(&["--host", &at, "logs", "-f", &agent]);
    let here = crate::command::start(&["run", "--host", &at, &hello, "you"]);
    eventually("the run in the queue", || async {
        (client.health().await.unwrap().agents.queued == 2).then_some(())
    })
    .await;
    client.kill(runs.id).await.unwrap();
    let waited = crate::command::ended(waiting).await;
    assert_eq!(
        (waited.code, waited.stdout.as_str()),
        (Some(0), "exited 0\n")
    );
    let followed = crate::command::ended(following).await;
    assert_eq!(followed.stdout, "Hello, world!\n");
    let ran = crate::command::ended(here).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Hello, you!\n"));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_memory_that_a_host_takes_is_enough_for_one() {
    let host = HostProcess::start(&["--set", "capacity.memory_bytes=2MiB"]).await;
    let client = host.client();
    for _ in 0..3 {
        let ended = run(&client, spec("hello", &[])).await;
        assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    }
}
