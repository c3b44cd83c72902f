//! Agents that run again, and those that do not: one agent, one sequence of
//! output, however many runs.

use skep_client::protocol::info::GaveUp;
use skep_client::protocol::op::HealthCode;
use skep_client::protocol::spec::{Restart, RestartPolicy, Stdin};
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec, AgentState, ErrorCode, Outcome};
use skep_client::{Client, WatchEvent};
use skep_tests::{TestHost, end_of, eventually, native, probe, sh, soon};

use crate::command::{prebuilt, skep};
use crate::{refused, running, written};

/// Runs again after the shortest wait.
pub(crate) fn again(policy: RestartPolicy, max: Option<u64>) -> Restart {
    Restart {
        policy,
        max,
        backoff_ms: Some(100),
        max_backoff_ms: Some(100),
    }
}

/// Runs again, but not in the time that a test takes.
pub(crate) fn later(policy: RestartPolicy) -> Restart {
    Restart {
        policy,
        max: None,
        backoff_ms: Some(3_600_000),
        max_backoff_ms: None,
    }
}

pub(crate) fn with(mut spec: AgentSpec, restart: Restart) -> AgentSpec {
    spec.restart = restart;
    spec
}

/// Waits until an agent waits for its next run.
pub(crate) async fn between_runs(client: &Client, agent: AgentId) -> AgentInfo {
    eventually("an agent between two runs", || async {
        let info = client.get(agent).await.unwrap();
        assert_eq!(info.outcome, None, "it has ended for good");
        let next = info
            .restart
            .as_ref()
            .and_then(|restart| restart.next_run_ms);
        next.map(|_| info)
    })
    .await
}

/// What is the matter with a host, but for what the machine does to it.
pub(crate) async fn matter(client: &Client) -> Vec<HealthCode> {
    let reasons = client.health().await.unwrap().reasons;
    let codes = reasons.iter().map(|reason| reason.code);
    codes
        .filter(|code| !matches!(code, HealthCode::EventLoopLate | HealthCode::DiskLow))
        .collect()
}

fn runs(records: &[skep_client::protocol::event::LogRecord]) -> Vec<(u64, String)> {
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    records
        .iter()
        .map(|record| (record.run, text(&record.data)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_runs_are_one_sequence_until_max_is_used_up() {
    let host = crate::native::host().await;
    let client = host.client().await;
    let spec = with(
        sh("echo out; echo err >&2; printf tail; exit 7"),
        again(RestartPolicy::OnFailure, Some(2)),
    );
    let agent = client.spawn(spec, None).await.unwrap();
    // It is followed, and waited for, over all of its runs.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(agent.id, None).await.unwrap() }
    });
    let ended = end_of(&client, agent.id).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 7 });
    let seen = runs(&ended.output.records);
    for run in 0..3 {
        let of_run: Vec<&str> = seen
            .iter()
            .filter(|(number, _)| *number == run)
            .map(|(_, text)| text.as_str())
            .collect();
        for text in ["out", "err", "tail"] {
            assert_eq!(of_run.iter().filter(|t| **t == text).count(), 1, "{seen:?}");
        }
    }
    assert!(seen.is_sorted_by_key(|(run, _)| *run), "{seen:?}");
    assert_eq!(seen.len(), 9, "{seen:?}");
    let usage = ended.info.usage;
    assert_eq!(
        (usage.restarts, usage.stdout_bytes, usage.stderr_bytes),
        (2, 3 * 8, 3 * 4)
    );
    let restart = ended.info.restart.unwrap();
    assert_eq!(restart.gave_up, Some(GaveUp::Max));
    assert_eq!((restart.failures, restart.next_run_ms), (3, None));
    assert_eq!(restart.last_outcome, ended.outcome);
    let waited = soon("who waits", waiting).await.unwrap();
    assert_eq!(
        waited.usage.restarts, 2,
        "it was told of an end that was none"
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_ends_and_says_so() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let spec = with(probe(&["panic"]), again(RestartPolicy::Always, None));
    let agent = client.spawn(spec, None).await.unwrap();
    let ended = end_of(&client, agent.id).await;
    assert_eq!(ended.outcome.kind(), "trapped");
    let restart = ended.info.restart.unwrap();
    assert_eq!(restart.gave_up, Some(GaveUp::CrashLoop));
    assert_eq!((ended.info.usage.restarts, restart.failures), (10, 11));
    assert_eq!(restart.last_outcome, ended.outcome);
    // Each run's fuel and memory are its own, and the sum is told.
    assert!(ended.info.usage.fuel_used > 0);
    assert_eq!(ended.info.usage.memory_bytes, 0);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_what_it_should_runs_again_only_if_always() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let always = with(
        probe(&["lines", "1"]),
        again(RestartPolicy::Always, Some(3)),
    );
    let ended = skep_tests::run(&client, always).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let seen: Vec<u64> = ended
        .output
        .records
        .iter()
        .map(|record| record.run)
        .collect();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(ended.info.restart.unwrap().failures, 0);

    let on_failure = with(
        probe(&["lines", "1"]),
        again(RestartPolicy::OnFailure, None),
    );
    let ended = skep_tests::run(&client, on_failure).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(ended.info.usage.restarts, 0);
    assert_eq!(ended.info.restart.unwrap().gave_up, None);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_next_run_can_be_told_everything() {
    let host = TestHost::with(|config| config.capacity.max_agents = 1).await;
    let client = host.client().await;
    let crasher = || with(probe(&["exit", "3"]), later(RestartPolicy::OnFailure));

    for (kill, expected) in [
        (true, Outcome::Killed),
        (false, Outcome::Stopped { forced: false }),
    ] {
        let agent = client.spawn(crasher(), None).await.unwrap().id;
        let info = between_runs(&client, agent).await;
        assert_eq!(info.state, AgentState::Starting);
        let restart = info.restart.unwrap();
        assert_eq!(restart.last_outcome, Outcome::Exited { code: 3 });
        assert!(restart.next_run_ms.unwrap() > info.created_ms + 1_000_000);
        // It keeps its slot: it was promised one.
        let next = client.spawn(probe(&["lines", "1"]), None).await.unwrap();
        assert_eq!(next.state, AgentState::Queued);
        refused(client.refuel(agent, 5).await, ErrorCode::WrongState);
        let paused = client.pause(agent).await.unwrap();
        assert_eq!(paused.state, AgentState::Paused);
        let resumed = client.resume(agent).await.unwrap();
        assert_eq!(resumed.state, AgentState::Starting);

        let ended = match kill {
            true => client.kill(agent).await,
            false => client.stop(agent, None).await,
        };
        let ended = ended.unwrap();
        assert_eq!(ended.outcome, Some(expected));
        assert_eq!(ended.usage.restarts, 0);
        assert_eq!(ended.restart.unwrap().next_run_ms, None);
        let next = end_of(&client, next.id).await;
        assert_eq!(next.outcome, Outcome::Exited { code: 0 });
    }

    // Paused, it waits on, within its limit.
    let mut spec = crasher();
    spec.limits.paused_ms = Some(200);
    let agent = client.spawn(spec, None).await.unwrap().id;
    between_runs(&client, agent).await;
    client.pause(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 200 });
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_asked_to_end_is_not_run_again() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let spawn = async |args: &[&str]| {
        let spec = with(probe(args), again(RestartPolicy::Always, None));
        let agent = client.spawn(spec, None).await.unwrap().id;
        running(&client, agent).await;
        agent
    };
    let killed = spawn(&["sleep", "600000"]).await;
    assert_eq!(
        client.kill(killed).await.unwrap().outcome,
        Some(Outcome::Killed)
    );
    let stopped = spawn(&["until-stop"]).await;
    written(&client, stopped, 1).await;
    let outcome = client.stop(stopped, None).await.unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::Stopped { forced: false }));
    // Also if its time is over before its grace is.
    let mut late = with(probe(&["spin"]), again(RestartPolicy::Always, None));
    late.limits.wall_ms = Some(3_000);
    let late = client.spawn(late, None).await.unwrap().id;
    running(&client, late).await;
    let hour = Some(std::time::Duration::from_secs(3600));
    let outcome = client.stop(late, hour).await.unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::Deadline { limit_ms: 3_000 }));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_run_has_its_limits_anew_and_the_disk_is_the_agents() {
    let host = crate::native::host().await;
    let client = host.client().await;
    let mut spec = with(probe(&["spin"]), again(RestartPolicy::OnFailure, Some(1)));
    spec.limits.fuel = Some(100_000_000);
    let ended = skep_tests::run(&client, spec).await;
    assert_eq!(ended.outcome, Outcome::OutOfFuel { limit: 100_000_000 });
    assert!(
        ended.info.usage.fuel_used >= 200_000_000,
        "{:?}",
        ended.info
    );

    let mut spec = with(
        probe(&["sleep", "600000"]),
        again(RestartPolicy::Always, Some(1)),
    );
    spec.limits.wall_ms = Some(200);
    let ended = skep_tests::run(&client, spec).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 200 });
    assert_eq!(ended.info.usage.restarts, 1);

    // What a run leaves in the scratch directory the next one finds.
    let mut spec = with(
        sh("echo x >> marks; wc -l < marks; exit 1"),
        again(RestartPolicy::OnFailure, Some(2)),
    );
    spec.grants.scratch = true;
    let ended = skep_tests::run(&client, spec).await;
    assert_eq!(ended.output.stdout(), "1\n2\n3\n", "{:?}", ended.info);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_is_given_again_or_goes_on() {
    let host = crate::native::host().await;
    let client = host.client().await;
    let mut given = with(native(&["/bin/cat"]), again(RestartPolicy::Always, Some(2)));
    given.stdin = Stdin::Data(b"again\n".to_vec().into());
    let ended = skep_tests::run(&client, given).await;
    assert_eq!(ended.output.stdout(), "again\nagain\nagain\n");

    let mut open = with(
        sh("read line; echo $line; exit 1"),
        Restart {
            max: Some(1),
            ..later(RestartPolicy::OnFailure)
        },
    );
    open.restart.backoff_ms = Some(1_000);
    open.stdin = Stdin::Open;
    let agent = client.spawn(open, None).await.unwrap().id;
    client.write_all_stdin(agent, b"one\n", None).await.unwrap();
    between_runs(&client, agent).await;
    // Nobody reads it now: the next run will.
    client.write_all_stdin(agent, b"two\n", None).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.output.stdout(), "one\ntwo\n");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_it_is_published() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let spec = with(
        probe(&["tick", "1", "300"]),
        again(RestartPolicy::Always, Some(2)),
    );
    let agent = client.spawn(spec, None).await.unwrap().id;
    let mut watch = client.watch(agent).await.unwrap();
    let mut before = 0;
    let mut waited = Vec::new();
    loop {
        let event = soon("an event", watch.next()).await.unwrap().unwrap();
        let WatchEvent::Status(status) = event else {
            continue;
        };
        assert!(status.generation > before || before == 0);
        before = status.generation;
        let restart = status.restart.as_ref();
        if restart.is_some_and(|restart| restart.next_run_ms.is_some()) {
            assert_eq!(status.state, AgentState::Starting);
            waited.push(status.usage.restarts);
        }
        if status.state == AgentState::Exited {
            assert_eq!(restart.unwrap().gave_up, Some(GaveUp::Max));
            break;
        }
    }
    assert!(waited.ends_with(&[1]), "{waited:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_of_runs_and_ends_with_the_last() {
    let probe = prebuilt("probe");
    let ran = skep(&["run", "--restart", "on-failure:1", &probe, "exit", "9"]).await;
    assert_eq!(ran.code, Some(9), "{}", ran.stderr);
    for told in [
        "exited 9; it is run again in",
        "run 1 of the agent begins",
        "(max)",
    ] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_all_end_and_takes_no_more() {
    let host = TestHost::with(|config| config.capacity.max_agents = 2).await;
    let client = host.client().await;
    let waits = with(probe(&["exit", "1"]), later(RestartPolicy::Always));
    let waits = client.spawn(waits, None).await.unwrap().id;
    between_runs(&client, waits).await;
    let runs = with(probe(&["until-stop"]), again(RestartPolicy::Always, None));
    let runs = client.spawn(runs, None).await.unwrap().id;
    written(&client, runs, 1).await;
    let queued = client.spawn(probe(&["lines", "1"]), None).await.unwrap();
    assert_eq!(queued.state, AgentState::Queued);
    assert_eq!(matter(&client).await, []);

    // Several may ask, and none of them for ever.
    let within = std::time::Duration::from_millis(50);
    let (first, second) = tokio::join!(client.drain(within), client.drain(within));
    assert!((1..=3).contains(&first.unwrap()) && second.unwrap() >= 1);
    refused(
        client.spawn(probe(&["lines", "1"]), None).await,
        ErrorCode::ShuttingDown,
    );
    assert!(!client.health().await.unwrap().healthy);
    assert_eq!(matter(&client).await, [HealthCode::Draining]);

    // Who waited for its next run has none; who waited for its turn gets it.
    let ended = end_of(&client, waits).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 1 });
    assert_eq!(ended.info.restart.unwrap().gave_up, Some(GaveUp::Draining));
    let ended = end_of(&client, queued.id).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });

    let draining = tokio::spawn({
        let client = client.clone();
        async move { client.drain(skep_tests::DEADLINE).await }
    });
    client.stop(runs, None).await.unwrap();
    assert_eq!(soon("the drain", draining).await.unwrap().unwrap(), 0);
    refused(
        client.drain(std::time::Duration::from_secs(3601)).await,
        ErrorCode::InvalidArgument,
    );
    let control = host.control().to_string();
    let ran = skep(&["drain", "--host", &control]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "all agents have ended\n")
    );
    let ran = skep(&["health", "--host", &control]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("takes no more agents"),
        "{}",
        ran.stdout
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_told_by_health() {
    let host = TestHost::with(|config| {
        config.capacity.max_agents = 1;
        config.capacity.max_queued = 1;
    })
    .await;
    let client = host.client().await;
    let runs = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap()
        .id;
    assert_eq!(matter(&client).await, []);
    let waits = client.spawn(probe(&["lines", "1"]), None).await.unwrap().id;
    assert_eq!(matter(&client).await, [HealthCode::QueueFull]);
    client.kill(runs).await.unwrap();
    end_of(&client, waits).await;
    assert_eq!(matter(&client).await, []);
    host.end().await;
}
