//! For how long, and how much of, what is over is kept.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use skep_client::protocol::info::StdinKind;
use skep_client::protocol::op::{GcReply, HostGc, Kept};
use skep_client::protocol::spec::{DirGrant, DirMode, Stdin};
use skep_client::protocol::{AgentId, ErrorCode, Outcome, Usage};
use skep_client::{AgentFilter, Client};
use skep_host::state_dir::Claim;
use skep_host::store::{Born, Change, Ended, Known, Reply, Spawned, Store};
use skep_protocol::info::Enforcement;
use skep_protocol::{AgentSpec, Digest, Enforced, Limits, RequestId};
use skep_tests::{HostProcess, TestHost, eventually, guest, probe, run, soon, spec};

use crate::command::skep;
use crate::{refusal, refused, running, written};

const ALL: HostGc = HostGc {
    older_than_ms: Some(0),
    components: true,
    dry_run: false,
};

async fn kept(client: &Client) -> Kept {
    client.stats().await.unwrap().kept.unwrap()
}

async fn ended(client: &Client, args: &[&str]) -> AgentId {
    run(client, probe(args)).await.info.id
}

async fn agents(client: &Client) -> Vec<AgentId> {
    let all = client.list_all(&AgentFilter::default()).await.unwrap();
    all.iter().map(|agent| agent.id).collect()
}

/// Asserts that of those that ended in this order the first are gone, and says
/// how many are left.
async fn newest(client: &Client, in_order: &[AgentId]) -> usize {
    let left = agents(client).await;
    let there: Vec<_> = in_order.iter().map(|agent| left.contains(agent)).collect();
    assert!(there.is_sorted(), "not the oldest are gone: {there:?}");
    there.iter().filter(|there| **there).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_forgotten_at_their_age_oldest_first() {
    let mut host = HostProcess::start(&["--set", "capacity.max_ended_age=3s"]).await;
    let client = host.client();
    let runs = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, runs).await;
    let mut in_order = Vec::new();
    for _ in 0..4 {
        in_order.push(ended(&client, &["lines", "100"]).await);
    }
    eventually("the first forgotten", || async {
        (newest(&client, &in_order).await < 4).then_some(())
    })
    .await;
    for _ in 0..3 {
        in_order.push(ended(&client, &["lines", "100"]).await);
    }
    // They grow older while nobody is there to see it.
    host.kill_9();
    host.start_again().await;
    eventually("all forgotten", || async {
        (newest(&client, &in_order).await == 0).then_some(())
    })
    .await;
    for agent in &in_order {
        refused(client.get(*agent).await, ErrorCode::NotFound);
    }
    // The one that ran ended with its host, and grows old since then.
    eventually("the last forgotten", || async {
        agents(&client).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(kept(&client).await.history_bytes, 0);
    let logs = host.state_dir().join("logs");
    eventually("no logs", || async {
        let entries = std::fs::read_dir(&logs).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let of_agents = names.filter(|name| name.parse::<AgentId>().is_ok());
        (of_agents.count() == 0).then_some(())
    })
    .await;
    host.kill_9();
    host.start_again().await;
    assert_eq!(agents(&client).await, []);
    assert!(host.panics().is_empty());
}

/// Those that live print more than all may remember: that is no reason to forget
/// what came of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_ended_is_there_however_much_others_print() {
    const BOUND: u64 = 8 << 20;
    let set = format!("capacity.history_bytes={BOUND}");
    let host = HostProcess::start(&["--set", &set]).await;
    let client = host.client();
    let mut hogs = Vec::new();
    for _ in 0..2 {
        let mut hog = probe(&["flood", "18446744073709551615"]);
        hog.limits.output_history_bytes = Some(BOUND / 4 * 3);
        hogs.push(client.spawn(hog, None).await.unwrap().id);
    }
    let mut in_order = Vec::new();
    let mut printed = [0; 2];
    while printed.iter().any(|printed| *printed < 200) {
        in_order.push(ended(&client, &["lines", "10"]).await);
        for (hog, printed) in hogs.iter().zip(&mut printed) {
            *printed = client.get(*hog).await.unwrap().next_seq;
        }
    }
    for _ in 0..20 {
        in_order.push(ended(&client, &["lines", "10"]).await);
    }
    assert_eq!(newest(&client, &in_order).await, in_order.len());
    for agent in &in_order {
        let info = client.get(*agent).await.unwrap();
        assert_eq!(
            (info.outcome, info.next_seq),
            (Some(Outcome::Exited { code: 0 }), 10)
        );
    }
    // Of one that has just ended all is there that it printed within a fair share.
    let last = ended(&client, &["lines", "10000"]).await;
    let output = client.output(last, None, 0, None).await.unwrap();
    assert_eq!((output.expired, output.records[0].seq), (None, 0));
    let held = kept(&client).await;
    assert!(
        held.history_bytes <= held.max_history_bytes / 8 * 9,
        "{held:?}"
    );
    assert!(host.panics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gc_removes_what_it_said_it_would() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let unused = client.upload(&guest("hello")).await.unwrap();
    let mut old = Vec::new();
    for lines in ["1", "100", "3000"] {
        old.push(ended(&client, &["lines", lines]).await);
    }
    host.kill_9();
    host.start_again().await;
    // Of this host there are some as well, and one that runs.
    let mut leaves = probe(&["write", "/left", "something"]);
    leaves.grants.scratch = true;
    old.push(run(&client, leaves).await.info.id);
    let runs = client.spawn(probe(&["until-stop"]), None).await.unwrap();
    let used = running(&client, runs.id).await.spec.component.unwrap();
    // What it prints counts as well, and is all there from here on.
    written(&client, runs.id, 1).await;
    let before = kept(&client).await;
    assert_eq!((before.ended_agents, before.components), (4, 2));
    assert_eq!(before.components_used, 1);
    assert!(
        before.store_bytes > 0 && before.oldest_ended_ms.is_some(),
        "{before:?}"
    );

    // None is that old.
    let none = GcReply {
        agents: 0,
        bytes: 0,
        components: 0,
        component_bytes: 0,
    };
    for older_than_ms in [None, Some(3_600_000), Some(u64::MAX)] {
        let young = HostGc {
            older_than_ms,
            components: false,
            dry_run: false,
        };
        assert_eq!(client.gc(&young).await.unwrap(), none);
    }
    let dry = HostGc {
        dry_run: true,
        ..ALL
    };
    let would = client.gc(&dry).await.unwrap();
    assert_eq!((would.agents, would.components), (4, 1));
    assert!(
        would.bytes > 10_000 && would.component_bytes > 0,
        "{would:?}"
    );
    assert_eq!(newest(&client, &old).await, 4);
    client.stat_component(unused).await.unwrap();

    assert_eq!(client.gc(&ALL).await.unwrap(), would);
    assert_eq!(client.gc(&ALL).await.unwrap(), none);
    let after = kept(&client).await;
    assert_eq!((after.ended_agents, after.oldest_ended_ms), (0, None));
    let of_agents = before.history_bytes - after.history_bytes;
    assert!(before.files_bytes > 0, "{before:?}");
    assert_eq!(of_agents + before.files_bytes, would.bytes);
    eventually("no files that agents left", || async {
        (kept(&client).await.files_bytes == 0).then_some(())
    })
    .await;
    assert_eq!(
        before.component_bytes - after.component_bytes,
        would.component_bytes
    );
    assert_eq!(agents(&client).await, [runs.id]);
    refused(client.stat_component(unused).await, ErrorCode::NotFound);
    client.stat_component(used).await.unwrap();
    // What it uses goes once it has ended; then nothing is left, for good.
    client.stop(runs.id, None).await.unwrap();
    soon("its end", client.wait(runs.id, None)).await.unwrap();
    let rest = client.gc(&ALL).await.unwrap();
    assert_eq!((rest.agents, rest.components), (1, 1));
    host.kill_9();
    host.start_again().await;
    let after = kept(&client).await;
    assert_eq!(
        (after.ended_agents, after.components, after.history_bytes),
        (0, 0, 0)
    );
    refused(client.stat_component(used).await, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_what_is_kept_and_what_went() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    ended(&client, &["lines", "5"]).await;
    let ran = skep(&["gc", "--host", &control]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut lines = ran.stdout.lines();
    assert_eq!(
        lines.next(),
        Some("removed 0 ended agents with 0 B, 0 components with 0 B")
    );
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["KEPT", "NOW", "BOUND"]
    );
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row, ["ended", "agents", "1", "10,000"]);
    let all = [
        "gc",
        "--host",
        &control,
        "--older-than",
        "0s",
        "--components",
    ];
    let ran = skep(&[&all[..], &["--dry-run"]].concat()).await;
    assert!(
        ran.stdout.starts_with("would remove 1 ended agent with "),
        "{}",
        ran.stdout
    );
    let ran = skep(&[&all[..], &["--json"]].concat()).await;
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["removed"]["agents"], 1);
    assert_eq!(told["removed"]["components"], 1);
    assert_eq!(told["kept"]["ended_agents"], 0);
    host.end().await;
}

fn holds(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds(&path, text));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_was_handed_goes_with_its_end() {
    let mut host = HostProcess::start(&["--grace", "1s"]).await;
    let client = host.client();
    let secrets = ["sesame-of-the-env", "sesame-of-the-stdin"];
    let mut given = probe(&["until-stop"]);
    given.env.insert("TOKEN".to_owned(), secrets[0].to_owned());
    given.stdin = Stdin::Data(ByteBuf::from(secrets[1]));
    let agent = client.spawn(given, None).await.unwrap().id;
    let lost = {
        let mut given = probe(&["until-stop"]);
        given.env.insert("TOKEN".to_owned(), secrets[0].to_owned());
        client.spawn(given, None).await.unwrap().id
    };
    running(&client, agent).await;
    running(&client, lost).await;
    for secret in secrets {
        assert!(
            !holds(&host.state_dir(), secret).is_empty(),
            "it is looked for in the wrong place"
        );
    }
    client.stop(agent, None).await.unwrap();
    let info = soon("its end", client.wait(agent, None)).await.unwrap();
    host.kill_9();
    host.start_again().await;
    let outcome = soon("its end", client.wait(lost, None))
        .await
        .unwrap()
        .outcome;
    assert_eq!(outcome, Some(Outcome::HostLost));
    // What is shown of it is as it was.
    assert_eq!(client.get(agent).await.unwrap(), info);
    assert_eq!(info.spec.env, ["TOKEN"]);
    assert_eq!(info.spec.stdin, StdinKind::Data);
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    for secret in secrets {
        assert_eq!(holds(&host.state_dir(), secret), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_granted_the_state_directory() {
    let host = TestHost::with(|config| {
        config.dir_roots = vec!["/".into()];
    })
    .await;
    let client = host.client().await;
    let state = host.dir().canonicalize().unwrap();
    for dir in [
        state.clone(),
        state.join("logs"),
        state.parent().unwrap().to_owned(),
        "/".into(),
    ] {
        let mut asks = spec("hello", &[]);
        asks.grants.dirs = vec![DirGrant {
            host: dir.to_str().unwrap().to_owned(),
            guest: "/data".to_owned(),
            mode: DirMode::Ro,
        }];
        let refusal = refusal(client.spawn(asks, None).await);
        assert_eq!(refusal.code, ErrorCode::Denied, "{refusal}");
        assert!(refusal.message.contains("the host's state"), "{refusal}");
    }
    host.end().await;
}

/// A state directory of a host that had so many agents, all long ago.
async fn long_ago(dir: &Path, agents: usize) {
    let (store, _) = Store::open(dir, Claim::new(dir).unwrap()).unwrap();
    for number in 0..agents {
        let id = AgentId::random();
        let name = format!("old-{number}").parse().unwrap();
        let known = Known {
            generation: 3,
            fuel: 1,
            started_ms: Some(1),
            exited_ms: Some(2),
            outcome: Some(Outcome::Killed),
            receipt: None,
            usage: Usage::default(),
            next_seq: 0,
            asked_to_end: false,
            restart: None,
            failed_ms: Vec::new(),
        };
        let born = Born {
            spec: AgentSpec::named(name),
            limits: Limits::default(),
            enforced: Enforced::all(Enforcement::None),
            created_ms: 1,
        };
        let spawned = Spawned {
            id,
            name: born.spec.name.clone(),
            ticket: None,
            born,
            known: known.clone(),
        };
        let reply = Reply {
            id: RequestId::random(),
            request: Digest::of(b""),
            answer: Vec::new().into(),
            given_ms: 1,
        };
        store.note(Change::Spawned(Box::new(spawned), reply)).await;
        let bytes = 2048;
        store
            .note(Change::Ended(Box::new(Ended {
                id,
                bytes,
                has_secrets: false,
                known,
            })))
            .await;
    }
    store.close().await;
}

#[expect(clippy::print_stdout, reason = "how long it takes is worth knowing")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_goes_on_while_it_forgets_many() {
    const AGENTS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    long_ago(dir.path(), AGENTS).await;
    let state = dir.path().to_owned();
    let host = TestHost::with(move |config| {
        config.state_dir = state;
        config.capacity.max_ended = AGENTS;
    })
    .await;
    let client = host.client().await;
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    let (mut asked, mut amidst) = (0, 0);
    loop {
        let begun = Instant::now();
        let left = kept(&client).await.ended_agents;
        longest = longest.max(begun.elapsed());
        asked += 1;
        amidst += usize::from((1..AGENTS as u64).contains(&left));
        if left == 0 {
            break;
        }
        assert!(start.elapsed() < skep_tests::DEADLINE, "{left} are left");
    }
    let took = start.elapsed();
    println!("{AGENTS} forgotten in {took:?}: {asked} requests, the slowest took {longest:?}");
    assert!(amidst > 0, "nothing was answered before all were forgotten");
    // The last of them are counted no more, and on their way.
    eventually("no agents", || async {
        agents(&client).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(
        run(&client, spec("hello", &[])).await.outcome,
        Outcome::Exited { code: 0 }
    );
    host.end().await;
}
