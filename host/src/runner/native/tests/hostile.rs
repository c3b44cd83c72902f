//! Programs that do not want to end, and hosts and shims that do.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_protocol::Enforcement;

use super::*;

#[tokio::test]
async fn sigterm_ignored() {
    let mut agent = sh("trap '' TERM HUP INT; echo ready; while :; do :; done");
    agent.lines(1).await;
    agent.guest.control.ask_stop();
    agent.kill().await;
}

#[tokio::test]
async fn kill_at_any_time() {
    for yields in 0..40 {
        let mut agent = start(&["sleep", "1000"]);
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        agent.kill().await;
    }
    let mut agent = start(&["sleep", "1000"]);
    agent.running().await;
    agent.guest.control.kill();
    agent.kill().await;
}

#[tokio::test]
async fn daemons_go_too() {
    let daemon = "trap '' TERM HUP; (timeout 9999 sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' &) &";
    let mut agent = sh(&format!("{daemon} wait; sleep 1000"));
    agent.lines(1).await;
    assert!(marked(&agent.mark).len() >= 2);
    agent.kill().await;
}

/// Forks twice, is refused a session, goes on in a group of its own, and is deaf.
const DAEMON: &str = "use POSIX; $| = 1; $SIG{TERM} = $SIG{HUP} = 'IGNORE'; \
    if (!fork) { if (!fork) { POSIX::setsid() == -1 or die; my $why = $! + 0; \
    setpgrp(0, 0) or die; print $why, getpgrp == $$ ? qq( in a group\\n) : qq(\\n) } \
    else { POSIX::_exit(0) } } else { wait } sleep 1000 while 1";

#[tokio::test]
async fn a_daemon_without_a_session() {
    let filtered = holds().await.network == Enforcement::Enforced;
    println!("system calls are filtered: {filtered}");
    if !filtered {
        return;
    }
    let mut agent = start(&["perl", "-e", DAEMON]);
    assert_eq!(agent.lines(1).await, ["1 in a group"]);
    until(|| marked(&agent.mark).len() == 2).await;
    agent.guest.control.ask_stop();
    agent.kill().await;
}

#[tokio::test]
async fn what_outlives_the_program_does_not_keep_the_agent() {
    // It holds stdout and stderr, and is in a group of its own.
    let mut agent =
        sh("timeout 9999 sh -c 'trap \"\" TERM; echo $$; exec sleep 1000' & read line; exit 5");
    agent.lines(1).await;
    agent.stdin.take().unwrap().offer(b"\n");
    assert_eq!(agent.end().await, End::Exited(5));
}

#[tokio::test]
async fn zombies() {
    let mut agent = sh("for i in 1 2 3 4 5 6 7 8; do true & done; echo ready; exec sleep 1000");
    agent.lines(1).await;
    agent.kill().await;
}

#[tokio::test]
async fn two_hundred_sleepers() {
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait";
    let many = |script: &str| {
        start_with(&["sh", "-c", script], |launch| {
            launch.limits.processes = 300
        })
    };
    let mut agent = many(script);
    agent.lines(1).await;
    until(|| marked(&agent.mark).len() > 200).await;
    agent.kill().await;
    let mut agent = many(&script.replace("wait", "exit 3"));
    assert_eq!(agent.end().await, End::Exited(3));
}

#[tokio::test]
async fn bombs() {
    for (lines, bomb) in [
        // Forks without pause, each time into a group of its own.
        (300, "while :; do echo ready; timeout 9999 true & done"),
        // Doubles, up to 256.
        (
            250,
            "b() { echo ready; if [ $1 -gt 0 ]; then b $(($1-1)) & b $(($1-1)) & fi; sleep 1000; }; b 8",
        ),
        // Each starts again what is killed.
        (
            4,
            "r() { while :; do sh -c 'echo ready; exec sleep 1000'; done; }; r & r & r & r",
        ),
    ] {
        let mut agent = start_with(&["sh", "-c", bomb], |launch| {
            launch.limits.processes = 600;
        });
        agent.lines(lines).await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn output_that_nobody_takes() {
    let mut agent = start(&["yes"]);
    // Lines of two bytes, each of which takes the room of 258.
    until(|| agent.output.counter().written()[0] >= 500).await;
    agent.kill().await;
    let mut agent = sh("echo; read line; head -c 120000 /dev/zero; exit 4");
    agent.lines(1).await;
    let shim = parent(marked(&agent.mark)[0]).to_string();
    agent.stdin.take().unwrap().offer(b"\n");
    until(|| !exists(&shim)).await;
    // It has exited, and the rest of its output waits for a reader.
    agent.guest.control.kill();
    assert_eq!(agent.ended().await, End::Exited(4));
}

#[tokio::test]
async fn a_driver_that_goes_away() {
    let mut agent = sh("echo ready; exec sleep 1000");
    agent.lines(1).await;
    drop(agent.guest);
    until(|| marked(&agent.mark).is_empty()).await;
}

#[test]
fn a_host_that_goes_away() {
    let host = tokio::runtime::Runtime::new().unwrap();
    let agent = host.block_on(async {
        let mut agent = sh("timeout 9999 sleep 1000 & echo ready; trap '' TERM; wait; sleep 1000");
        agent.lines(1).await;
        agent
    });
    assert!(marked(&agent.mark).len() >= 2);
    drop(host);
    let after = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    after.block_on(until(|| marked(&agent.mark).is_empty()));
}

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_agent_along() {
    // By a stranger, with a child in the session.
    let begun = async || {
        let mut agent = sh("sleep 1000 & echo; wait");
        agent.lines(1).await;
        let shim = parent(*marked(&agent.mark).iter().min().unwrap());
        (agent, shim)
    };
    let (mut agent, shim) = begun().await;
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    assert_eq!(agent.end().await, End::Signaled(9));

    // The guard of a namespace, where there is one.
    let (mut agent, shim) = begun().await;
    let above = parent(shim);
    if above != i32::try_from(std::process::id()).unwrap() {
        kill(Pid::from_raw(above), Signal::SIGKILL).unwrap();
        assert_eq!(agent.end().await, End::Signaled(9));
    }
}

#[tokio::test]
async fn a_shim_is_out_of_its_agents_reach() {
    let wall = holds().await.wall;
    let mut agent = sh("for s in TERM HUP INT USR1 34 STOP KILL; do kill -$s $PPID; done; exit 6");
    let end = agent.end().await;
    println!("wall is {wall:?}: an agent that kills its shim ends as {end:?}");
    if wall == Enforcement::Enforced {
        assert_eq!(end, End::Exited(6));
    } else {
        assert!(matches!(end, End::Exited(6) | End::Signaled(9)), "{end:?}");
    }

    let mut agent =
        sh("trap '' TERM; kill -STOP $PPID; echo ready; while :; do kill -STOP $PPID; done");
    agent.lines(1).await;
    agent.kill().await;
}

/// Alone in a process, since other tests have agents too.
#[test]
fn nothing_is_left_in_the_host() {
    const ALONE: &str = "SKEP_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "runner::native::tests::hostile::nothing_is_left_in_the_host";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone
            .args(["--exact", name])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let children = || super::super::tree::Snapshot::take().count_below(std::process::id());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let one_of_each = async || {
            assert_eq!(sh("exit 3").end().await, End::Exited(3));
            assert!(matches!(
                start(&["/no/such"]).end().await,
                End::StartFailed { .. }
            ));
            let mut agent = sh("timeout 9999 sleep 1000 & echo ready; wait");
            agent.lines(1).await;
            agent.kill().await;
            assert_eq!(sh("kill -9 $$").end().await, End::Signaled(9));
        };
        let no_task = || {
            let runtime = tokio::runtime::Handle::current().metrics();
            runtime.num_alive_tasks() == 0
        };
        one_of_each().await;
        until(no_task).await;
        let base = count("fd");
        for _ in 0..10 {
            one_of_each().await;
        }
        until(no_task).await;
        assert_eq!(count("fd"), base);
        assert_eq!(children(), 0);
    });
}
