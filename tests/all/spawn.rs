//! Starting agents: from bytes and from a digest, with all that they are told.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentState, Digest, Outcome, RunnerKind};
use skep_protocol::ErrorCode;
use skep_protocol::op::ComponentPut;
use skep_tests::{TestHost, guest, probe, run, spec};
use tokio::task::JoinSet;

use crate::refused;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_from_its_bytes() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, spec("hello", &[])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(ended.output.stdout(), "Hello, world!\n");
    assert_eq!(ended.info.state, AgentState::Exited);
    assert_eq!(ended.info.runner, RunnerKind::Wasm);
    assert_eq!(ended.info.spec.component, Some(Digest::of(&guest("hello"))));
    assert!(ended.info.created_ms <= ended.info.started_ms.unwrap());
    assert!(ended.info.started_ms <= ended.info.exited_ms);
    assert!(ended.info.usage.fuel_used > 0);
    assert_eq!(ended.info.usage.stdout_bytes, 14);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_from_its_digest() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let bytes = guest("hello");
    let digest = Digest::of(&bytes);
    let put = |offset: usize, data: &[u8]| ComponentPut {
        digest,
        size: bytes.len() as u64,
        offset: offset as u64,
        data: ByteBuf::from(data),
    };
    refused(client.stat_component(digest).await, ErrorCode::NotFound);

    // The last chunk first, some of them twice.
    const CHUNK: usize = 10_000;
    for (number, chunk) in bytes
        .chunks(CHUNK)
        .enumerate()
        .skip(1)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        for _ in 0..1 + number % 2 {
            let reply = client
                .put_component(&put(number * CHUNK, chunk))
                .await
                .unwrap();
            assert_eq!(
                (reply.received, reply.complete),
                (0, false),
                "chunk {number}"
            );
        }
    }
    refused(client.stat_component(digest).await, ErrorCode::NotFound);
    let reply = client
        .put_component(&put(0, &bytes[..CHUNK]))
        .await
        .unwrap();
    assert_eq!((reply.received, reply.complete), (bytes.len() as u64, true));

    let stat = client.stat_component(digest).await.unwrap();
    assert_eq!(
        (stat.size, stat.kind.as_str()),
        (bytes.len() as u64, "command")
    );
    assert!(
        stat.imports
            .iter()
            .any(|import| import.starts_with("wasi:cli/")),
        "{:?}",
        stat.imports
    );
    assert_eq!(stat.missing, Vec::<String>::new());
    let mut hello = spec("hello", &["digest"]);
    hello.component = Some(ComponentRef::Digest(digest));
    let ended = run(&client, hello.clone()).await;
    assert_eq!(ended.output.stdout(), "Hello, digest!\n");
    let listed = client.all_components().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|c| (c.digest, c.compiled))
            .collect::<Vec<_>>(),
        [(digest, true)]
    );

    client.remove_component(digest).await.unwrap();
    refused(client.remove_component(digest).await, ErrorCode::NotFound);
    refused(client.spawn(hello, None).await, ErrorCode::NotFound);
    assert_eq!(client.all_components().await.unwrap(), []);
    // And once more, by the library's own way.
    assert_eq!(client.upload(&bytes).await.unwrap(), digest);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_what_its_digest_says() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let bytes = guest("hello");
    let wrong = ComponentPut {
        digest: Digest::of(b"something else"),
        size: bytes.len() as u64,
        offset: 0,
        data: ByteBuf::from(bytes.clone()),
    };
    refused(
        client.put_component(&wrong).await,
        ErrorCode::DigestMismatch,
    );
    assert_eq!(client.all_components().await.unwrap(), []);
    // Any bytes may be brought: whether they can run is asked by who runs them.
    let text = client.upload(b"no component at all").await.unwrap();
    assert_eq!(client.stat_component(text).await.unwrap().kind, "blob");
    let mut spec = spec("hello", &[]);
    spec.component = Some(ComponentRef::Digest(text));
    refused(client.spawn(spec, None).await, ErrorCode::InvalidComponent);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_bring_the_same_component_at_once_have_it_taken() {
    let host = TestHost::start().await;
    // More than may wait for the check of it, which takes some time.
    let (bytes, mut uploads) = (guest("log-errors"), JoinSet::new());
    for _ in 0..30 {
        let (client, bytes) = (host.client().await, bytes.clone());
        uploads.spawn(async move { client.upload(&bytes).await });
    }
    while let Some(uploaded) = uploads.join_next().await {
        assert_eq!(uploaded.unwrap().unwrap(), Digest::of(&bytes));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_stop_while_it_is_compiled_has_begun_all_the_same() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    let ended = client.stop(agent, None).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Stopped { forced: false }));
    assert_eq!(ended.usage.stdout_bytes, "ready\nstopping\n".len() as u64);
    assert!(ended.created_ms <= ended.started_ms.unwrap(), "{ended:?}");
    assert!(ended.started_ms <= ended.exited_ms, "{ended:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_and_environment_are_those_of_the_spec_and_no_others() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, spec("hello", &["a \"b\" é\n"])).await;
    assert_eq!(ended.output.stdout(), "Hello, a \"b\" é\n!\n");

    let mut env = probe(&["env"]);
    env.name = "asker".parse().unwrap();
    env.env = BTreeMap::from([
        ("A".to_owned(), "b=c".to_owned()),
        ("EMPTY".to_owned(), String::new()),
        ("PASSWORD".to_owned(), "not to be shown".to_owned()),
    ]);
    let ended = run(&client, env).await;
    assert_eq!(
        ended.output.stdout(),
        "arg 0 asker\narg 1 env\nenv A=b=c\nenv EMPTY=\nenv PASSWORD=not to be shown\nenv SKEP_NAME=asker\n"
    );
    let shown = client.get(ended.info.id).await.unwrap();
    assert_eq!(shown.spec.env, ["A", "EMPTY", "PASSWORD"]);
    assert!(!format!("{shown:?}").contains("not to be shown"));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guest_reads_its_task() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut asked = probe(&["task"]);
    asked.name = "worker".parse().unwrap();
    asked.task = "count the words".to_owned();
    asked.context = "of a poem\nby Rilke".to_owned();
    asked.system_prompt = "be exact".to_owned();
    asked.model = "small".to_owned();
    asked.labels = BTreeMap::from([
        ("team".to_owned(), "bees".to_owned()),
        ("zone".to_owned(), "a=b".to_owned()),
    ]);
    let ended = run(&client, asked.clone()).await;
    assert_eq!(
        ended.output.stdout(),
        "name: worker\ntask: count the words\ncontext: of a poem\nby Rilke\nsystem_prompt: be exact\n\
         model: small\nlabel: team=bees\nlabel: zone=a=b\n"
    );
    assert_eq!(
        (ended.info.spec.task, ended.info.spec.labels),
        (asked.task.clone(), asked.labels.clone())
    );

    // The same for who reads the environment.
    asked.args = vec!["env".to_owned()];
    let ended = run(&client, asked).await;
    let env: Vec<_> = ended
        .output
        .stdout()
        .lines()
        .skip(2)
        .map(str::to_owned)
        .collect();
    let expected = [
        "env SKEP_CONTEXT=of a poem",
        "by Rilke",
        "env SKEP_MODEL=small",
        "env SKEP_NAME=worker",
        "env SKEP_SYSTEM_PROMPT=be exact",
        "env SKEP_TASK=count the words",
    ];
    assert_eq!(env, expected);
    host.end().await;
}
