//! What the next host makes of the agents that one has left: what waits goes on
//! waiting, what is kept running runs, and what was lost is told.

use std::path::Path;
use std::time::Duration;

use skep_client::ClientError;
use skep_client::protocol::op::{HealthReason, HostGc};
use skep_client::protocol::spec::{RestartPolicy, Stdin};
use skep_client::protocol::{AgentSpec, AgentState, ErrorCode, Outcome};
use skep_tests::{HostProcess, eventually, guest, probe, run, soon, spec, start_in_vain};

use crate::disk::Disk;
use crate::supervision::{again, between_runs, later, matter, with};
use crate::{ended, refused, running, shuts_down, written};

/// Components that no agent uses.
const UNUSED: HostGc = HostGc {
    older_than_ms: None,
    components: true,
    dry_run: false,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_ends_leaves_what_waits_and_what_is_kept_running() {
    let mut host = HostProcess::start(&["--max-agents", "3"]).await;
    let client = host.client();
    let spawn = async |spec| client.spawn(spec, None).await.unwrap().id;
    let once = spawn(probe(&["until-stop"])).await;
    let kept = with(
        probe(&["until-stop"]),
        again(RestartPolicy::OnFailure, None),
    );
    let kept = spawn(kept).await;
    let paced = with(probe(&["exit", "1"]), later(RestartPolicy::Always));
    let paced = spawn(paced).await;
    for agent in [once, kept] {
        written(&client, agent, 1).await;
    }
    let due_ms = between_runs(&client, paced)
        .await
        .restart
        .unwrap()
        .next_run_ms;
    let queued = [
        spawn(probe(&["lines", "2"])).await,
        spawn(probe(&["lines", "3"])).await,
    ];
    // Who waits for one of them waits for the next host.
    let waiting = tokio::spawn({
        let client = host.client();
        async move { client.wait(queued[1], None).await }
    });
    let watched = ended(&client, once);
    // Answered once the host has taken that.
    client.health().await.unwrap();
    host.terminate();
    assert_eq!(
        watched.await.outcome,
        Some(Outcome::Stopped { forced: false })
    );
    assert_eq!(host.ended().await.code(), Some(0));

    host.start_again().await;
    let back = running(&client, kept).await;
    assert_eq!((back.usage.restarts, back.outcome), (1, None));
    let restart = back.restart.unwrap();
    assert_eq!(
        (restart.last_outcome, restart.failures),
        (Outcome::Stopped { forced: false }, 0)
    );
    let still = between_runs(&client, paced).await.restart.unwrap();
    assert_eq!(still.failures, 1);
    assert!(still.next_run_ms.unwrap().abs_diff(due_ms.unwrap()) < 60_000);
    // There is room for one of the two.
    for (agent, lines) in queued.into_iter().zip([2, 3]) {
        let ended = ended(&client, agent).await;
        assert_eq!(ended.outcome, Some(Outcome::Exited { code: 0 }));
        assert_eq!(ended.next_seq, lines);
    }
    let waited = soon("who waited", waiting).await.unwrap().unwrap();
    assert_eq!(waited.outcome, Some(Outcome::Exited { code: 0 }));
    // A client's word is the last.
    for agent in [kept, paced] {
        client.stop(agent, None).await.unwrap();
    }
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    host.start_again().await;
    for agent in [once, kept, paced] {
        let outcome = client.get(agent).await.unwrap().outcome;
        assert_eq!(outcome, Some(Outcome::Stopped { forced: false }));
    }
    assert!(host.panics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_asked_to_end_is_not_run_again_by_the_next_host() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let deaf = || with(probe(&["spin"]), again(RestartPolicy::Always, None));
    let asked = client.spawn(deaf(), None).await.unwrap().id;
    let other = client.spawn(deaf(), None).await.unwrap().id;
    running(&client, asked).await;
    running(&client, other).await;
    let stopping = tokio::spawn({
        let client = host.client();
        async move { client.stop(asked, Some(Duration::from_secs(3600))).await }
    });
    eventually("its state is stopping", async || {
        let state = client.get(asked).await.unwrap().state;
        (state == AgentState::Stopping).then_some(())
    })
    .await;
    // Written down after that.
    run(&client, probe(&["exit", "0"])).await;
    host.kill_9();
    host.start_again().await;
    let lost = ended(&client, asked).await;
    assert_eq!(lost.outcome, Some(Outcome::HostLost));
    assert_eq!(lost.usage.restarts, 0);
    assert_eq!(running(&client, other).await.usage.restarts, 1);
    stopping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_left_to_the_next_host_takes_nothing_from_anyone() {
    let mut host = HostProcess::start(&["--max-agents", "2", "--grace", "10m"]).await;
    let client = host.client();
    let spawn = async |mut spec: AgentSpec| {
        spec.stdin = Stdin::Open;
        client.spawn(spec, None).await.unwrap().id
    };
    let deaf = spawn(probe(&["sleep", "600000"])).await;
    running(&client, deaf).await;
    let paced = with(probe(&["exit", "1"]), later(RestartPolicy::Always));
    let paced = spawn(paced).await;
    between_runs(&client, paced).await;
    let queued = spawn(probe(&["read-stdin"])).await;
    assert_eq!(client.get(queued).await.unwrap().state, AgentState::Queued);
    host.terminate();
    shuts_down(&client).await;
    // The host is there as long as one agent has its grace.
    for left in [paced, queued] {
        refused(client.pause(left).await, ErrorCode::ShuttingDown);
        refused(client.resume(left).await, ErrorCode::ShuttingDown);
        refused(client.refuel(left, 1).await, ErrorCode::ShuttingDown);
        refused(
            client.stdin(left, b"lost", true).await,
            ErrorCode::ShuttingDown,
        );
        refused(client.stop(left, None).await, ErrorCode::ShuttingDown);
        refused(client.kill(left).await, ErrorCode::ShuttingDown);
    }
    client.kill(deaf).await.unwrap();
    assert_eq!(host.ended().await.code(), Some(0));

    host.start_again().await;
    client
        .write_all_stdin(queued, b"taken", None)
        .await
        .unwrap();
    client.close_stdin(queued).await.unwrap();
    let outcome = ended(&client, queued).await.outcome;
    assert_eq!(outcome, Some(Outcome::Exited { code: 0 }));
    let output = client.output(queued, None, 0, None).await.unwrap();
    assert_eq!(output.records[0].data, b"5 bytes");
    between_runs(&client, paced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_vain_takes_nothing_away() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let mut spec = probe(&["write", "/note", "text"]);
    spec.grants.scratch = true;
    let left = run(&client, spec).await.info.id;
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    let audit = host.state_dir().join("audit");
    std::fs::rename(&audit, audit.with_extension("aside")).unwrap();
    std::fs::write(&audit, "in the way").unwrap();
    let said = start_in_vain("tcp://127.0.0.1:0", &host.state_dir()).await;
    assert!(said.contains("audit"), "{said}");
    std::fs::remove_file(&audit).unwrap();

    host.start_again().await;
    // It is kept again beside the first requests.
    let file = eventually("the file that it left", || async {
        client.file(left, "note", 0).await.ok()
    })
    .await;
    assert_eq!(file.data.as_slice(), b"text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_starts_on_a_full_disk_tells_how_agents_ended() {
    let mut host = HostProcess::start(&[]).await;
    host.terminate();
    host.ended().await;
    std::fs::remove_dir_all(host.state_dir()).unwrap();
    let Some(disk) = Disk::mount(&host.state_dir(), 4 * 1024 * 1024) else {
        return;
    };
    host.start_again().await;
    let client = host.client();
    let lost = client.spawn(probe(&["tick", "1000000", "20"]), None).await;
    let lost = lost.unwrap().id;
    written(&client, lost, 5).await;
    let filler = disk.fill();
    host.kill_9();
    for full in [true, false] {
        if !full {
            std::fs::remove_file(&filler).unwrap();
        }
        host.start_again().await;
        let told = ended(&client, lost).await;
        assert_eq!(told.outcome, Some(Outcome::HostLost), "full: {full}");
        let output = client.output(lost, None, 0, None).await.unwrap();
        assert!(output.end && output.expired.is_none());
        assert_eq!(output.records.len() as u64, told.next_seq);
        assert!(told.next_seq >= 5);
        host.kill_9();
    }
    assert!(host.panics().is_empty());
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_taken_up_now_is_later() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let lost = probe(&["tick", "1000000", "1"]);
    let lost = client.spawn(lost, None).await.unwrap().id;
    written(&client, lost, 2000).await;
    let mut kept = with(
        probe(&["until-stop"]),
        again(RestartPolicy::OnFailure, None),
    );
    let input = client.upload(b"its input").await.unwrap();
    kept.inputs.insert("input".to_owned(), input);
    let kept = client.spawn(kept, None).await.unwrap();
    written(&client, kept.id, 1).await;
    let unused = client.upload(&guest("hello")).await.unwrap();
    host.kill_9();
    // As if the disk could not be read there.
    let component = kept.spec.component.unwrap().to_string();
    let dir = host.state_dir().join("components");
    let file = dir.join(component.strip_prefix("sha256:").unwrap_or(&component));
    let aside = host.state_dir().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let log = host.state_dir().join("logs").join(lost.to_string());
    let segments = std::fs::read_dir(&log).unwrap();
    let segment = segments.map(|entry| entry.unwrap().path()).max().unwrap();
    let log_aside = host.state_dir().join("log-aside");
    std::fs::rename(&segment, &log_aside).unwrap();
    std::fs::create_dir(&segment).unwrap();
    host.start_again().await;
    for agent in [kept.id, lost] {
        refused(client.get(agent).await, ErrorCode::StorageUnavailable);
    }
    let reasons = client.health().await.unwrap().reasons;
    let told = |reason: &HealthReason| reason.message.contains("2 of them, cannot be taken up");
    assert!(reasons.iter().any(told), "{reasons:?}");
    // What it is made of is not let go meanwhile.
    assert_eq!(client.gc(&UNUSED).await.unwrap().components, 1);
    refused(client.stat_component(unused).await, ErrorCode::NotFound);
    // Deleted, it is there for nobody else.
    for digest in [kept.spec.component.unwrap(), input] {
        client.remove_component(digest).await.unwrap();
        refused(client.stat_component(digest).await, ErrorCode::NotFound);
    }
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    std::fs::remove_dir(&segment).unwrap();
    std::fs::rename(&log_aside, &segment).unwrap();
    for (agent, state) in [(kept.id, AgentState::Running), (lost, AgentState::Exited)] {
        eventually("the agent", || async {
            match client.get(agent).await {
                Ok(info) => (info.state == state).then_some(()),
                Err(ClientError::Refused(refusal)) => {
                    assert_eq!(refusal.code, ErrorCode::StorageUnavailable);
                    None
                }
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    }
    assert_eq!(client.get(kept.id).await.unwrap().usage.restarts, 1);
    let lost = ended(&client, lost).await;
    assert_eq!(lost.outcome, Some(Outcome::HostLost));
    assert!(lost.next_seq >= 2000, "{}", lost.next_seq);
    assert_eq!(matter(&client).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_kept_running_is_not_turned_away_for_want_of_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("skep.toml");
    let room = |agents: u64, queued: u64| {
        let text = format!("[capacity]\nmax_agents = {agents}\nmax_queued = {queued}\n");
        std::fs::write(&config, text).unwrap();
    };
    room(3, 3);
    let mut host = HostProcess::start(&["--config", config.to_str().unwrap()]).await;
    let client = host.client();
    let mut agents = Vec::new();
    for _ in 0..3 {
        let spec = with(
            probe(&["until-stop"]),
            again(RestartPolicy::OnFailure, None),
        );
        let agent = client.spawn(spec, None).await.unwrap().id;
        running(&client, agent).await;
        agents.push(agent);
    }
    host.kill_9();
    room(1, 0);
    host.start_again().await;
    // One after the other, in whatever order.
    while !agents.is_empty() {
        let at = eventually("one that runs", || async {
            for (at, agent) in agents.iter().enumerate() {
                let info = client.get(*agent).await.unwrap();
                assert_eq!(info.outcome, None);
                if info.state == AgentState::Running {
                    return Some(at);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            None
        })
        .await;
        client.kill(agents.remove(at)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lacks_its_newest_changes_takes_no_logs_with_it() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let known = run(&client, probe(&["lines", "3"])).await.info.id;
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    let store = host.state_dir().join("state.db");
    let older = store.with_extension("older");
    std::fs::copy(&store, &older).unwrap();
    host.start_again().await;
    // It is longer at it than it takes to write down when the store was written to.
    let mut lost = probe(&["tick", "100000", "2"]);
    lost.grants.scratch = true;
    let lost = client.spawn(lost, None).await.unwrap().id;
    written(&client, lost, 2000).await;
    host.kill_9();
    for beside in ["db-wal", "db-shm"] {
        std::fs::remove_file(store.with_extension(beside)).unwrap();
    }
    std::fs::rename(&older, &store).unwrap();
    host.start_again().await;
    refused(client.get(lost).await, ErrorCode::NotFound);
    assert_eq!(client.get(known).await.unwrap().next_seq, 3);
    assert!(host.log().contains("lacks what was written to it last"));
    let aside = |state_dir: &Path| {
        let entries = std::fs::read_dir(state_dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_aside = |path: &Path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("unknown-")
        };
        paths.filter(|path| is_aside(path)).collect::<Vec<_>>()
    };
    let set_aside = aside(&host.state_dir());
    let [there] = &set_aside[..] else {
        panic!("{set_aside:?}")
    };
    for part in ["logs", "scratch"] {
        assert!(there.join(part).join(lost.to_string()).is_dir(), "{part}");
    }
    // It is all well from then on, and what is set aside stays.
    host.kill_9();
    host.start_again().await;
    assert_eq!(aside(&host.state_dir()), set_aside);
    assert_eq!(client.get(known).await.unwrap().next_seq, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_to_the_next_host_keeps_what_it_is_made_of() {
    let mut host = HostProcess::start(&["--max-agents", "1"]).await;
    let client = host.client();
    // It takes all of the grace.
    let stubborn = client.spawn(probe(&["sleep", "600000"]), None).await;
    running(&client, stubborn.unwrap().id).await;
    let waits = client.spawn(spec("hello", &[]), None).await.unwrap().id;
    host.terminate();
    shuts_down(&client).await;
    client.gc(&UNUSED).await.unwrap();
    assert_eq!(host.ended().await.code(), Some(0));
    host.start_again().await;
    let ended = ended(&client, waits).await;
    assert_eq!(ended.outcome, Some(Outcome::Exited { code: 0 }));
}
