//! What outlives a host: agents, their ends and logs, components, answers.

use std::path::PathBuf;

use serde_bytes::ByteBuf;
use skep_client::protocol::event::Stream;
use skep_client::protocol::{AgentId, AgentState, ErrorCode, Outcome};
use skep_client::{AgentFilter, Client};
use skep_protocol::codec::encode_request;
use skep_protocol::op::{AgentSpawn, ComponentPut};
use skep_protocol::{AgentSpec, Digest, RequestId};
use skep_tests::{
    HostProcess, TestHost, end_of, eventually, guest, native, probe, processes_with, spec,
};

use crate::disk::Disk;
use crate::raw::Raw;
use crate::{ended, refused, running, written};

async fn stdout(client: &Client, agent: AgentId) -> String {
    let output = client.output(agent, None, 0, None).await.unwrap();
    assert_eq!(output.expired, None);
    let lines = output.records.iter();
    lines
        .filter(|record| record.stream == Stream::Stdout)
        .map(|record| format!("{}\n", String::from_utf8_lossy(&record.data)))
        .collect()
}

fn named(name: &str, mut spec: AgentSpec) -> AgentSpec {
    spec.name = name.parse().unwrap();
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_killed_comes_back_with_all_it_had_promised() {
    let mut host = HostProcess::start(&["--max-agents", "2", "--allow-native"]).await;
    let client = host.client();
    // Two that have ended, one of them with more than a small log.
    let small = named("small", spec("hello", &[]));
    let small = client.spawn(small, None).await.unwrap().id;
    let small = ended(&client, small).await;
    let large = client
        .spawn(probe(&["lines", "2000"]), None)
        .await
        .unwrap()
        .id;
    let large = ended(&client, large).await;
    // One whose answer was lost.
    let request = RequestId::random();
    let spawn = AgentSpawn {
        spec: named("repeated", probe(&["lines", "1"])),
        when_full: None,
    };
    let payload = encode_request(request, &spawn).unwrap();
    let first = Raw::connect(&host.control())
        .await
        .ask(payload.clone())
        .await;
    let repeated: AgentId = first.body()["agent"]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    ended(&client, repeated).await;
    // Two that run.
    let mark = format!("8{:09}.25", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let process = client
        .spawn(native(&["/bin/sleep", &mark]), None)
        .await
        .unwrap()
        .id;
    let running_one = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, process).await;
    let seen = running(&client, running_one).await;
    written(&client, running_one, 1).await;
    // Some that wait, of a component that was deleted since.
    let mut queued = Vec::new();
    for number in 0..4 {
        let mut waiting = named(&format!("waits-{number}"), probe(&["env"]));
        waiting.env.insert("NUMBER".to_owned(), number.to_string());
        let info = client.spawn(waiting, None).await.unwrap();
        assert_eq!(info.state, AgentState::Queued);
        queued.push(info);
    }
    let component = queued[0].spec.component.unwrap();
    client.remove_component(component).await.unwrap();
    // An upload that is under way.
    let uploaded = guest("echo");
    let digest = Digest::of(&uploaded);
    let half = uploaded.len() / 2;
    let part = |offset: usize, data: &[u8]| ComponentPut {
        digest,
        size: uploaded.len() as u64,
        offset: offset as u64,
        data: ByteBuf::from(data),
    };
    let put = client
        .put_component(&part(0, &uploaded[..half]))
        .await
        .unwrap();
    assert_eq!((put.received, put.complete), (half as u64, false));

    host.kill_9();
    host.start_again().await;

    // Nothing of those that ran is left, and that is told.
    let lost = ended(&client, running_one).await;
    assert_eq!(lost.outcome, Some(Outcome::HostLost));
    assert!(lost.generation > seen.generation, "{lost:?}");
    assert_eq!((lost.created_ms, lost.next_seq), (seen.created_ms, 1));
    assert_eq!(stdout(&client, running_one).await, "ready\n");
    assert_eq!(
        ended(&client, process).await.outcome,
        Some(Outcome::HostLost)
    );
    eventually("no process of the host before", || async {
        processes_with(&mark).is_empty().then_some(())
    })
    .await;
    // Those that had ended are as they were.
    assert_eq!(client.get(small.id).await.unwrap(), small);
    assert_eq!(client.get(large.id).await.unwrap(), large);
    assert_eq!(stdout(&client, small.id).await, "Hello, world!\n");
    let all = end_of(&client, large.id).await;
    assert_eq!(all.output.stdout().lines().count(), 2000);
    let filter = AgentFilter {
        name: Some("small".parse().unwrap()),
        ..AgentFilter::default()
    };
    assert_eq!(
        client.list_all(&filter).await.unwrap(),
        std::slice::from_ref(&small)
    );
    refused(client.pause(small.id).await, ErrorCode::WrongState);
    // Those that waited run, with what they were given.
    for (number, before) in queued.iter().enumerate() {
        let after = ended(&client, before.id).await;
        assert_eq!(after.outcome, Some(Outcome::Exited { code: 0 }));
        assert_eq!(
            (&after.name, after.created_ms),
            (&before.name, before.created_ms)
        );
        let text = stdout(&client, before.id).await;
        assert!(text.contains(&format!("NUMBER={number}")), "{text}");
    }
    // The component they were made of is deleted at last.
    refused(client.stat_component(component).await, ErrorCode::NotFound);
    // The answer that was lost is given again, and nothing done.
    let again = Raw::connect(&host.control()).await.ask(payload).await;
    assert_eq!(again, first);
    // The upload goes on from where it was.
    let put = client.put_component(&part(0, &[])).await.unwrap();
    assert_eq!((put.received, put.complete), (half as u64, false));
    let put = client
        .put_component(&part(half, &uploaded[half..]))
        .await
        .unwrap();
    assert!(put.complete);
    // All are listed once, those of this host and those of the one before.
    let mut ids: Vec<_> = [small.id, large.id, repeated, running_one, process].into();
    ids.extend(queued.iter().map(|agent| agent.id));
    ids.sort_unstable();
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = client.list(&AgentFilter::default(), after).await.unwrap();
        listed.extend(page.agents.iter().map(|agent| agent.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ids);

    // What is forgotten stays so; all else is there once more.
    client.forget(small.id).await.unwrap();
    refused(client.get(small.id).await, ErrorCode::NotFound);
    let queued_after = client.get(queued[1].id).await.unwrap();
    host.kill_9();
    host.start_again().await;
    refused(client.get(small.id).await, ErrorCode::NotFound);
    assert_eq!(client.get(large.id).await.unwrap(), large);
    assert_eq!(client.get(queued[1].id).await.unwrap(), queued_after);
    let lost_still = client.get(running_one).await.unwrap();
    assert_eq!(lost_still, lost);
    // The component that was put is there, its bytes too.
    let mut of_upload = spec("echo", &["hi"]);
    of_upload.component = Some(skep_client::protocol::spec::ComponentRef::Digest(digest));
    let echo = client.spawn(of_upload, None).await.unwrap().id;
    assert_eq!(
        ended(&client, echo).await.outcome,
        Some(Outcome::Exited { code: 0 })
    );
    assert!(host.panics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_waits_again_in_the_same_order() {
    let mut host = HostProcess::start(&["--max-agents", "1"]).await;
    let client = host.client();
    let first = client.spawn(probe(&["until-stop"]), None).await.unwrap();
    running(&client, first.id).await;
    let blocks = client.spawn(probe(&["until-stop"]), None).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(client.spawn(probe(&["env"]), None).await.unwrap().id);
    }
    // One of them has had enough.
    client.kill(waiting.remove(3)).await.unwrap();
    for _ in 0..2 {
        host.kill_9();
        host.start_again().await;
        if client.get(blocks.id).await.unwrap().outcome.is_none() {
            running(&client, blocks.id).await;
            for (place, agent) in (1..).zip(&waiting) {
                let info = client.get(*agent).await.unwrap();
                assert_eq!(info.queue.unwrap().position, place);
            }
            let newcomer = client.spawn(probe(&["env"]), None).await.unwrap();
            let place = newcomer.queue.unwrap().position;
            assert_eq!(place, waiting.len() as u64 + 1);
            waiting.push(newcomer.id);
        }
    }
    let mut started = Vec::new();
    for agent in &waiting {
        started.push(ended(&client, *agent).await.started_ms.unwrap());
    }
    assert!(started.is_sorted(), "{started:?}");
    for lost in [first.id, blocks.id] {
        let outcome = client.get(lost).await.unwrap().outcome;
        assert_eq!(outcome, Some(Outcome::HostLost));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_ended_in_order_leaves_nothing_lost() {
    let mut host = HostProcess::start(&["--grace", "1s"]).await;
    let client = host.client();
    let polite = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, polite).await;
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    host.start_again().await;
    let info = ended(&client, polite).await;
    assert_eq!(info.outcome, Some(Outcome::Stopped { forced: false }));
    assert_eq!(stdout(&client, polite).await, "ready\nstopping\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_bounds_hold_for_agents_of_hosts_before() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("skep.toml");
    std::fs::write(&config, "[capacity]\nmax_ended = 3\n").unwrap();
    let mut host = HostProcess::start(&["--config", config.to_str().unwrap()]).await;
    let client = host.client();
    let mut agents = Vec::new();
    for round in 0..3 {
        for _ in 0..2 {
            let agent = client
                .spawn(probe(&["lines", "100"]), None)
                .await
                .unwrap()
                .id;
            ended(&client, agent).await;
            agents.push(agent);
        }
        let kept = agents.len().min(3);
        eventually("the oldest forgotten", || async {
            let all = client.list_all(&AgentFilter::default()).await.unwrap();
            (all.len() == kept).then_some(())
        })
        .await;
        host.kill_9();
        host.start_again().await;
        for (number, agent) in agents.iter().enumerate() {
            let there = number + kept >= agents.len();
            assert_eq!(client.get(*agent).await.is_ok(), there, "{round}: {number}");
        }
        let directories = std::fs::read_dir(host.state_dir().join("logs")).unwrap();
        let of_agents = directories
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<AgentId>().is_ok());
        assert!(of_agents.count() <= agents.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_set_aside_and_named() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let mut writes = probe(&["write", "/result", "worth keeping"]);
    writes.grants.scratch = true;
    let agent = client.spawn(writes, None).await.unwrap();
    ended(&client, agent.id).await;
    host.kill_9();
    let file = host.state_dir().join("state.db");
    // What was written last is beside it, and would mend it.
    std::fs::remove_file(file.with_extension("db-wal")).unwrap();
    std::fs::write(&file, vec![7; 20_000]).unwrap();
    host.start_again().await;
    refused(client.get(agent.id).await, ErrorCode::NotFound);
    let log = host.log();
    let aside = format!("{}.corrupt-", file.display());
    assert!(log.contains("WARN") && log.contains(&aside), "{log}");
    // What its agents left is not taken for nobody's.
    let entries = std::fs::read_dir(host.state_dir()).unwrap();
    let scratch = (entries.map(|entry| entry.unwrap().path()))
        .find(|path| path.display().to_string().contains("/scratch.corrupt-"));
    let result = scratch.unwrap().join(agent.id.to_string()).join("result");
    assert_eq!(std::fs::read(result).unwrap(), b"worth keeping");
    let agent = client.spawn(spec("hello", &[]), None).await.unwrap();
    assert_eq!(
        ended(&client, agent.id).await.outcome,
        Some(Outcome::Exited { code: 0 })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_takes_nothing_with_it() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let agent = client.spawn(probe(&["lines", "2000"]), None).await.unwrap();
    ended(&client, agent.id).await;
    host.kill_9();
    for beside in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(host.state_dir().join(format!("state.db{beside}")));
    }
    host.start_again().await;
    refused(client.get(agent.id).await, ErrorCode::NotFound);
    let log = host.log();
    assert!(log.contains("WARN") && log.contains("it is empty"), "{log}");
    let entries = std::fs::read_dir(host.state_dir()).unwrap();
    let logs = (entries.map(|entry| entry.unwrap().path()))
        .find(|path| path.display().to_string().contains("/logs.corrupt-"));
    assert!(logs.unwrap().join(agent.id.to_string()).is_dir());
}

/// The file of a component.
fn file_of(host: &HostProcess, digest: Digest) -> PathBuf {
    let digest = digest.to_string();
    let name = digest.trim_start_matches("sha256:");
    host.state_dir().join("components").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_that_brings_its_component_mends_it() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let bytes = guest("hello");
    let digest = client.upload(&bytes).await.unwrap();
    let by_digest = || {
        let mut spec = spec("hello", &[]);
        spec.component = Some(skep_client::protocol::spec::ComponentRef::Digest(digest));
        spec
    };
    host.kill_9();
    let file = file_of(&host, digest);
    std::fs::write(&file, vec![0; bytes.len()]).unwrap();
    host.start_again().await;
    let brought = client.spawn(spec("hello", &[]), None).await.unwrap();
    let brought = ended(&client, brought.id).await;
    assert_eq!(brought.outcome, Some(Outcome::Exited { code: 0 }));
    assert_eq!(brought.spec.component, Some(digest));
    host.kill_9();
    assert!(std::fs::read(&file).unwrap() == bytes);
    host.start_again().await;
    let agent = client.spawn(by_digest(), None).await.unwrap();
    let outcome = ended(&client, agent.id).await.outcome;
    assert_eq!(outcome, Some(Outcome::Exited { code: 0 }));
    // One whose file is gone is not said to be there.
    host.kill_9();
    std::fs::remove_file(&file).unwrap();
    host.start_again().await;
    refused(client.stat_component(digest).await, ErrorCode::NotFound);
    refused(client.spawn(by_digest(), None).await, ErrorCode::NotFound);
    assert_eq!(client.upload(&bytes).await.unwrap(), digest);
    let agent = client.spawn(by_digest(), None).await.unwrap();
    let outcome = ended(&client, agent.id).await.outcome;
    assert_eq!(outcome, Some(Outcome::Exited { code: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_record_cannot_be_read_is_in_nobodys_way() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let mut agents = Vec::new();
    for mark in ["first-mark", "-", "second-mark"] {
        let mut spec = match mark {
            "second-mark" => probe(&["until-stop"]),
            _ => spec("hello", &[]),
        };
        spec.task = mark.to_owned();
        agents.push(client.spawn(spec, None).await.unwrap().id);
    }
    let [ended_one, other, open] = agents[..] else {
        unreachable!()
    };
    ended(&client, ended_one).await;
    running(&client, open).await;
    ended(&client, other).await;
    // What is written down goes to the file once the host is quiet.
    let file = host.state_dir().join("state.db");
    let log = file.with_extension("db-wal");
    eventually("all in one file", || async {
        (std::fs::metadata(&log).unwrap().len() == 0).then_some(())
    })
    .await;
    host.kill_9();
    let mut bytes = std::fs::read(&file).unwrap();
    for mark in ["first-mark", "second-mark"] {
        let found: Vec<_> = (0..bytes.len() - mark.len())
            .filter(|&at| bytes[at..].starts_with(mark.as_bytes()))
            .collect();
        assert!(!found.is_empty(), "{mark}");
        for at in found {
            bytes[at..at + mark.len()].fill(0xff);
        }
    }
    std::fs::write(&file, &bytes).unwrap();
    for _ in 0..2 {
        host.start_again().await;
        let all = client.list_all(&AgentFilter::default()).await.unwrap();
        let listed: Vec<_> = all.iter().map(|agent| agent.id).collect();
        assert_eq!(listed, [other]);
        for agent in [ended_one, open] {
            let error = client.get(agent).await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable));
            assert!(error.to_string().contains("another build"), "{error}");
        }
        // What it printed is there, for a build that can read the record.
        let logs = host.state_dir().join("logs");
        assert!(std::fs::read_dir(logs).unwrap().count() > 0);
        host.kill_9();
    }
    host.start_again().await;
    for agent in [ended_one, open] {
        client.forget(agent).await.unwrap();
        refused(client.get(agent).await, ErrorCode::NotFound);
    }
    host.kill_9();
    host.start_again().await;
    for agent in [ended_one, open] {
        refused(client.get(agent).await, ErrorCode::NotFound);
    }
    client.get(other).await.unwrap();
    assert!(host.panics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_newcomers_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("state"), 4 * 1024 * 1024) else {
        return;
    };
    let start = || {
        let state = disk.path().to_owned();
        TestHost::with(move |config| config.state_dir = state)
    };
    let host = start().await;
    let client = host.client().await;
    let known = client.upload(&guest("probe")).await.unwrap();
    let of_known = |args: &[&str]| {
        let mut spec = probe(args);
        spec.component = Some(skep_client::protocol::spec::ComponentRef::Digest(known));
        spec
    };
    let goes_on = client
        .spawn(of_known(&["tick", "1000000", "20"]), None)
        .await
        .unwrap()
        .id;
    let ends = client
        .spawn(of_known(&["until-stop"]), None)
        .await
        .unwrap()
        .id;
    running(&client, ends).await;
    written(&client, goes_on, 1).await;
    let filler = disk.fill();
    eventually("a spawn that is refused", || async {
        let spawned = client.spawn(of_known(&["env"]), None).await;
        match spawned {
            // The log may have had room.
            Ok(agent) => {
                ended(&client, agent.id).await;
                None
            }
            Err(error) => {
                assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable), "{error}");
                assert!(error.to_string().contains("state directory"), "{error}");
                Some(())
            }
        }
    })
    .await;
    let health = client.health().await.unwrap();
    assert!(
        !health.healthy
            && health
                .reasons
                .iter()
                .any(|reason| reason.message.contains("store")),
        "{health:?}"
    );
    // So is what would be kept.
    let other = guest("log-errors");
    let put = ComponentPut {
        digest: Digest::of(&other),
        size: other.len() as u64,
        offset: 0,
        data: ByteBuf::from(&other[..other.len() - 1]),
    };
    refused(
        client.put_component(&put).await,
        ErrorCode::StorageUnavailable,
    );
    // Those that are there go on, are told about, and end.
    let before = client.get(goes_on).await.unwrap().next_seq;
    written(&client, goes_on, before + 5).await;
    client.stop(ends, None).await.unwrap();
    assert_eq!(
        ended(&client, ends).await.outcome,
        Some(Outcome::Stopped { forced: false })
    );

    std::fs::remove_file(&filler).unwrap();
    let after = eventually("a spawn once there is room again", || async {
        client.spawn(of_known(&["env"]), None).await.ok()
    })
    .await;
    assert_eq!(
        ended(&client, after.id).await.outcome,
        Some(Outcome::Exited { code: 0 })
    );
    assert!(client.health().await.unwrap().healthy);
    assert!(client.put_component(&put).await.is_ok());
    client.kill(goes_on).await.unwrap();
    host.end().await;

    // What ended while nothing could be written is known to the next host.
    let host = start().await;
    let client = host.client().await;
    assert_eq!(
        ended(&client, ends).await.outcome,
        Some(Outcome::Stopped { forced: false })
    );
    assert_eq!(ended(&client, goes_on).await.outcome, Some(Outcome::Killed));
    host.end().await;
}
