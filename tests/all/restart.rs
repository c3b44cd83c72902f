//! A host that dies and comes back, and one that is asked to end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use skep_client::protocol::op::HealthCode;
use skep_client::protocol::spec::RestartPolicy;
use skep_client::protocol::{ErrorCode, Outcome};
use skep_client::{Client, ClientError, ConnectionState};
use skep_tests::{
    HostProcess, Output, end_of, eventually, native, probe, processes_with, run, soon, spec,
    start_in_vain,
};
use tokio::task::JoinHandle;

use crate::{command, refused, running, shuts_down, supervision, written};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_with_a_host_that_was_killed() {
    let mut host = HostProcess::start(&[]).await;
    let mut clients = Vec::new();
    let mut waiting: Vec<JoinHandle<Result<_, ClientError>>> = Vec::new();
    for _ in 0..4 {
        let client = host.client();
        let agent = client
            .spawn(probe(&["sleep", "600000"]), None)
            .await
            .unwrap()
            .id;
        // It hears events too, which have to come back as well.
        let mut watch = client.watch(agent).await.unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = watch.next().await {} });
        let waiter = client.clone();
        waiting.push(tokio::spawn(async move { waiter.wait(agent, None).await }));
        clients.push(client);
    }
    for round in 0..2 {
        host.kill_9();
        for client in &clients {
            let mut states = client.connection().watch_state();
            let gone = states.wait_for(|state| *state != ConnectionState::Connected);
            soon("a client that notices", gone).await.unwrap();
        }
        // Asked while nobody is there, and answered by who comes.
        let spawning: Vec<_> = clients
            .iter()
            .map(|client| {
                let client = client.clone();
                tokio::spawn(async move { run(&client, spec("hello", &[])).await })
            })
            .collect();
        host.start_again().await;
        for spawned in spawning {
            let ended = soon("an agent on the new host", spawned).await.unwrap();
            assert_eq!(ended.outcome, Outcome::Exited { code: 0 }, "round {round}");
            assert_eq!(ended.output.stdout(), "Hello, world!\n");
        }
        for waiter in waiting.drain(..) {
            // The new host knows what became of the agent.
            let answer = soon("an answer to what was asked before", waiter)
                .await
                .unwrap();
            assert_eq!(answer.unwrap().outcome, Some(Outcome::HostLost));
        }
        for client in &clients {
            assert_eq!(client.connection().state(), ConnectionState::Connected);
            assert_eq!(client.connection().stats().in_flight, 0);
        }
    }
    // Events reach them as before.
    let client = &clients[0];
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    let following = tokio::spawn({
        let client = client.clone();
        async move { Output::follow(&client, agent).await }
    });
    written(client, agent, 1).await;
    client.stop(agent, None).await.unwrap();
    assert_eq!(
        soon("its output", following).await.unwrap().stdout(),
        "ready\nstopping\n"
    );
    let reconnections = client.connection().stats().reconnections;
    assert!(reconnections >= 2, "{reconnections}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_leaves_no_processes() {
    let mut host = HostProcess::start(&["--allow-native"]).await;
    let client = host.client();
    let mark = format!("9{:09}.25", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    for _ in 0..3 {
        let agent = client
            .spawn(native(&["/bin/sleep", &mark]), None)
            .await
            .unwrap();
        running(&client, agent.id).await;
    }
    eventually("three processes", || async {
        (processes_with(&mark).len() >= 3).then_some(())
    })
    .await;
    host.kill_9();
    eventually("no process left", || async {
        processes_with(&mark).is_empty().then_some(())
    })
    .await;
}

async fn spawn_waiting(client: &Client, args: &[&str]) -> JoinHandle<(Option<Outcome>, String)> {
    let agent = client.spawn(probe(args), None).await.unwrap().id;
    running(client, agent).await;
    let client = client.clone();
    tokio::spawn(async move {
        let ended = client.wait(agent, None).await.unwrap();
        (ended.outcome, agent.to_string())
    })
}

/// Unless it was started to outlive that, as all of a test may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_ends_in_order_however_often_its_terminal_says_that_it_closes() {
    let mut host = HostProcess::start(&["--grace", "2s"]).await;
    let client = host.client();
    let deaf = spawn_waiting(&client, &["sleep", "600000"]).await;
    host.signal(Signal::SIGHUP);
    if outlives_terminals(host.pid()) {
        host.terminate();
    }
    eventually("a host that is ending", || async {
        host.log().contains("ending: 1 agents").then_some(())
    })
    .await;
    host.signal(Signal::SIGHUP);
    let (outcome, _) = deaf.await.unwrap();
    assert_eq!(outcome, Some(Outcome::Stopped { forced: true }));
    assert_eq!(host.ended().await.code(), Some(0));
}

fn outlives_terminals(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap() & 1 == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_all_agents_within_their_grace() {
    let mut host = HostProcess::start(&["--grace", "1s"]).await;
    let client = host.client();
    let polite = spawn_waiting(&client, &["until-stop"]).await;
    let deaf = spawn_waiting(&client, &["sleep", "600000"]).await;
    let looping = spawn_waiting(&client, &["spin"]).await;
    let start = Instant::now();
    host.terminate();
    // Their ends are told while the host can still be asked.
    assert_eq!(
        polite.await.unwrap().0,
        Some(Outcome::Stopped { forced: false })
    );
    let refused = client.clone().with_patience(Duration::from_millis(300));
    match refused.spawn(spec("hello", &[]), None).await {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::ShuttingDown),
        // It was gone already.
        Err(ClientError::Timeout { .. } | ClientError::Connection(_)) => {}
        other => panic!("{other:?}"),
    }
    for forced in [deaf, looping] {
        assert_eq!(
            forced.await.unwrap().0,
            Some(Outcome::Stopped { forced: true })
        );
    }
    let status = host.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        start.elapsed() < Duration::from_secs(11),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_host_at_once() {
    let mut host = HostProcess::start(&["--grace", "10m"]).await;
    let client = host.client();
    let agent = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap()
        .id;
    running(&client, agent).await;
    host.terminate();
    shuts_down(&client).await;
    assert_eq!(
        client.get(agent).await.unwrap().outcome,
        None,
        "it has its grace"
    );
    host.terminate();
    let status = host.ended().await;
    assert_eq!(status.code(), Some(143), "{status}");
    let log = host.log();
    assert!(log.contains("1 agents have 10 m 0 s to stop"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_do_not_share_a_port() {
    let host = HostProcess::start(&[]).await;
    let control = host.control().to_string();
    let dir = tempfile::tempdir().unwrap();
    let said = start_in_vain(&control, dir.path()).await;
    assert!(said.contains(&control), "{said}");
    // The first does not mind.
    let client = host.client();
    let agent = client.spawn(spec("hello", &[]), None).await.unwrap();
    assert_eq!(
        end_of(&client, agent.id).await.output.stdout(),
        "Hello, world!\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_waits_is_not_asked_of_the_next_host() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let supervised = supervision::with(
        probe(&["until-stop"]),
        supervision::again(RestartPolicy::Always, None),
    );
    let supervised = client.spawn(supervised, None).await.unwrap().id;
    running(&client, supervised).await;
    let drains = command::start(&["drain", "--host", &host.control().to_string()]);
    eventually("a drain", || async {
        let reasons = client.health().await.unwrap().reasons;
        (reasons
            .iter()
            .any(|reason| reason.code == HealthCode::Draining))
        .then_some(())
    })
    .await;

    host.kill_9();
    let drained = command::ended(drains).await;
    assert_eq!(drained.code, Some(125), "{}", drained.stderr);
    assert!(
        drained.stderr.contains("the host went away"),
        "{}",
        drained.stderr
    );
    host.start_again().await;
    running(&client, supervised).await;
    assert!(client.health().await.unwrap().healthy);
    run(&client, probe(&["exit", "0"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_grow_is_like_a_full_disk() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let ticks = client.spawn(probe(&["tick", "1000000", "10"]), None).await;
    let ticks = ticks.unwrap().id;
    written(&client, ticks, 1).await;
    let files_up_to = |bytes| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(host.pid()).unwrap());
        let limit = rustix::process::Rlimit {
            current: bytes,
            maximum: None,
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    };
    files_up_to(Some(1));
    refused(
        client.spawn(spec("hello", &[]), None).await,
        ErrorCode::StorageUnavailable,
    );
    let health = eventually("a host that says so", || async {
        let health = client.health().await.unwrap();
        (!health.healthy).then_some(health)
    })
    .await;
    let reasons = health.reasons;
    assert!(
        (reasons.iter()).all(|reason| reason.code == HealthCode::Storage),
        "{reasons:?}"
    );
    files_up_to(None);
    eventually("a host that has healed", || async {
        client.health().await.unwrap().healthy.then_some(())
    })
    .await;
    run(&client, spec("hello", &[])).await;
    client.kill(ticks).await.unwrap();
    assert!(host.lives());
}
