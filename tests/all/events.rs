//! What a host publishes of an agent: records, states and progress.

use serde_bytes::ByteBuf;
use skep_client::Client;
use skep_client::protocol::codec::decode;
use skep_client::protocol::event::{LogRecord, Preview, ProgressEvent, StatusEvent};
use skep_client::protocol::{AgentState, Outcome};
use skep_tests::{TestHost, end_of, probe, run, soon, spec};
use skep_transport::{Event, Subscription};

use crate::written;

/// Everything that a host publishes, from now on for certain.
pub(crate) async fn everything(client: &Client) -> Subscription {
    let endpoint = client.hello().await.unwrap().events.unwrap();
    let mut events = client.connection().subscribe("").await;
    client
        .connection()
        .subscribe_events(&endpoint.parse().unwrap());
    skep_tests::eventually("a first event", || {
        let first = events.try_recv();
        async {
            run(client, spec("hello", &[])).await;
            first
        }
    })
    .await;
    events
}

/// The next event of a topic; others are passed over.
pub(crate) async fn next(events: &mut Subscription, topic: &str) -> Event {
    loop {
        let event = soon("the next event", events.recv()).await.unwrap();
        if event.topic == topic {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_report_of_progress_is_told() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut events = everything(&client).await;
    let agent = client.spawn(probe(&["progress"]), None).await.unwrap().id;
    let topic = format!("progress.{agent}");
    let mut stages = Vec::new();
    let last = loop {
        let event = next(&mut events, &topic).await;
        let progress: ProgressEvent = decode(&event.payload).unwrap();
        assert_eq!(progress.agent, agent);
        stages.push(progress.stage.clone());
        if progress.stage == "end" {
            break progress;
        }
        assert_eq!(
            (progress.stage.as_str(), &progress.note, &progress.preview),
            ("begin", &None, &None)
        );
    };
    // Those in between may be passed over; none is told twice.
    assert!(stages.len() <= 4, "{stages:?}");
    assert_eq!(
        (last.step, last.total, last.fraction, last.eta_ms),
        (Some(3), Some(3), Some(1.0), Some(0))
    );
    assert_eq!(last.note.as_deref(), Some("all done"));
    let preview = Preview {
        mime: "text/plain".to_owned(),
        data: ByteBuf::from(*b"a preview"),
    };
    assert_eq!(last.preview, Some(preview));
    assert_eq!(end_of(&client, agent).await.output.stdout(), "reported\n");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_state_is_told_with_its_generation() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut events = everything(&client).await;
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    written(&client, agent, 1).await;
    let ended = client.stop(agent, None).await.unwrap();
    let topic = format!("status.{agent}");
    for (generation, state) in [
        (0, AgentState::Starting),
        (1, AgentState::Running),
        (2, AgentState::Stopping),
        (3, AgentState::Exited),
    ] {
        let status: StatusEvent = decode(&next(&mut events, &topic).await.payload).unwrap();
        assert_eq!(
            (status.agent, status.generation, status.state),
            (agent, generation, state)
        );
        if state == AgentState::Exited {
            assert_eq!(status.outcome, Some(Outcome::Stopped { forced: false }));
            assert_eq!((status.last_seq, status.usage.stdout_bytes), (Some(1), 15));
            assert_eq!(status.usage, ended.usage);
        } else {
            assert_eq!(status.outcome, None);
        }
    }
    assert_eq!((ended.generation, ended.state), (3, AgentState::Exited));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_published_before_the_end() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut events = everything(&client).await;
    let agent = client
        .spawn(probe(&["lines", "1000"]), None)
        .await
        .unwrap()
        .id;
    let (log, status) = (format!("log.{agent}.stdout"), format!("status.{agent}"));
    let mut seen = 0;
    loop {
        let event = soon("the next event", events.recv()).await.unwrap();
        if event.topic == log {
            let record: LogRecord = decode(&event.payload).unwrap();
            assert_eq!((record.seq, record.run), (seen, 0));
            seen += 1;
        } else if event.topic == status {
            let status: StatusEvent = decode(&event.payload).unwrap();
            if status.state == AgentState::Exited {
                assert_eq!(status.last_seq, Some(999));
                break;
            }
        } else {
            assert!(
                !event.topic.starts_with(&format!("log.{agent}")),
                "{}",
                event.topic
            );
        }
    }
    assert_eq!(seen, 1000);
    host.end().await;
}
