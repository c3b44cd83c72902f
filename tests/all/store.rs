//! The store of a host: the order of those who wait, and what becomes of it where it is
//! damaged, gone, or has no room.

use std::path::PathBuf;

use serde_bytes::ByteBuf;
use skep_client::AgentFilter;
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentSpec, ErrorCode, Outcome};
use skep_protocol::Digest;
use skep_protocol::op::ComponentPut;
use skep_tests::{HostProcess, TestHost, eventually, guest, probe, spec};

use crate::disk::Disk;
use crate::{ended, refused, running, written};

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

/// A probe that was uploaded before.
fn of_component(known: Digest, args: &[&str]) -> AgentSpec {
    let mut spec = probe(args);
    spec.component = Some(ComponentRef::Digest(known));
    spec
}

/// What it acknowledged would be known to no later host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_that_is_not_in_its_place_refuses_newcomers_and_heals() {
    let host = HostProcess::start(&[]).await;
    let client = host.client();
    let known = client.upload(&guest("probe")).await.unwrap();
    let of_known = |args: &[&str]| of_component(known, args);
    let ends = client
        .spawn(of_known(&["until-stop"]), None)
        .await
        .unwrap()
        .id;
    running(&client, ends).await;
    let (there, away) = (host.state_dir(), host.state_dir().with_extension("away"));
    std::fs::rename(&there, &away).unwrap();
    for replaced in [false, true] {
        if replaced {
            std::fs::create_dir(&there).unwrap();
        }
        let spawned = client.spawn(of_known(&["env"]), None).await;
        let error = spawned.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable), "{error}");
        let health = client.health().await.unwrap();
        let told = |told: &str| {
            health
                .reasons
                .iter()
                .any(|reason| reason.message.contains(told))
        };
        assert!(!health.healthy && told("put it back"), "{health:?}");
    }
    // Who is there goes on, is told about, and ends.
    client.stop(ends, None).await.unwrap();
    let outcome = ended(&client, ends).await.outcome;
    assert_eq!(outcome, Some(Outcome::Stopped { forced: false }));
    std::fs::remove_dir_all(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    let after = eventually("a spawn once it is back", || async {
        client.spawn(of_known(&["env"]), None).await.ok()
    })
    .await;
    ended(&client, after.id).await;
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
    let of_known = |args: &[&str]| of_component(known, args);
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
