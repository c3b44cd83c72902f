//! How agents end, one way a test, each among others that must not notice.

use std::time::{Duration, Instant};

use skep_client::Client;
use skep_client::protocol::{AgentState, Outcome, Trap};
use skep_protocol::spec::Stdin;
use skep_tests::{TestHost, end_of, probe, run, spec};

use crate::hostile::Scene;
use crate::{PROMPTLY, running, written};

const MIB: u64 = 1024 * 1024;

/// Tries something on a host where others print. Afterwards they still do,
/// nothing of theirs is missing, and the next agent runs.
async fn among_neighbours(case: impl AsyncFnOnce(&Client)) {
    let scene = Scene::set().await;
    case(&scene.client().await).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_runs_out_of_fuel() {
    among_neighbours(async |client| {
        let mut spec = probe(&["spin"]);
        spec.limits.fuel = Some(200_000_000);
        let ended = run(client, spec).await;
        assert_eq!(ended.outcome, Outcome::OutOfFuel { limit: 200_000_000 });
        assert!(
            ended.info.usage.fuel_used >= 200_000_000,
            "{:?}",
            ended.info.usage
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_meets_its_deadline() {
    among_neighbours(async |client| {
        let mut spec = probe(&["sleep", "600000"]);
        spec.limits.wall_ms = Some(300);
        let start = Instant::now();
        let ended = run(client, spec).await;
        assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 300 });
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(300),
            "before its time: {took:?}"
        );
        assert!(took < Duration::from_millis(300) + PROMPTLY, "{took:?}");
        assert_eq!(ended.output.stdout(), "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_meets_its_deadline_too() {
    among_neighbours(async |client| {
        let mut spec = probe(&["spin"]);
        spec.limits.wall_ms = Some(300);
        let start = Instant::now();
        let ended = run(client, spec).await;
        assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 300 });
        assert!(
            start.elapsed() < Duration::from_millis(300) + PROMPTLY,
            "{:?}",
            start.elapsed()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_memory_without_end_runs_out_of_it() {
    among_neighbours(async |client| {
        let mut spec = probe(&["alloc"]);
        spec.limits.memory_bytes = Some(16 * MIB);
        let ended = run(client, spec).await;
        let Outcome::OutOfMemory {
            limit_bytes,
            asked_bytes,
        } = ended.outcome
        else {
            panic!("{:?}", ended.outcome)
        };
        assert_eq!(limit_bytes, 16 * MIB);
        assert!(asked_bytes > 16 * MIB, "{asked_bytes}");
        let peak = ended.info.usage.memory_peak_bytes;
        assert!((8 * MIB..=16 * MIB).contains(&peak), "{peak}");
        // It had most of what it may have before it was refused.
        let stdout = ended.output.stdout();
        assert!(
            stdout.lines().count() >= 8 && stdout.lines().count() < 16,
            "{stdout}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_ends_a_sleeper_and_a_loop() {
    among_neighbours(async |client| {
        for args in [&["sleep", "600000"][..], &["spin"]] {
            let agent = client.spawn(probe(args), None).await.unwrap();
            running(client, agent.id).await;
            let start = Instant::now();
            let killed = client.kill(agent.id).await.unwrap();
            assert!(
                start.elapsed() < PROMPTLY,
                "{args:?} took {:?}",
                start.elapsed()
            );
            assert_eq!(
                (killed.state, &killed.outcome),
                (AgentState::Exited, &Some(Outcome::Killed))
            );
            // Again, and it stays what it was.
            let again = client.kill(agent.id).await.unwrap();
            assert_eq!(
                (again.outcome, again.generation),
                (killed.outcome, killed.generation)
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_once_may_come_before_the_start() {
    among_neighbours(async |client| {
        for _ in 0..20 {
            let agent = client
                .spawn(probe(&["sleep", "600000"]), None)
                .await
                .unwrap();
            let killed = client.kill(agent.id).await.unwrap();
            assert_eq!(killed.outcome, Some(Outcome::Killed));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_stops_by_itself() {
    among_neighbours(async |client| {
        let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap();
        written(client, agent.id, 1).await;
        client.stop(agent.id, None).await.unwrap();
        let ended = end_of(client, agent.id).await;
        assert_eq!(ended.outcome, Outcome::Stopped { forced: false });
        assert_eq!(ended.output.stdout(), "ready\nstopping\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_listen_is_stopped_after_its_grace() {
    among_neighbours(async |client| {
        let agent = client
            .spawn(probe(&["sleep", "600000"]), None)
            .await
            .unwrap();
        running(client, agent.id).await;
        let (start, grace) = (Instant::now(), Duration::from_millis(300));
        client.stop(agent.id, Some(grace)).await.unwrap();
        let ended = end_of(client, agent.id).await;
        assert_eq!(ended.outcome, Outcome::Stopped { forced: true });
        let took = start.elapsed();
        assert!(took >= grace && took < grace + PROMPTLY, "{took:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_listen_is_stopped_at_once() {
    among_neighbours(async |client| {
        // It imports nothing of `skep:agent/control`.
        let mut deaf = spec("echo", &[]);
        deaf.stdin = Stdin::Open;
        let agent = client.spawn(deaf, None).await.unwrap();
        running(client, agent.id).await;
        let start = Instant::now();
        client
            .stop(agent.id, Some(Duration::from_secs(600)))
            .await
            .unwrap();
        let ended = end_of(client, agent.id).await;
        assert_eq!(ended.outcome, Outcome::Stopped { forced: true });
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_waited_for_as_long_as_its_grace() {
    let host = TestHost::start().await;
    // Who waits so briefly for other answers still waits for this one.
    let client = (host.client().await).with_patience(Duration::from_millis(200));
    let sleeper = client.spawn(probe(&["sleep", "600000"]), None).await;
    let agent = sleeper.unwrap().id;
    running(&client, agent).await;
    let stopped = client
        .stop(agent, Some(Duration::from_secs(2)))
        .await
        .unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: true }));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_ends_the_grace() {
    among_neighbours(async |client| {
        let agent = client
            .spawn(probe(&["sleep", "600000"]), None)
            .await
            .unwrap()
            .id;
        running(client, agent).await;
        let stopping = tokio::spawn({
            let client = client.clone();
            async move { client.stop(agent, Some(Duration::from_secs(600))).await }
        });
        skep_tests::eventually("a stop under way", || async {
            (client.get(agent).await.unwrap().state == AgentState::Stopping).then_some(())
        })
        .await;
        let start = Instant::now();
        client.kill(agent).await.unwrap();
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
        let ended = end_of(client, agent).await;
        assert_eq!(ended.outcome, Outcome::Killed);
        assert_eq!(
            stopping.await.unwrap().unwrap().outcome,
            Some(Outcome::Killed)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_trap_with_its_message_on_stderr() {
    among_neighbours(async |client| {
        let ended = run(client, probe(&["panic"])).await;
        let Outcome::Trapped {
            trap, backtrace, ..
        } = &ended.outcome
        else {
            panic!("{:?}", ended.outcome)
        };
        assert_eq!(*trap, Trap::Unreachable);
        assert!(backtrace.len() <= 20, "{backtrace:?}");
        assert!(
            ended.output.stderr().contains("asked to panic"),
            "{}",
            ended.output.stderr()
        );
    })
    .await;
}
