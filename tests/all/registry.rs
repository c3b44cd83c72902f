//! The agents of a host: finding them, forgetting them, and the slots that they
//! take.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_client::AgentFilter;
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentId, AgentState, Digest, Outcome};
use skep_protocol::ErrorCode;
use skep_protocol::op::WhenFull;
use skep_tests::{HostProcess, TestHost, probe, run, spec};

use crate::{quiet, refusal, refused, running};

const REJECT: Option<WhenFull> = Some(WhenFull::Reject);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_the_guests_own() {
    let host = TestHost::start().await;
    let client = host.client().await;
    for code in [0, 1, 7, 255] {
        let ended = run(&client, probe(&["exit", &code.to_string()])).await;
        assert_eq!(ended.outcome, Outcome::Exited { code });
    }
    let outcomes = client.stats().await.unwrap().outcomes;
    assert_eq!(outcomes, BTreeMap::from([("exited".to_owned(), 4)]));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_listed_found_and_forgotten() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let mut sleeper = probe(&["sleep", "600000"]);
        sleeper.name = format!("sleeper-{}", number % 2).parse().unwrap();
        sleeper
            .labels
            .insert("number".to_owned(), number.to_string());
        ids.push(client.spawn(sleeper, None).await.unwrap().id);
    }
    let ended = run(&client, spec("hello", &[])).await.info;
    let listed = async |filter: AgentFilter| -> Vec<AgentId> {
        client
            .list_all(&filter)
            .await
            .unwrap()
            .iter()
            .map(|agent| agent.id)
            .collect()
    };
    let mut all = ids.clone();
    all.push(ended.id);
    all.sort_unstable();
    assert_eq!(listed(AgentFilter::default()).await, all);
    let exited = AgentFilter {
        states: Some(vec![AgentState::Exited]),
        ..AgentFilter::default()
    };
    assert_eq!(listed(exited).await, [ended.id]);
    let named = AgentFilter {
        name: Some("sleeper-1".parse().unwrap()),
        ..AgentFilter::default()
    };
    let mut expected = vec![ids[1], ids[3]];
    expected.sort_unstable();
    assert_eq!(listed(named).await, expected);
    let labels = BTreeMap::from([("number".to_owned(), "4".to_owned())]);
    assert_eq!(
        listed(AgentFilter {
            labels,
            ..AgentFilter::default()
        })
        .await,
        [ids[4]]
    );

    running(&client, ids[0]).await;
    let refusal = refusal(client.forget(ids[0]).await);
    assert_eq!(refusal.code, ErrorCode::WrongState);
    assert_eq!(refusal.details.state.as_deref(), Some("running"));
    assert_eq!(client.get(ended.id).await.unwrap(), ended);
    client.forget(ended.id).await.unwrap();
    refused(client.get(ended.id).await, ErrorCode::NotFound);
    refused(
        client.output(ended.id, None, 0, None).await,
        ErrorCode::NotFound,
    );
    refused(client.forget(ended.id).await, ErrorCode::NotFound);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_there_is_not_found() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let nobody = AgentId::random();
    refused(client.get(nobody).await, ErrorCode::NotFound);
    refused(client.stop(nobody, None).await, ErrorCode::NotFound);
    refused(client.kill(nobody).await, ErrorCode::NotFound);
    refused(
        client.wait(nobody, Some(Duration::from_secs(1))).await,
        ErrorCode::NotFound,
    );
    refused(client.stdin(nobody, b"x", false).await, ErrorCode::NotFound);
    refused(
        client.output(nobody, None, 0, None).await,
        ErrorCode::NotFound,
    );
    refused(client.subscribe(nobody).await, ErrorCode::NotFound);
    refused(client.forget(nobody).await, ErrorCode::NotFound);
    refused(
        client.stat_component(Digest::of(b"")).await,
        ErrorCode::NotFound,
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_host_refuses_and_each_end_makes_room() {
    let host = TestHost::with(|config| config.capacity.max_agents = 2).await;
    let client = host.client().await;
    let sleeper = || probe(&["sleep", "600000"]);
    let first = client.spawn(sleeper(), None).await.unwrap();
    client.spawn(sleeper(), None).await.unwrap();
    for _ in 0..3 {
        let refusal = refusal(client.spawn(spec("hello", &[]), REJECT).await);
        assert_eq!(refusal.code, ErrorCode::Capacity);
        let details = refusal.details;
        assert_eq!((details.running, details.max), (Some(2), Some(2)));
        assert_eq!(details.queued, Some(0));
    }
    client.kill(first.id).await.unwrap();
    // Who sees the end finds the slot free, every time.
    for _ in 0..20 {
        let ended = run(&client, spec("hello", &[])).await;
        assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    }
    client.spawn(sleeper(), None).await.unwrap();
    refused(client.spawn(sleeper(), REJECT).await, ErrorCode::Capacity);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_few_among_many_of_a_host_before_comes_in_pages() {
    const AGENTS: usize = 1100;
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let hello = run(&client, spec("hello", &[])).await.info;
    let component = hello.spec.component.map(ComponentRef::Digest);
    for number in 1..AGENTS {
        let mut spec = spec("hello", &[]);
        spec.component = component.clone();
        let label = if number % 500 == 0 { "rare" } else { "common" };
        spec.labels.insert("kind".to_owned(), label.to_owned());
        client.spawn(spec, None).await.unwrap();
    }
    quiet(&client).await;
    host.kill_9();
    host.start_again().await;
    let rare = AgentFilter {
        labels: BTreeMap::from([("kind".to_owned(), "rare".to_owned())]),
        ..AgentFilter::default()
    };
    let first = client.list(&rare, None).await.unwrap();
    assert!(first.next.is_some(), "not all were looked at");
    assert_eq!(client.list_all(&rare).await.unwrap().len(), 2);
    let of_one_name = AgentFilter {
        name: Some(hello.name),
        ..rare
    };
    assert_eq!(client.list_all(&of_one_name).await.unwrap().len(), 2);
    let all = client.list_all(&AgentFilter::default()).await.unwrap();
    assert_eq!(all.len(), AGENTS);
    assert!(all.is_sorted_by_key(|agent| agent.id));
}
