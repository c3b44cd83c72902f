//! What shuts processes in, as clients see it. What the machine grants, an
//! agent's `enforced` tells; each test asserts what follows from it.

#![expect(
    clippy::print_stdout,
    reason = "what the machine grants decides what a test asserts"
)]

use std::collections::BTreeSet;

use skep_client::protocol::info::{AgentState, PausedReason};
use skep_client::protocol::spec::{DirGrant, DirMode};
use skep_client::protocol::{AgentSpec, Enforcement};
use skep_tests::HostProcess;

use super::*;

/// What holds for a native agent here.
async fn enforced(client: &skep_client::Client) -> skep_client::protocol::Enforced {
    run(client, native(&["/bin/true"])).await.info.enforced
}

fn grant(host: &std::path::Path, mode: DirMode) -> DirGrant {
    let path = host.canonicalize().unwrap().to_str().unwrap().to_owned();
    DirGrant {
        host: path.clone(),
        guest: path,
        mode,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_the_least_that_is_promised() {
    let host = host().await;
    let client = host.client().await;
    let told = enforced(&client).await;
    println!("{told:?}");
    assert_eq!(told.cpu, Enforcement::None);
    for what in [told.memory, told.wall, told.pause] {
        assert_ne!(what, Enforcement::None, "{told:?}");
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_grants() {
    let host = host().await;
    let client = host.client().await;
    let told = enforced(&client).await.files;
    println!("files are {told:?}");
    let dir = host.shared().join("granted");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "canary").unwrap();
    for path in [host.shared(), dir.as_path(), dir.join("file").as_path()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let script = format!(
        "cat {0}/file || exit 8; echo x > {0}/made || exit 9",
        dir.canonicalize().unwrap().display()
    );
    let with = |mode: Option<DirMode>| {
        let mut spec = sh(&script);
        spec.grants.dirs = mode.map(|mode| grant(&dir, mode)).into_iter().collect();
        spec
    };
    if told == Enforcement::None {
        let refusal = refusal(client.spawn(with(Some(DirMode::Ro)), None).await);
        assert_eq!(refusal.code, ErrorCode::UnsupportedFeature);
        return host.end().await;
    }
    for (mode, code, stdout) in [
        (None, 8, ""),
        (Some(DirMode::Ro), 9, "canary"),
        (Some(DirMode::Rw), 0, "canary"),
    ] {
        let ended = run(&client, with(mode)).await;
        assert_eq!(ended.outcome, Outcome::Exited { code }, "{mode:?}");
        assert_eq!(ended.output.stdout(), stdout, "{mode:?}");
    }
    let mut elsewhere = with(Some(DirMode::Ro));
    elsewhere.grants.dirs[0].guest = "/data".to_owned();
    let refusal = refusal(client.spawn(elsewhere, None).await);
    assert_eq!(refusal.code, ErrorCode::InvalidArgument);
    assert_eq!(
        refusal.details.field.as_deref(),
        Some("spec.grants.dirs[0].guest")
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scratch_directory_is_its_own() {
    let host = host().await;
    let client = host.client().await;
    let mut spec = sh("echo x > made && cat made && pwd && echo $TMPDIR && mkdir -m 0 d");
    spec.grants.scratch = true;
    let ended = run(&client, spec).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let stdout = ended.output.stdout();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!((lines[0], lines[1]), ("x", lines[2]));
    // What it left is kept, and goes when it is forgotten.
    let scratch = std::path::Path::new(lines[1]);
    assert!(scratch.exists());
    client.forget(ended.info.id).await.unwrap();
    eventually("a scratch directory that is gone", || async {
        (!scratch.exists()).then_some(())
    })
    .await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_and_open_files_are_limited() {
    let host = host().await;
    let client = host.client().await;
    let with = |script: &str, processes: u64| -> AgentSpec {
        let mut spec = sh(script);
        spec.limits.processes = Some(processes);
        spec
    };
    let fork = "sleep 0 & sleep 0 & sleep 0 & wait; exit 7";
    let first = client.spawn(with(fork, 4), None).await;
    let Ok(agent) = first else {
        let refusal = refusal(first);
        println!("{refusal}");
        assert_eq!(refusal.code, ErrorCode::UnsupportedFeature);
        return host.end().await;
    };
    let ended = end_of(&client, agent.id).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 7 });
    assert_eq!(ended.info.limits.processes, 4);
    let bomb = "while :; do sleep 1000 & done";
    let ended = run(&client, with(bomb, 4)).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 2 });
    assert!(
        ended.output.stderr().contains("fork"),
        "{}",
        ended.output.stderr()
    );
    let open = "while (@f < 100) { open(my $f, '<', '/dev/null') or last; push @f, $f } \
                print scalar @f";
    let mut files = native(&["/usr/bin/perl", "-e", open]);
    files.limits.open_files = Some(20);
    assert_eq!(run(&client, files).await.output.stdout(), "17");
    quiet(&client).await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_memory_together_is_limited() {
    let host = host().await;
    let client = host.client().await;
    let hold = |children: u32| {
        let mut spec = native(&["/usr/bin/perl", "-e"]);
        spec.command.push(format!(
            "$| = 1; for (1..{children}) {{ if (!fork) {{ \
             $x = 'x' x (10 << 20); print qq(held\\n); sleep 1000 }} }} sleep 1000"
        ));
        spec.limits.memory_bytes = Some(48 << 20);
        spec
    };
    // Its twin, which stays below the limit, lives as long.
    let twin = client.spawn(hold(2), None).await.unwrap().id;
    written(&client, twin, 2).await;
    let ended = run(&client, hold(10)).await;
    assert!(
        matches!(ended.outcome, Outcome::OutOfMemory { limit_bytes, .. } if limit_bytes == 48 << 20),
        "{}",
        ended.outcome
    );
    let killed = client.kill(twin).await.unwrap();
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_is_paused_stopped_and_killed() {
    let host = host().await;
    let client = host.client().await;
    let mark = mark();
    let script = format!(
        "trap 'exit 5' TERM; (timeout 9999 sleep {mark} &); echo ready; while :; do sleep 0.01; done"
    );
    for end in ["kill", "stop", "resume"] {
        let agent = client.spawn(sh(&script), None).await.unwrap().id;
        written(&client, agent, 1).await;
        let start = Instant::now();
        let paused = client.pause(agent).await.unwrap();
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
        assert_eq!(paused.state, AgentState::Paused);
        assert_eq!(paused.paused_reason, Some(PausedReason::Asked));
        let outcome = match end {
            "kill" => client.kill(agent).await.unwrap().outcome,
            "stop" => client.stop(agent, None).await.unwrap().outcome,
            _ => {
                client.resume(agent).await.unwrap();
                running(&client, agent).await;
                client.kill(agent).await.unwrap().outcome
            }
        };
        let expected = match end {
            "stop" => Outcome::Stopped { forced: false },
            _ => Outcome::Killed,
        };
        assert_eq!(outcome, Some(expected), "{end}");
        gone(&mark);
    }
    quiet(&client).await;
    host.end().await;
}

/// The processors that a line of `/proc/PID/status` allows: `0-2,5`.
fn allowed(status: &str) -> BTreeSet<u32> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.expect("a list").trim().split(',');
    let ends = ranges.map(|range| range.split_once('-').unwrap_or((range, range)));
    let number = |text: &str| text.parse::<u32>().expect("a processor");
    ends.flat_map(|(first, last)| number(first)..=number(last))
        .collect()
}

/// The host's threads: what they are called, and where they may run.
fn threads(pid: u32) -> Vec<(String, BTreeSet<u32>)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    tasks
        .filter_map(|task| {
            let task = task.ok()?.path();
            // It may have ended meanwhile.
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            let status = std::fs::read_to_string(task.join("status")).ok()?;
            Some((name.trim().to_owned(), allowed(&status)))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_serves_all_runs_where_no_agent_does() {
    let host = HostProcess::start(&["--allow-native"]).await;
    let client = host.client();
    let is_service = |name: &str| name.starts_with("skep-");
    let all = allowed(&std::fs::read_to_string("/proc/self/status").unwrap());
    let before = threads(host.pid());
    assert!(before.iter().all(|(_, place)| *place == all), "{before:?}");

    let ended = run(&client, sh("grep Cpus_allowed_list: /proc/self/status")).await;
    let agents = allowed(&ended.output.stdout());
    let spare: BTreeSet<_> = all.difference(&agents).copied().collect();
    println!("agents run on {agents:?} of {all:?}");
    let after = threads(host.pid());
    let names: Vec<_> = (after.iter().map(|(name, _)| name.as_str()))
        .filter(|name| is_service(name))
        .collect();
    for service in [
        "skep-control",
        "skep-events",
        "skep-log-0",
        "skep-log-1",
        "skep-log-ahead",
        "skep-store",
        "skep-audit",
    ] {
        assert!(names.contains(&service), "{names:?}");
    }
    for (name, place) in &after {
        let is_aside = is_service(name) && !spare.is_empty();
        assert_eq!(place, if is_aside { &spare } else { &all }, "{name}");
    }
}
