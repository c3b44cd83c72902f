//! The commands that ask a host, and the one that is one.

use serde_json::Value;
use skep_tests::TestHost;

use crate::command::{ended, prebuilt, skep, skep_with, start};

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
