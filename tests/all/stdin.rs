//! Standard input: none, given, or spoken into while the agent runs.

use std::time::Duration;

use serde_bytes::ByteBuf;
use skep_client::protocol::Outcome;
use skep_client::{FollowOptions, LogItem};
use skep_protocol::ErrorCode;
use skep_protocol::spec::Stdin;
use skep_tests::{TestHost, end_of, probe, run, soon, spec};

use crate::{refusal, refused, running};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_and_given_input_end() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, probe(&["read-stdin"])).await;
    assert_eq!(ended.output.stdout(), "0 bytes\n");
    for size in [0, 1, 100_000, 1024 * 1024] {
        let mut reader = probe(&["read-stdin"]);
        reader.stdin = Stdin::Data(ByteBuf::from(vec![b'x'; size]));
        let ended = run(&client, reader).await;
        assert_eq!(ended.output.stdout(), format!("{size} bytes\n"));
        assert_eq!(ended.info.usage.stdin_bytes, size as u64);
    }
    let mut reader = probe(&["read-stdin"]);
    reader.stdin = Stdin::Data(ByteBuf::from(vec![b'x'; 1024 * 1024 + 1]));
    let refusal = refusal(client.spawn(reader, None).await);
    assert_eq!(refusal.code, ErrorCode::InvalidArgument);
    assert_eq!(refusal.details.field.as_deref(), Some("spec.stdin.data"));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_answers_each_line_as_it_comes() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut echo = spec("echo", &[]);
    echo.stdin = Stdin::Open;
    let agent = client.spawn(echo, None).await.unwrap().id;
    let mut log = client.follow(agent, FollowOptions::default());
    for line in ["one", "two", "", "drei é", "\u{1}"] {
        let data = format!("{line}\n");
        assert_eq!(
            client.stdin(agent, data.as_bytes(), false).await.unwrap(),
            data.len() as u64
        );
        let answer = soon("an answer", log.next()).await.unwrap();
        let Some(LogItem::Record(record)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (record.data.as_slice(), record.partial),
            (line.as_bytes(), false)
        );
    }
    client.stdin(agent, b"no newline", true).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert!(
        ended.output.stdout().ends_with("\nno newline"),
        "{}",
        ended.output.stdout()
    );
    assert!(ended.output.records.last().unwrap().partial);

    let refusal = refusal(client.stdin(agent, b"more", false).await);
    assert_eq!(refusal.code, ErrorCode::WrongState);
    assert_eq!(refusal.details.state.as_deref(), Some("exited"));
    refused(client.close_stdin(agent).await, ErrorCode::WrongState);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_twice_does_no_harm() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut sleeper = probe(&["sleep", "600000"]);
    sleeper.stdin = Stdin::Open;
    let open = client.spawn(sleeper, None).await.unwrap().id;
    client.close_stdin(open).await.unwrap();
    client.close_stdin(open).await.unwrap();
    refused(
        client.stdin(open, b"late", false).await,
        ErrorCode::WrongState,
    );

    // What was never open can be closed, not written to.
    let closed = client
        .spawn(probe(&["sleep", "600000"]), None)
        .await
        .unwrap()
        .id;
    client.close_stdin(closed).await.unwrap();
    refused(
        client.stdin(closed, b"x", false).await,
        ErrorCode::WrongState,
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_nobody_reads_is_bounded() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut sleeper = probe(&["sleep", "600000"]);
    sleeper.stdin = Stdin::Open;
    sleeper.limits.stdin_bytes = Some(1000);
    let agent = client.spawn(sleeper, None).await.unwrap().id;
    running(&client, agent).await;
    assert_eq!(client.stdin(agent, &[b'x'; 600], false).await.unwrap(), 600);
    // Not all of it: it is not closed either.
    assert_eq!(client.stdin(agent, &[b'x'; 600], true).await.unwrap(), 400);
    for _ in 0..10 {
        assert_eq!(client.stdin(agent, &[b'x'; 600], false).await.unwrap(), 0);
    }
    let stalled = Some(Duration::from_millis(50));
    client
        .write_all_stdin(agent, b"x", stalled)
        .await
        .unwrap_err();
    assert_eq!(client.kill(agent).await.unwrap().usage.stdin_bytes, 1000);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_at_once_goes_in_piece_by_piece() {
    const SIZE: usize = 5_000_000;
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut reader = probe(&["read-stdin"]);
    reader.stdin = Stdin::Open;
    reader.limits.stdin_bytes = Some(100_000);
    let agent = client.spawn(reader, None).await.unwrap().id;
    let data = vec![b'x'; SIZE];
    let stalled = Some(skep_tests::DEADLINE);
    client.write_all_stdin(agent, &data, stalled).await.unwrap();
    client.close_stdin(agent).await.unwrap();
    let ended = end_of(&client, agent).await;
    assert_eq!(ended.output.stdout(), format!("{SIZE} bytes\n"));
    assert_eq!(ended.info.usage.stdin_bytes, SIZE as u64);
    host.end().await;
}
