//! Ending guests from outside, whatever they are doing.

use std::time::Instant;

use super::*;
use crate::runner::Asked;

async fn killed(mut started: Started) {
    started.running().await;
    kill_now(started).await;
}

async fn kill_now(started: Started) {
    let begun = Instant::now();
    started.guest.control.kill();
    started.guest.control.kill();
    // Killing does not wait for anything.
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(started.ended().await.end, End::Killed);
    // A hundred times what is promised: other processes may have the machine.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn kill_while_it_sleeps() {
    killed(probe(&["sleep", "3600000"]).start()).await;
    still_runs().await;
}

#[tokio::test]
async fn kill_while_it_spins() {
    killed(probe(&["spin"]).start()).await;
    still_runs().await;
}

#[tokio::test]
async fn kill_while_it_waits_for_input() {
    killed(probe(&["read-stdin"]).start()).await;
    still_runs().await;
}

#[tokio::test]
async fn kill_while_nobody_reads_its_output() {
    let mut started = probe(&["flood", "1000000000"]).start();
    started.running().await;
    let filled = async {
        while started.output.counter().written()[0] < 60 * 1024 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, filled).await.unwrap();
    kill_now(started).await;
    still_runs().await;
}

#[tokio::test]
async fn kill_in_a_start_function() {
    let guest = spins_at_start();
    let mut compiled = ask(guest.clone());
    compiled.limits.fuel = 1000;
    assert_eq!(compiled.end().await, End::OutOfFuel);
    let started = ask(guest).start();
    let spins = async {
        while started.guest.control.usage().fuel_used == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, spins).await.unwrap();
    kill_now(started).await;
}

#[tokio::test]
async fn kill_while_it_is_compiled() {
    let runner = one_at_a_time();
    let busy = probe(&["exit", "3"]).start_on(&runner);
    let waits = ask(prebuilt("echo")).start_on(&runner);
    kill_now(waits).await;
    // Nobody waited for it any more, so it was not compiled.
    assert_eq!(busy.ended().await.end, End::Exited(3));
    assert_eq!(
        ask(prebuilt("hello")).start_on(&runner).ended().await.end,
        End::Exited(0)
    );
    assert!(!runner.is_compiled(&Digest::of(&prebuilt("echo"))));
}

#[tokio::test]
async fn kill_after_its_end_changes_nothing() {
    let started = probe(&["exit", "9"]).start();
    let control = Arc::clone(&started.guest.control);
    assert_eq!(started.ended().await.end, End::Exited(9));
    control.kill();
    assert_eq!(control.ask_stop(), Asked::Yes);
}

#[tokio::test]
async fn spinners_share_and_each_can_be_killed() {
    let mut spinners = Vec::new();
    for _ in 0..64 {
        let mut started = probe(&["spin"]).start();
        started.running().await;
        spinners.push(started);
    }
    // Another guest gets its turn among them.
    let begun = Instant::now();
    still_runs().await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    for started in spinners {
        kill_now(started).await;
    }
}

#[tokio::test]
async fn a_sleeper_wakes_among_spinners() {
    let spinners: Vec<_> = (0..16).map(|_| probe(&["spin"]).start()).collect();
    let seen = probe(&["sleep", "10"]).run().await;
    assert_eq!(seen.stdout, b"slept\n");
    for started in spinners {
        started.guest.control.kill();
        assert_eq!(started.ended().await.end, End::Killed);
    }
}

#[tokio::test]
async fn asked_to_stop() {
    let mut started = probe(&["until-stop"]).start();
    started.running().await;
    let ready = tokio::time::timeout(DEADLINE, started.output.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ready[0].data, b"ready\n");
    assert_eq!(started.guest.control.ask_stop(), Asked::Yes);
    let seen = started.ended().await;
    assert_eq!(
        (seen.end, seen.stdout),
        (End::Exited(3), b"stopping\n".to_vec())
    );
    let mut deaf = ask(prebuilt("echo")).start();
    deaf.running().await;
    assert_eq!(deaf.guest.control.ask_stop(), Asked::Deaf);
    kill_now(deaf).await;
}

#[tokio::test]
async fn dropping_the_runner_ends_its_guests() {
    let runner = WasmRunner::new(WasmConfig {
        max_agents: 4,
        ..WasmConfig::default()
    })
    .unwrap();
    let mut guests = Vec::new();
    for args in [&["spin"][..], &["sleep", "3600000"]] {
        let mut started = probe(args).start_on(&runner);
        started.running().await;
        guests.push(started);
    }
    drop(runner);
    for started in guests {
        assert_eq!(started.ended().await.end, End::Killed);
    }
}

#[tokio::test]
async fn kill_the_moment_it_starts() {
    for _ in 0..50 {
        kill_now(ask(prebuilt("echo")).start()).await;
    }
    still_runs().await;
}

#[tokio::test]
async fn kill_between_two_copies() {
    // A bulk instruction is done in portions, and between two of them it ends.
    let guest = command(
        "(loop $l i32.const 0 i32.const 30000000 i32.const 30000000 memory.copy br $l) i32.const 0",
        "(memory 1000)",
    );
    killed(ask(guest).start()).await;
    still_runs().await;
}
