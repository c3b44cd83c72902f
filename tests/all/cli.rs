//! The command `skep`, as a person or a script uses it.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;
use skep_client::AgentFilter;
use skep_client::protocol::{AgentState, Digest, Outcome};
use skep_tests::{HostProcess, TestHost, eventually, soon};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::command::{ended, prebuilt, run, signal, skep, skep_with, start};

#[tokio::test]
async fn hello_is_printed() {
    let ran = run(&[], "hello", &[]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "Hello, world!\n", "")
    );
    let ran = run(&[], "hello", &["--name"]).await;
    assert_eq!(ran.stdout, "Hello, --name!\n");
}

#[tokio::test]
async fn both_streams_go_where_they_belong() {
    let ran = run(&[], "probe", &["lines", "10000"]).await;
    let expected: String = (1..=10_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    assert!(
        ran.stdout == expected && ran.stderr.is_empty(),
        "{}",
        ran.stderr
    );
    let ran = run(&[], "probe", &["stderr", "2"]).await;
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("", "error 1\nerror 2\n")
    );
    // Without a newline in all of it.
    let ran = run(&[], "probe", &["flood", "1000000"]).await;
    assert!(ran.stdout == "x".repeat(1_000_000));
}

#[tokio::test]
async fn every_end_has_its_exit_code() {
    let (probe, none): (_, &[&str]) = ("probe", &[]);
    for (flags, args, code, told) in [
        (none, &["exit", "0"][..], 0, ""),
        (none, &["exit", "7"], 7, ""),
        (none, &["exit", "255"], 255, ""),
        (
            &["--timeout", "300ms"],
            &["sleep", "600000"],
            124,
            "(deadline)",
        ),
        (none, &["panic"], 134, "(trapped)"),
        (&["--memory", "16MiB"], &["alloc"], 137, "(out_of_memory)"),
        (&["--fuel", "100M"], &["spin"], 152, "(out_of_fuel)"),
        (
            &["--memory", "1TiB"],
            &["spin"],
            125,
            "(limit_exceeds_ceiling)",
        ),
        (
            &["--limit", "instances=1"],
            &["spin"],
            126,
            "(limit_too_small)",
        ),
        (&["--restart", "on-failure:1"], &["exit", "7"], 7, "(max)"),
        (&["--colour"], &["spin"], 125, "--colour"),
        (
            &["--host", "tcp://127.0.0.1:1"],
            &["spin"],
            125,
            "skep serve",
        ),
    ] {
        let ran = run(flags, probe, args).await;
        assert_eq!(ran.code, Some(code), "{flags:?} {args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(told),
            "{flags:?} {args:?}: {}",
            ran.stderr
        );
    }
    assert_eq!(skep(&["run", "/nowhere/at/all.wasm"]).await.code, Some(127));
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.wasm");
    std::fs::write(&text, "not a component").unwrap();
    let ran = skep(&["run", text.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(126), "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("skep: ") && ran.stderr.contains("(invalid_component)"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        skep(&["run", dir.path().to_str().unwrap()]).await.code,
        Some(126)
    );
}

#[tokio::test]
async fn stdin_is_passed_on() {
    let file = prebuilt("echo");
    let ran = skep_with(&["run", &file], b"one\n\xff\xfe two\nno newline").await;
    assert_eq!(ran.code, Some(0));
    assert_eq!(
        ran.stdout.as_bytes(),
        String::from_utf8_lossy(b"one\n\xff\xfe two\nno newline").as_bytes()
    );
    let probe = prebuilt("probe");
    let ran = skep_with(&["run", &probe, "read-stdin"], &vec![b'x'; 3_000_000]).await;
    assert_eq!(ran.stdout, "3000000 bytes\n");
    let ran = skep_with(
        &["run", "--stdin", "closed", &probe, "read-stdin"],
        b"ignored",
    )
    .await;
    assert_eq!(ran.stdout, "0 bytes\n");
    let ran = skep_with(&["run", "--stdin", &file, &probe, "read-stdin"], b"ignored").await;
    assert_eq!(
        ran.stdout,
        format!("{} bytes\n", skep_tests::guest("echo").len())
    );
}

#[tokio::test]
async fn ctrl_c_stops_the_agent_and_a_second_one_kills_it() {
    let probe = prebuilt("probe");
    for first in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = start(&["run", &probe, "until-stop"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(
            soon("a line", lines.next_line()).await.unwrap().as_deref(),
            Some("ready")
        );
        signal(&child, first);
        assert_eq!(
            soon("a line", lines.next_line()).await.unwrap().as_deref(),
            Some("stopping")
        );
        assert_eq!(ended(child).await.code, Some(143));
    }
    // One that does not listen: its grace is long, and is cut short.
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let child = start(&[
        "run", "--host", &control, "--grace", "1h", "--name", "deaf", &probe, "sleep", "600000",
    ]);
    let state = |wanted: &'static str| {
        let client = client.clone();
        eventually(wanted, move || {
            let client = client.clone();
            async move {
                let agents = client.list_all(&AgentFilter::default()).await.unwrap();
                agents
                    .iter()
                    .any(|agent| agent.state.as_str() == wanted)
                    .then_some(())
            }
        })
    };
    state("running").await;
    signal(&child, Signal::SIGINT);
    state("stopping").await;
    signal(&child, Signal::SIGINT);
    assert_eq!(ended(child).await.code, Some(137));
    host.end().await;
}

#[tokio::test]
async fn a_pipe_that_nobody_writes_to_is_waited_for_until_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    let (probe, input) = (prebuilt("probe"), format!("{pipe}:data"));
    for args in [
        &["run", pipe][..],
        &["run", "--stdin", pipe, &probe],
        &["run", "--input", &input, &probe],
    ] {
        let child = start(args);
        let status = format!("/proc/{}/status", child.id().unwrap());
        eventually("it listens to Ctrl-C", async || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught?.trim(), 16).unwrap();
            (caught >> (Signal::SIGINT as i32 - 1) & 1 == 1).then_some(())
        })
        .await;
        signal(&child, Signal::SIGINT);
        assert_eq!(ended(child).await.code, Some(130), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_terminal_stops_the_agent_on_a_host() {
    let host = TestHost::with(|config| config.capacity.max_agents = 1).await;
    let client = host.client().await;
    let control = host.control().to_string();
    let probe = prebuilt("probe");
    let is = async |name: &str, state: AgentState| {
        eventually(state.as_str(), || async {
            let agents = client.list_all(&AgentFilter::default()).await.unwrap();
            let mut agents = agents.into_iter();
            agents.find(|agent| agent.name.as_str() == name && agent.state == state)
        })
        .await
    };
    let run = |name| {
        start(&[
            "--host",
            &control,
            "run",
            "--name",
            name,
            &probe,
            "until-stop",
        ])
    };
    let first = run("first");
    is("first", AgentState::Running).await;
    let second = run("second");
    is("second", AgentState::Queued).await;
    for (command, name) in [(second, "second"), (first, "first")] {
        signal(&command, Signal::SIGHUP);
        let ended = is(name, AgentState::Exited).await;
        assert_eq!(ended.outcome, Some(Outcome::Stopped { forced: false }));
        assert_eq!(crate::command::ended(command).await.code, Some(143));
    }
    host.end().await;
}

#[tokio::test]
async fn programs_run_under_the_same_contract() {
    let run = async |script: &str| skep(&["run", "--native", "--", "/bin/sh", "-c", script]).await;
    let ran = run("echo out; echo err >&2; exit 7").await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );
    let ran = run("kill -SEGV $$").await;
    assert_eq!(ran.code, Some(139), "{}", ran.stderr);
    let ran = skep_with(&["run", "--native", "--", "/bin/cat"], b"to and fro").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "to and fro"));
}

#[tokio::test]
async fn json_is_one_document_a_line() {
    let ran = run(&["--json"], "probe", &["lines", "2"]).await;
    assert_eq!(ran.code, Some(0));
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let logs: Vec<_> = lines.iter().filter(|line| line["kind"] == "log").collect();
    let told: Vec<_> = logs
        .iter()
        .map(|log| (log["seq"].as_u64(), log["data"].as_str()))
        .collect();
    assert_eq!(told, [(Some(0), Some("line 1")), (Some(1), Some("line 2"))]);
    let last = lines.last().unwrap();
    assert_eq!(
        (
            last["kind"].as_str(),
            last["agent"]["outcome"]["kind"].as_str()
        ),
        (Some("ended"), Some("exited"))
    );
    assert_eq!(last["agent"]["outcome"]["code"], 0);
}

#[tokio::test]
async fn statistics_are_one_line() {
    let ran = run(&["--stats"], "hello", &[]).await;
    assert_eq!(ran.stdout, "Hello, world!\n");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    for told in ["fuel", "memory", "stdout"] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn an_agent_finds_the_errors_of_a_real_log() {
    let logs = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/logs")
        .canonicalize()
        .unwrap();
    let grant = format!("{}:/logs:ro", logs.display());
    let ran = run(&["--dir", &grant], "log-errors", &["/logs/service.log"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // The counts of examples/logs/README.md.
    let lines: Vec<String> = (ran.stdout.lines())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for told in [
        "512 nginx error",
        "140 python",
        "206 json",
        "160 json: charge failed: card declined",
    ] {
        assert!(
            lines.iter().any(|line| line == told),
            "`{told}` is missing from:\n{}",
            ran.stdout
        );
    }
    // Without the grant it finds nothing, and says so.
    let ran = run(&[], "log-errors", &["/logs/service.log"]).await;
    assert_ne!(ran.code, Some(0));
    assert_eq!(ran.stdout, "");
    assert!(!ran.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_embedded_host_logs_holds_nobody_up() {
    let mut run = Command::new(skep_tests::skep_binary());
    run.env("SKEP_LOG_FILTER", "trace")
        .env("SKEP_CACHE_DIR", "none")
        .args(["run", &prebuilt("hello")])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let ran = soon("a run whose host logs", run.output()).await.unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(ran.stdout, b"Hello, world!\n");
    assert!(!ran.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_with_one_advice() {
    let host = HostProcess::start(&["--max-agents", "1"]).await;
    let control = host.control().to_string();
    let refused = async |args: &[&str], told: String| {
        let ran = skep(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{args:?}");
        assert_eq!(ran.stderr, told, "{args:?}");
    };
    let told = "skep: there is no directory /nope: check the path\n";
    refused(&["build", "/nope"], told.to_owned()).await;
    let none = Digest::of(b"none").to_string();
    let told = format!(
        "skep: there is no component {none} here: name its file, or with --host a host that has it \
         (not_found)\n"
    );
    refused(&["run", &none], told.clone()).await;
    for command in ["run", "spawn", "check"] {
        refused(&["--host", &control, command, &none], told.clone()).await;
    }
    let probe = prebuilt("probe");
    let spawn = [
        "--host",
        &control,
        "spawn",
        "--no-queue",
        &probe,
        "until-stop",
    ];
    assert_eq!(skep(&spawn).await.code, Some(0));
    let told =
        "skep: all 1 slots of the host are taken: try again when agents have ended (capacity)\n";
    refused(&spawn, told.to_owned()).await;
    let ran = skep(&["--host", &control, "drain", "--timeout", "0s"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let told = "skep: the host takes no more agents, since it is to end: spawn on another, or later \
                (shutting_down)\n";
    refused(&spawn, told.to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_nobody_could_end_is_refused() {
    let guest = prebuilt("hello");
    let ran = skep(&["run", "--on-fuel-exhausted", "pause", &guest]).await;
    assert_eq!(ran.code, Some(125));
    assert!(ran.stderr.contains("--host"), "{}", ran.stderr);
}
