//! Agents that are held and go on, as a client asks or for want of fuel.

use std::time::Duration;

use skep_client::Client;
use skep_client::protocol::info::PausedReason;
use skep_client::protocol::spec::OnFuelExhausted;
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec, AgentState, LimitName, Outcome};
use skep_protocol::ErrorCode;
use skep_tests::{TestHost, end_of, eventually, probe, run, sh, spec};

use crate::{quiet, refusal, refused, running, written};

async fn paused(client: &Client, agent: AgentId, reason: PausedReason) -> AgentInfo {
    let info = eventually("an agent that is paused", || async {
        let info = client.get(agent).await.unwrap();
        assert_eq!(info.outcome, None, "it has ended instead");
        (info.state == AgentState::Paused).then_some(info)
    })
    .await;
    assert_eq!(info.paused_reason, Some(reason));
    info
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_held_and_goes_on() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(probe(&["spin"]), None).await.unwrap().id;
    let before = running(&client, agent).await;
    let held = client.pause(agent).await.unwrap();
    assert_eq!(held.state, AgentState::Paused);
    assert_eq!(held.paused_reason, Some(PausedReason::Asked));
    assert_eq!(held.generation, before.generation + 1);
    assert_eq!(client.health().await.unwrap().agents.paused, 1);

    // Nothing of it runs while others do, and to pause it again changes nothing.
    run(&client, spec("hello", &[])).await;
    let again = client.pause(agent).await.unwrap();
    assert_eq!(again.generation, held.generation);
    assert_eq!(again.usage.fuel_used, held.usage.fuel_used);
    assert_eq!(again.usage.cpu_ms, held.usage.cpu_ms);

    let on = client.resume(agent).await.unwrap();
    assert_eq!((on.state, on.paused_reason), (AgentState::Running, None));
    assert_eq!(on.generation, held.generation + 1);
    let same = client.resume(agent).await.unwrap();
    assert_eq!(same.generation, on.generation);
    eventually("an agent that goes on", || async {
        let used = client.get(agent).await.unwrap().usage.fuel_used;
        (used > held.usage.fuel_used).then_some(())
    })
    .await;
    client.kill(agent).await.unwrap();
    refused(client.pause(agent).await, ErrorCode::WrongState);
    refused(client.resume(agent).await, ErrorCode::WrongState);
    refused(client.refuel(agent, 1).await, ErrorCode::WrongState);
    refused(client.pause(AgentId::random()).await, ErrorCode::NotFound);
    quiet(&client).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_times_and_not_a_line_is_lost() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client
        .spawn(probe(&["tick", "200", "5", "line"]), None)
        .await
        .unwrap()
        .id;
    written(&client, agent, 1).await;
    let mut pauses = 0;
    loop {
        match client.pause(agent).await {
            Ok(info) => assert_eq!(info.state, AgentState::Paused),
            Err(error) => {
                refused(Err::<(), _>(error), ErrorCode::WrongState);
                break;
            }
        }
        pauses += 1;
        // It may have ended at once.
        let info = client.resume(agent).await.unwrap();
        assert_ne!(info.state, AgentState::Paused);
    }
    assert!(pauses > 20, "{pauses}");
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let lines: Vec<String> = (ended.output.stdout().lines())
        .map(ToOwned::to_owned)
        .collect();
    let expected: Vec<String> = (1..=200).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_stands_still_meanwhile() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut sleeper = probe(&["sleep", "600000"]);
    sleeper.limits.wall_ms = Some(2_000);
    let agent = client.spawn(sleeper, None).await.unwrap().id;
    running(&client, agent).await;
    client.pause(agent).await.unwrap();
    // An agent with the same limit, started later, is over before it.
    let mut twin = probe(&["sleep", "600000"]);
    twin.limits.wall_ms = Some(2_000);
    let ended = run(&client, twin).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 2_000 });
    assert_eq!(client.get(agent).await.unwrap().state, AgentState::Paused);
    client.resume(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 2_000 });
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_for_ever() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut spinner = probe(&["spin"]);
    spinner.limits.paused_ms = Some(300);
    let agent = client.spawn(spinner, None).await.unwrap().id;
    running(&client, agent).await;
    client.pause(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Deadline { limit_ms: 300 });
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_killed_while_paused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let held = async |spec: AgentSpec, lines: u64| {
        let agent = client.spawn(spec, None).await.unwrap().id;
        running(&client, agent).await;
        written(&client, agent, lines).await;
        client.pause(agent).await.unwrap();
        agent
    };
    // It is let go for its grace, and sees that it should stop.
    let agent = held(probe(&["until-stop"]), 1).await;
    let stopped = client.stop(agent, None).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: false }));
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.output.stdout(), "ready\nstopping\n");
    // It runs, and does not look.
    let agent = held(probe(&["spin"]), 0).await;
    let grace = Some(Duration::from_millis(100));
    let stopped = client.stop(agent, grace).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: true }));
    // It cannot even look.
    let mut echo = spec("echo", &[]);
    echo.stdin = skep_client::protocol::spec::Stdin::Open;
    let agent = held(echo, 0).await;
    let stopped = client.stop(agent, None).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: true }));

    let agent = held(probe(&["spin"]), 0).await;
    let killed = client.kill(agent).await.unwrap();
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    quiet(&client).await;
    host.end().await;
}

fn pausing(args: &[&str], fuel: u64) -> AgentSpec {
    let mut spec = probe(args);
    spec.limits.fuel = Some(fuel);
    spec.on_fuel_exhausted = OnFuelExhausted::Pause;
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_fuel_it_waits_for_more() {
    const FUEL: u64 = 20_000_000;
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client
        .spawn(pausing(&["lines", "100000"], FUEL), None)
        .await
        .unwrap()
        .id;
    let held = paused(&client, agent, PausedReason::OutOfFuel).await;
    assert!(held.usage.fuel_used >= FUEL);
    assert_eq!(held.usage.fuel_left, Some(0));

    let refusal = refusal(client.resume(agent).await);
    assert_eq!(refusal.code, ErrorCode::WrongState);
    assert_eq!(refusal.details.state.as_deref(), Some("paused"));
    assert!(refusal.message.contains("refuel"), "{refusal}");

    let mut given = FUEL;
    let ended = loop {
        match client.refuel(agent, FUEL).await {
            Ok(info) => {
                given += FUEL;
                assert_eq!(info.limits.fuel, given);
            }
            Err(error) => {
                refused(Err::<(), _>(error), ErrorCode::WrongState);
                break end_of(&client, agent).await;
            }
        }
        eventually("an agent that has used it up, or ended", || async {
            let state = client.get(agent).await.unwrap().state;
            (state != AgentState::Running && state != AgentState::Starting).then_some(())
        })
        .await;
    };
    assert!(given > 3 * FUEL, "{given}");
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(ended.output.stdout().lines().count(), 100_000);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_fuel_it_can_still_stop() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client
        .spawn(pausing(&["spin"], 1_000_000), None)
        .await
        .unwrap()
        .id;
    paused(&client, agent, PausedReason::OutOfFuel).await;
    let grace = Some(Duration::from_millis(100));
    let stopped = client.stop(agent, grace).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: true }));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuel_is_added_up_to_the_ceiling() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ceiling = client.hello().await.unwrap().ceilings.fuel;
    let mut spinner = probe(&["spin"]);
    spinner.limits.fuel = Some(1_000_000_000);
    let agent = client.spawn(spinner, None).await.unwrap().id;
    running(&client, agent).await;
    client.pause(agent).await.unwrap();

    let refusal = refusal(client.refuel(agent, ceiling).await);
    assert_eq!(refusal.code, ErrorCode::LimitExceedsCeiling);
    assert_eq!(
        refusal.details.limit.as_deref(),
        Some(LimitName::Fuel.as_str())
    );
    assert_eq!(refusal.details.asked, Some(ceiling + 1_000_000_000));
    assert_eq!(refusal.details.ceiling, Some(ceiling));
    refused(
        client.refuel(agent, u64::MAX).await,
        ErrorCode::LimitExceedsCeiling,
    );
    refused(client.refuel(agent, 0).await, ErrorCode::InvalidArgument);

    let refuelled = client.refuel(agent, 500_000_000).await.unwrap();
    assert_eq!(refuelled.state, AgentState::Paused);
    assert_eq!(refuelled.limits.fuel, 1_500_000_000);
    client.resume(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    let limit = 1_500_000_000;
    assert_eq!(ended.outcome, Outcome::OutOfFuel { limit });
    let used = ended.info.usage.fuel_used;
    assert!(used >= limit, "{used}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_have_no_fuel() {
    let host = crate::native::host().await;
    let client = host.client().await;
    let agent = client.spawn(sh("sleep 600"), None).await.unwrap().id;
    running(&client, agent).await;
    refused(client.refuel(agent, 1).await, ErrorCode::UnsupportedFeature);
    client.kill(agent).await.unwrap();
    let mut pausing = sh("true");
    pausing.on_fuel_exhausted = OnFuelExhausted::Pause;
    refused(
        client.spawn(pausing, None).await,
        ErrorCode::UnsupportedFeature,
    );
    host.end().await;
}
