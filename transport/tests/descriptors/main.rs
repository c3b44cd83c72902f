//! Clients that come and go leave nothing behind. A binary of its own, because
//! descriptors and threads are counted for the whole process.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_protocol::RequestId;
use skep_transport::{Connection, ConnectionConfig, Endpoint, ServerConfig, serve};

const DEADLINE: Duration = Duration::from_secs(20);

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn envelope(id: RequestId) -> Bytes {
    let mut bytes = vec![0x82, 0xa1, b'v', 1, 0xa2, b'i', b'd', 0xd9, 36];
    bytes.extend_from_slice(id.to_string().as_bytes());
    bytes.into()
}

#[tokio::test]
async fn churn_leaves_no_descriptors_and_no_threads() {
    let any = Endpoint::loopback(0);
    let before = count("/proc/self/fd");
    let threads_before = count("/proc/self/task");
    let (mut wire, sockets) = serve(ServerConfig::new(any.clone(), Some(any))).unwrap();
    let publisher = wire.publisher.clone();
    let echo = tokio::spawn(async move {
        while let Some(message) = wire.inbox.recv().await {
            publisher.try_publish("log.a", "asked");
            message.peer.reply(message.payload.unwrap());
        }
    });

    // Once round, so that the host's threads have made what they keep.
    let connection = Connection::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    connection.subscribe_events(sockets.events_endpoint().unwrap());
    let mut subscription = connection.subscribe("log.").await;
    let start = Instant::now();
    while subscription.try_recv().is_none() {
        assert!(start.elapsed() < DEADLINE, "no event");
        let id = RequestId::random();
        let answer = connection.request(id, envelope(id), DEADLINE).await;
        answer.unwrap();
    }
    connection.close().await;
    while sockets.stats().peers_left < 2 {
        assert!(start.elapsed() < DEADLINE, "{:?}", sockets.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let serving = count("/proc/self/fd");

    let end = Instant::now() + Duration::from_secs(3);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let control = sockets.control_endpoint().clone();
            let events = sockets.events_endpoint().unwrap().clone();
            tokio::spawn(async move {
                let mut rounds = 0;
                while Instant::now() < end {
                    let connection = Connection::connect(ConnectionConfig::new(control.clone()));
                    connection.subscribe_events(&events);
                    let _subscription = connection.subscribe("log.").await;
                    let id = RequestId::random();
                    let asked = envelope(id);
                    let answer = connection.request(id, asked.clone(), DEADLINE).await;
                    assert_eq!(answer.unwrap(), asked);
                    if rounds % 2 == 0 {
                        connection.close().await;
                    }
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let mut rounds = 0;
    for client in clients {
        rounds += client.await.unwrap();
    }
    assert!(rounds > 50, "{rounds}");

    let settled = |what: &'static str, folder: &'static str, at_most: usize| async move {
        let start = Instant::now();
        while count(folder) > at_most {
            let now = count(folder);
            assert!(start.elapsed() < DEADLINE, "{what}: {now} > {at_most}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    settled("connections gone", "/proc/self/fd", serving).await;
    // Nothing hangs: the host still answers.
    let connection = Connection::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    let id = RequestId::random();
    let answer = connection.request(id, envelope(id), DEADLINE).await;
    answer.unwrap();
    drop(connection);

    sockets.close().await;
    echo.await.unwrap();
    settled("sockets gone", "/proc/self/fd", before).await;
    settled("threads gone", "/proc/self/task", threads_before).await;
}
