//! What is told of agents while they run: states, progress, previews, and why
//! nothing happens.

use serde_json::Value;
use skep_client::protocol::spec::{ComponentRef, OnFuelExhausted};
use skep_client::protocol::{AgentId, AgentSpec, AgentState};
use skep_client::{Client, WatchEvent};
use skep_tests::hostile::PROGRESS;
use skep_tests::{HostProcess, Terminal, TestHost, probe, skep_binary, soon};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::command::{ended, prebuilt, run, skep, start};

/// An agent that says that it has done 3 of 6, with a note and a stage that
/// would clear a terminal, and a preview; and then computes for ever.
fn reporter() -> Vec<u8> {
    let component = r#"
        (core module $libc (memory (export "memory") 1)
            (data (i32.const 200) "read\1b[2Jing")
            (data (i32.const 220) "page\1b[1;1H 3")
            (data (i32.const 240) "image/png")
            (data (i32.const 260) "pixels"))
        (core instance $libc (instantiate $libc))
        (core func $f (canon lower (func $progress "report") (memory (core memory $libc "memory"))))
        (core module $m
            (import "" "f" (func $f (param i32)))
            (import "" "memory" (memory 1))
            (func (export "run") (result i32)
                (i32.store (i32.const 0) (i32.const 200)) (i32.store (i32.const 4) (i32.const 11))
                (i32.store (i32.const 8) (i32.const 1)) (i64.store (i32.const 16) (i64.const 3))
                (i32.store (i32.const 24) (i32.const 1)) (i64.store (i32.const 32) (i64.const 6))
                (i32.store (i32.const 72) (i32.const 1))
                (i32.store (i32.const 76) (i32.const 220)) (i32.store (i32.const 80) (i32.const 12))
                (i32.store (i32.const 84) (i32.const 1))
                (i32.store (i32.const 88) (i32.const 240)) (i32.store (i32.const 92) (i32.const 9))
                (i32.store (i32.const 96) (i32.const 260)) (i32.store (i32.const 100) (i32.const 6))
                (loop $again
                    (call $f (i32.const 0))
                    (br $again))
                unreachable))
        (core instance $i (instantiate $m
            (with "" (instance (export "f" (func $f)) (export "memory" (memory $libc "memory"))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $e (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $e))"#;
    wat::parse_str(format!("(component {PROGRESS} {component})")).unwrap()
}

fn reporting() -> AgentSpec {
    let mut spec = AgentSpec::named("worker".parse().unwrap());
    spec.component = Some(ComponentRef::Data(reporter().into()));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bar_stands_below_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("worker.wasm");
    std::fs::write(&file, reporter()).unwrap();
    let (binary, file) = (skep_binary(), file.to_str().unwrap().to_owned());
    let args = ["run", "--stdin", "closed", &file];
    let mut terminal = Terminal::start(binary.to_str().unwrap(), &args, &[]);
    // The agent's own sequences are shown, and do nothing.
    terminal.shows("read\\u{1b}[2Jing [==========>").await;
    terminal.shows("3/6: page\\u{1b}[1;1H 3").await;
    assert!(!terminal.written().contains("\x1b[2J"));
    terminal.types("\x03").await;
    assert_eq!(terminal.ended().await.code(), Some(143));
    assert!(
        !terminal.text().contains("3/6"),
        "the bar is left: {}",
        terminal.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_progress_is_lines_or_nothing_or_json() {
    let told = run(&[], "probe", &["progress"]).await;
    assert_eq!(told.stdout, "reported\n");
    assert!(
        told.stderr
            .ends_with("skep: end 3/3 100% 0 s left: all done\n"),
        "{}",
        told.stderr
    );
    let quiet = run(&["--quiet"], "probe", &["progress"]).await;
    assert_eq!(
        (quiet.stdout.as_str(), quiet.stderr.as_str()),
        ("reported\n", "")
    );
    let json = run(&["--json"], "probe", &["progress"]).await;
    let documents: Vec<Value> = (json.stdout.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = documents
        .iter()
        .rfind(|line| line["kind"] == "progress")
        .unwrap();
    assert_eq!(
        (last["stage"].as_str(), last["preview"]["bytes"].as_u64()),
        (Some("end"), Some(9))
    );
    assert_eq!(json.stderr, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_are_saved_here_and_from_a_host() {
    let dir = tempfile::tempdir().unwrap();
    let previews = dir.path().join("previews");
    let into = previews.to_str().unwrap().to_owned();
    for number in 1..=2 {
        let ran = run(
            &["--preview-dir", &into, "--name", "p"],
            "probe",
            &["progress"],
        )
        .await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let saved = previews.join(format!("p-{number}.txt"));
        assert_eq!(std::fs::read(saved).unwrap(), b"a preview");
    }
    assert_eq!(std::fs::read_dir(&previews).unwrap().count(), 2);

    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(reporting(), None).await.unwrap().id;
    let control = host.control().to_string();
    for command in [["logs", "-f"].as_slice(), &["attach", "--no-stdin"]] {
        let flags = ["--preview-dir", &into, "worker"];
        let following = start(&[&["--host", &control], command, &flags].concat());
        let count = || std::fs::read_dir(&previews).unwrap().count();
        let before = count();
        skep_tests::eventually("a preview", || async { (count() > before).then_some(()) }).await;
        drop(following);
    }
    assert_eq!(
        std::fs::read(previews.join("worker-1.png")).unwrap(),
        b"pixels"
    );
    client.kill(agent).await.unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_renews_itself() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let binary = skep_binary();
    let args = ["--host", &control, "ps", "--watch"];
    let mut terminal = Terminal::start(binary.to_str().unwrap(), &args, &[]);
    terminal.shows("PROGRESS").await;
    let agent = client.spawn(reporting(), None).await.unwrap().id;
    terminal.shows("worker  running").await;
    terminal.shows("[=====     ] read").await;
    client.pause(agent).await.unwrap();
    terminal.shows("worker  paused").await;
    client.kill(agent).await.unwrap();
    terminal.shows("worker  killed").await;
    assert_eq!(
        terminal.text().matches("PROGRESS").count(),
        1,
        "{}",
        terminal.text()
    );
    assert!(!terminal.written().contains("\x1b[2J"));
    for line in terminal.text().lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    terminal.types("\x03").await;
    assert_eq!(terminal.ended().await.code(), Some(130));
    let piped = skep(&["--host", &control, "ps", "--watch"]).await;
    assert!(piped.stderr.contains("skep events"), "{}", piped.stderr);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_state_is_a_line() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    let mut child = start(&["--host", &control, "events", "--json", &agent.to_string()]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = soon("an event", lines.next_line()).await.unwrap()?;
        let event: Value = serde_json::from_str(&line).unwrap();
        Some(event["state"].as_str().unwrap().to_owned())
    };
    while next().await.unwrap() != "running" {}
    client.pause(agent).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("paused"));
    client.resume(agent).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("running"));
    client.stop(agent, None).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("stopping"));
    assert_eq!(next().await.as_deref(), Some("exited"));
    assert_eq!(next().await, None);
    assert_eq!(ended(child).await.code, Some(0));
    let text = skep(&["--host", &control, "events", &agent.to_string()]).await;
    assert!(text.stdout.ends_with("probe stopped\n"), "{}", text.stdout);
    host.end().await;
}

/// The next state of an agent.
async fn state(watch: &mut skep_client::Watch, agent: AgentId) -> Option<AgentState> {
    loop {
        match soon("a change", watch.next()).await.unwrap()? {
            WatchEvent::Status(status) if status.agent == agent => return Some(status.state),
            WatchEvent::Gone(gone) if gone == agent => return None,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_all_outlives_the_host() {
    let mut host = HostProcess::start(&[]).await;
    let client: Client = host.client();
    let mut watch = client.watch_all().await.unwrap();
    let before = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    while state(&mut watch, before).await != Some(AgentState::Running) {}
    host.kill_9();
    host.start_again().await;
    // It is gone, or is as the host says now; a new one is told.
    let after = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    while state(&mut watch, after).await != Some(AgentState::Running) {}
    client.kill(after).await.unwrap();
    while state(&mut watch, after).await != Some(AgentState::Exited) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_says_why() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let guest = prebuilt("probe");
    let hint = async |child: &mut Child| {
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        soon("a hint", lines.next_line()).await.unwrap().unwrap()
    };
    let host_flag = ["run", "--host", &control];
    let pause = [
        "--fuel",
        "1M",
        "--on-fuel-exhausted",
        "pause",
        &guest,
        "spin",
    ];
    let mut child = start(&[host_flag.as_slice(), &pause].concat());
    let said = hint(&mut child).await;
    let agents = client
        .list_all(&skep_client::AgentFilter::default())
        .await
        .unwrap();
    let agent = agents[0].id;
    assert_eq!(agents[0].spec.on_fuel_exhausted, OnFuelExhausted::Pause);
    assert!(said.contains("out of fuel"), "{said}");
    // What it says can be done.
    let refuel = format!("skep refuel {agent} 1G");
    assert!(said.contains(&refuel), "{said}");
    let ran = skep(&["--host", &control, "refuel", &agent.to_string(), "1G"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    client.kill(agent).await.unwrap();
    assert_eq!(ended(child).await.code, Some(137));

    let mut child = start(&[host_flag.as_slice(), &[&guest, "until-stop"]].concat());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    soon("a line", lines.next_line()).await.unwrap().unwrap();
    let agents = client
        .list_all(&skep_client::AgentFilter::default())
        .await
        .unwrap();
    let agent = agents
        .iter()
        .find(|agent| agent.outcome.is_none())
        .unwrap()
        .id;
    client.pause(agent).await.unwrap();
    let said = hint(&mut child).await;
    assert!(said.contains(&format!("skep resume {agent}")), "{said}");
    child.start_kill().unwrap();
    client.kill(agent).await.unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_here_is_not_blamed_on_an_operator() {
    let guest = prebuilt("hello");
    for (args, code, told) in [
        (
            ["--dir", "/no/such:/x", &guest].as_slice(),
            125,
            "there is no directory /no/such",
        ),
        (
            &["--native", "--", "./no-such-program"],
            127,
            "there is no file ./no-such-program",
        ),
        (
            &["--native", "--fuel", "5", "--", "/bin/true"],
            125,
            "a native agent has no",
        ),
    ] {
        let ran = skep(&[&["run"], args].concat()).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
    }
    let ran = skep(&["serve", "--set", "nonsense.key=1"]).await;
    assert!(
        ran.stderr.contains("there is no `nonsense`"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("``"), "{}", ran.stderr);
}
