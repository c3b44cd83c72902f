//! The wire without sockets.

use std::time::Duration;

use skep_protocol::RequestId;
use skep_transport::{ConnectionState, FramingError, RequestError, local};

use crate::support::*;

#[tokio::test]
async fn requests_and_events_pass() {
    let (wire, connection) = local();
    assert_eq!(connection.state(), ConnectionState::Connected);
    let mut a = connection.subscribe("log.a").await;
    let mut b = connection.subscribe("log.b").await;
    // Effective at once.
    assert!(wire.publisher.try_publish("log.a", "line"));
    assert_eq!(a.try_recv().unwrap().payload, "line");
    assert!(b.try_recv().is_none());

    let echo = echo(wire.inbox);
    ask(&connection, b"hello").await;
    let stats = connection.stats();
    assert_eq!((stats.messages_out, stats.messages_in), (1, 1));
    assert_eq!(wire.meter.read().messages_in, 1);

    drop(wire.publisher);
    assert!(soon("the end", b.recv()).await.is_none());
    echo.abort();
    state(&connection, &ConnectionState::Disconnected).await;
    let id = RequestId::random();
    let gone = connection.request(id, envelope(id, b""), DEADLINE).await;
    assert_eq!(gone, Err(RequestError::Closed));
}

#[tokio::test]
async fn timeouts_and_forgotten_peers_end_requests() {
    let (mut wire, connection) = local();
    let id = RequestId::random();
    let patience = Duration::from_millis(50);
    let late = connection.request(id, envelope(id, b""), patience).await;
    assert_eq!(late, Err(RequestError::Timeout(patience)));
    let message = wire.inbox.recv().await.unwrap();
    message.peer.reply(message.payload.unwrap());
    assert_eq!(connection.stats().strays, 1);

    // The same id again, and a host that drops it without an answer.
    let asking = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(id, envelope(id, b""), DEADLINE).await })
    };
    drop(soon("a message", wire.inbox.recv()).await.unwrap());
    let answer = soon("the end", asking).await.unwrap();
    assert_eq!(answer, Err(RequestError::Closed));
}

#[tokio::test]
async fn closing_ends_requests_and_subscriptions() {
    let (_wire, connection) = local();
    let mut subscription = connection.subscribe("").await;
    let id = RequestId::random();
    let asking = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(id, envelope(id, b""), DEADLINE).await })
    };
    until("one", || connection.stats().in_flight == 1).await;
    connection.close().await;
    let answer = soon("the end", asking).await.unwrap();
    assert_eq!(answer, Err(RequestError::Closed));
    assert!(soon("the end", subscription.recv()).await.is_none());
}

#[test]
fn the_cap_is_the_same() {
    // The connection refuses before the host sees it.
    let error = FramingError::TooLarge { id: None };
    assert!(error.to_string().contains("10485760"), "{error}");
}
