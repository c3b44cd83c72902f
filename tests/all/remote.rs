//! The commands that ask a host, and the one that is one.

use serde_json::{Value, json};
use skep_client::AgentFilter;
use skep_tests::{TestHost, probe};

use crate::command::{ended, prebuilt, skep, skep_with, start};
use crate::running;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_on_a_host_is_commanded_from_elsewhere() {
    let host = TestHost::start().await;
    let control = host.control().to_string();
    let on_host = async |args: &[&str]| {
        let ran = skep(&[&["--host", &control], args].concat()).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran.stdout
    };
    let echo = prebuilt("echo");
    let id = on_host(&["spawn", "--stdin", "open", "--label", "a=b", &echo]).await;
    let id = id.trim();
    assert_eq!(
        id.parse::<skep_protocol::AgentId>().unwrap().to_string(),
        id
    );
    assert!(on_host(&["ps"]).await.contains(&id[..8]));
    let told: Value = serde_json::from_str(&on_host(&["inspect", "--json", "echo"]).await).unwrap();
    assert_eq!(
        (told["id"].as_str(), told["spec"]["labels"]["a"].as_str()),
        (Some(id), Some("b"))
    );

    let following = start(&["--host", &control, "logs", "-f", &id[..8]]);
    let said = skep_with(
        &["--host", &control, "stdin", "--close", id],
        b"is anyone there?\n",
    )
    .await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(ended(following).await.stdout, "is anyone there?\n");
    on_host(&["wait", "echo"]).await;
    assert_eq!(on_host(&["logs", id]).await, "is anyone there?\n");
    assert!(!on_host(&["ps"]).await.contains(&id[..8]));
    assert!(on_host(&["ps", "-a"]).await.contains(&id[..8]));
    on_host(&["rm", id]).await;
    assert_eq!(
        skep(&["--host", &control, "inspect", id]).await.code,
        Some(125)
    );
    host.end().await;
}

#[tokio::test]
async fn a_host_says_what_it_would_do() {
    let ran = skep(&["serve", "--print-config", "--max-agents", "7"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("max_agents = 7"), "{}", ran.stdout);
    let ran = skep(&["serve", "--control", "tcp://0.0.0.0:5555"]).await;
    assert_eq!(ran.code, Some(125));
    assert!(ran.stderr.contains("server.control"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_agents_one_that_fails_holds_nobody_up() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let on_host = async |args: &[&str]| skep(&[&["--host", &control], args].concat()).await;
    for name in ["first", "last"] {
        let mut spec = probe(&["until-stop"]);
        spec.name = name.parse().unwrap();
        let agent = client.spawn(spec, None).await.unwrap();
        running(&client, agent.id).await;
    }
    let three = ["first", "nobody", "last"];
    for (command, state) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("stop", "exited"),
        ("kill", "exited"),
    ] {
        let ran = on_host(&[&[command], &three[..]].concat()).await;
        assert_eq!(ran.code, Some(125), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("`nobody`"), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        for (line, name) in ran.stdout.lines().zip(["first", "last"]) {
            assert!(line.contains(name) && line.contains(state), "{line}");
        }
        assert_eq!(ran.stdout.lines().count(), 2, "{command}: {}", ran.stdout);
    }
    // Each that fails is told of, by the name that was given.
    let ran = on_host(&[&["pause"], &three[..]].concat()).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""));
    for (line, name) in ran.stderr.lines().zip(["first: ", "", "last: "]) {
        assert!(line.starts_with(&format!("skep: {name}")), "{line}");
    }
    assert_eq!(ran.stderr.lines().count(), 3, "{}", ran.stderr);
    // As JSON, each is one line.
    let documents = |stdout: &str| -> Vec<Value> {
        let lines = stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let told = documents(
        &on_host(&[&["--json", "kill"], &three[..]].concat())
            .await
            .stdout,
    );
    let names: Vec<_> = told.iter().map(|agent| &agent["name"]).collect();
    assert_eq!(names, ["first", "last"]);
    let ran = on_host(&[&["--json", "rm"], &three[..]].concat()).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    for (gone, agent) in documents(&ran.stdout).iter().zip(&told) {
        assert_eq!(gone, &json!({ "removed": agent["id"] }));
    }
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
    assert!(
        client
            .list_all(&AgentFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_gone_is_nobody_elses_id() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, agent).await;
    let (id, control) = (agent.to_string(), control.as_str());
    let ran = skep(&["--host", control, "kill", &id[..3]]).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("the first 4 characters"),
        "{}",
        ran.stderr
    );
    running(&client, agent).await;
    let ran = skep(&["--host", control, "kill", &id[..4]]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    host.end().await;
}
