//! A request that is sent again is answered again and never done again.

use serde_json::{Value, json};
use skep_client::protocol::Outcome;
use skep_protocol::RequestId;
use skep_protocol::codec::encode_request;
use skep_protocol::op::AgentSpawn;
use skep_tests::{TestHost, end_of, probe, spec};

use crate::raw::{Raw, new_id, request};
use crate::written;

fn spawn_of(id: RequestId, spec: skep_protocol::AgentSpec) -> Vec<u8> {
    encode_request(
        id,
        &AgentSpawn {
            spec,
            when_full: None,
        },
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_spawn_is_done_once() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let (id, text) = (RequestId::random(), |id: RequestId| id.to_string());
    let payload = spawn_of(id, spec("hello", &[]));
    let mut raw = Raw::connect(host.control()).await;
    let first = raw.ask(payload.clone()).await;
    assert_eq!(first.id(), text(id));
    let agent = first.body()["agent"]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        end_of(&client, agent).await.output.stdout(),
        "Hello, world!\n"
    );

    // Over the same connection and over another, long after it was done.
    assert_eq!(raw.ask(payload.clone()).await, first);
    let mut other = Raw::connect(host.control()).await;
    assert_eq!(other.ask(payload).await, first);
    assert_eq!(client.stats().await.unwrap().spawns, 1);

    // The same id for something else.
    for wrong in [
        spawn_of(id, spec("hello", &["you"])),
        request(&text(id), "agent.kill", json!({ "agent": agent })),
    ] {
        let answer = other.ask(wrong).await;
        assert_eq!(
            (answer.code(), answer.id()),
            ("conflict", text(id).as_str())
        );
        assert_eq!(answer.details()["field"], "id");
    }
    assert_eq!(client.stats().await.unwrap().spawns, 1);

    // Another id is another request.
    let second = other
        .ask(spawn_of(RequestId::random(), spec("hello", &[])))
        .await;
    assert_ne!(second.body()["agent"]["id"], first.body()["agent"]["id"]);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_under_way_wait_for_the_first() {
    const TIMES: usize = 10;
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut raws = [
        Raw::connect(host.control()).await,
        Raw::connect(host.control()).await,
    ];
    // Looking through the bytes of the component takes a while.
    let payload = spawn_of(RequestId::random(), probe(&["sleep", "600000"]));
    for _ in 0..TIMES {
        for raw in &mut raws {
            raw.send(payload.clone()).await;
        }
    }
    let mut answers = Vec::new();
    for _ in 0..TIMES {
        for raw in &mut raws {
            answers.push(raw.answer().await);
        }
    }
    assert!(answers[0].ok(), "{:?}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(client.stats().await.unwrap().spawns, 1);

    // A stop is under way for as long as the agent takes to end.
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    written(&client, agent, 1).await;
    let stop = request(&new_id(), "agent.stop", json!({ "agent": agent }));
    let [first, second] = &mut raws;
    first.send(stop.clone()).await;
    second.send(stop).await;
    let (one, two) = (first.answer().await, second.answer().await);
    assert_eq!(one, two);
    assert_eq!(
        end_of(&client, agent).await.outcome,
        Outcome::Stopped { forced: false }
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_is_sent_again_is_taken_once() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut echo = spec("echo", &[]);
    echo.stdin = skep_protocol::spec::Stdin::Open;
    let agent = client.spawn(echo, None).await.unwrap().id;
    let mut raw = Raw::connect(host.control()).await;
    let body = skep_protocol::op::AgentStdin {
        agent,
        data: Some(serde_bytes::ByteBuf::from(*b"once\n")),
        close: false,
    };
    let payload = encode_request(RequestId::random(), &body).unwrap();
    for _ in 0..5 {
        assert_eq!(raw.ask(payload.clone()).await.body()["accepted"], 5);
    }
    client.close_stdin(agent).await.unwrap();
    assert_eq!(end_of(&client, agent).await.output.stdout(), "once\n");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_remembered_like_any_answer() {
    let host = TestHost::with(|config| {
        config.capacity.max_agents = 1;
        config.capacity.max_queued = 0;
    })
    .await;
    let client = host.client().await;
    let sleeper = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap();
    let mut raw = Raw::connect(host.control()).await;
    let payload = spawn_of(RequestId::random(), spec("hello", &[]));
    let refused = raw.ask(payload.clone()).await;
    assert_eq!(refused.code(), "capacity");
    client.kill(sleeper.id).await.unwrap();
    assert_eq!(raw.ask(payload).await, refused);
    let again = raw
        .ask(spawn_of(RequestId::random(), spec("hello", &[])))
        .await;
    assert_ne!(again.body()["agent"]["id"], Value::Null);
    host.end().await;
}
