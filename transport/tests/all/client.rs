//! What a client may rely on: answers by id, states, reconnection, subscriptions.

use std::time::Duration;

use skep_protocol::{MAX_PAYLOAD, RequestId};
use skep_transport::{
    Connection, ConnectionConfig, ConnectionState, RequestError, ServerConfig, serve,
};

use crate::support::*;

#[tokio::test]
async fn a_thousand_in_flight_each_get_their_own_answer() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    let asked: Vec<_> = (0..1000_u32)
        .map(|n| {
            let connection = connection.clone();
            tokio::spawn(async move { ask(&connection, &n.to_be_bytes()).await })
        })
        .collect();
    let mut waiting = Vec::new();
    while waiting.len() < 1000 {
        waiting.push(soon("a message", wire.inbox.recv()).await.unwrap());
    }
    assert_eq!(connection.stats().in_flight, 1000);
    // Answered in another order than asked.
    for message in waiting.into_iter().rev() {
        message.peer.reply(message.payload.unwrap());
    }
    for answer in asked {
        soon("an answer", answer).await.unwrap();
    }
    let stats = connection.stats();
    assert_eq!((stats.messages_out, stats.messages_in), (1000, 1000));
    assert_eq!((stats.in_flight, stats.strays), (0, 0));
    assert!(stats.connected_since.is_some());
}

#[tokio::test]
async fn a_host_that_comes_back_is_asked_again_under_the_old_id() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let control = sockets.control_endpoint().clone();
    let events = sockets.events_endpoint().unwrap().clone();
    let connection = Connection::connect(eager(&control));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.a.").await;
    publish_until_seen(&wire.publisher, &mut subscription, "log.a.stdout", "1").await;

    let id = RequestId::random();
    let asked = envelope(id, b"spawn");
    let answer = {
        let (connection, asked) = (connection.clone(), asked.clone());
        tokio::spawn(async move { connection.request(id, asked, DEADLINE).await })
    };
    let lost = soon("a message", wire.inbox.recv()).await.unwrap();
    let mut states = connection.watch_state();
    assert_eq!(connection.state(), ConnectionState::Connected);
    sockets.close().await;
    // Harmless: its connection is gone.
    lost.peer.reply("never seen");
    let away = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
    soon("the loss", states.wait_for(away)).await.unwrap();

    let (mut wire, sockets) = serve(ServerConfig::new(control, Some(events))).unwrap();
    let again = soon("the same", wire.inbox.recv()).await.unwrap();
    assert_eq!(again.payload.clone().unwrap(), asked);
    assert_eq!(connection.state(), ConnectionState::Connected);
    again.peer.reply(again.payload.unwrap());
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap(), asked);

    publish_until_seen(&wire.publisher, &mut subscription, "log.a.stdout", "2").await;
    assert!(subscription.interruptions() >= 1);
    let stats = connection.stats();
    assert_eq!((stats.reconnections, stats.repeated), (1, 1));
    sockets.close().await;
}

#[tokio::test]
async fn what_is_for_one_host_is_not_asked_of_the_next() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let control = sockets.control_endpoint().clone();
    let connection = Connection::connect(eager(&control));
    let once = || {
        let (connection, id) = (connection.clone(), RequestId::random());
        tokio::spawn(async move {
            let payload = envelope(id, b"once");
            connection.request_once(id, payload, DEADLINE).await
        })
    };
    let answer = once();
    let asked = soon("a message", wire.inbox.recv()).await.unwrap();
    asked.peer.reply(asked.payload.clone().unwrap());
    assert!(soon("the answer", answer).await.unwrap().is_ok());

    let lost = once();
    soon("a message", wire.inbox.recv()).await.unwrap();
    sockets.close().await;
    let lost = soon("the loss", lost).await.unwrap();
    assert_eq!(lost, Err(RequestError::Lost));

    // Who asks while none is there means the first that comes.
    let first = once();
    let (mut wire, sockets) = serve(ServerConfig::new(control, None)).unwrap();
    let asked = soon("a message", wire.inbox.recv()).await.unwrap();
    let answer = asked.payload.clone().unwrap();
    asked.peer.reply(answer.clone());
    assert_eq!(soon("the answer", first).await.unwrap(), Ok(answer));
    assert_eq!(connection.stats().repeated, 0);
    sockets.close().await;
}

#[tokio::test]
async fn a_connection_waits_for_a_host_that_is_not_yet_there() {
    let (sockets, _publisher) = echo_host(config());
    let control = sockets.control_endpoint().clone();
    sockets.close().await;

    let connection = Connection::connect(eager(&control));
    let away = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { attempt } if *attempt >= 2);
    let mut states = connection.watch_state();
    soon("attempts", states.wait_for(away)).await.unwrap();
    let asking = {
        let connection = connection.clone();
        tokio::spawn(async move { ask(&connection, b"early").await })
    };
    let (sockets, _publisher) = echo_host(ServerConfig::new(control, None));
    soon("an answer", asking).await.unwrap();
    state(&connection, &ConnectionState::Connected).await;
    assert_eq!(connection.stats().reconnections, 0, "it was the first");

    connection.close().await;
    assert_eq!(connection.state(), ConnectionState::Disconnected);
    let id = RequestId::random();
    let refused = connection.request(id, envelope(id, b""), DEADLINE).await;
    assert_eq!(refused, Err(RequestError::Closed));
    sockets.close().await;
}

#[tokio::test]
async fn a_connection_fails_after_its_last_attempt_and_says_why() {
    let (sockets, _publisher) = echo_host(config());
    let control = sockets.control_endpoint().clone();
    sockets.close().await;

    let mut config = eager(&control);
    config.max_attempts = Some(3);
    let connection = Connection::connect(config);
    let id = RequestId::random();
    let answer = connection.request(id, envelope(id, b""), DEADLINE).await;
    let Err(RequestError::Failed(cause)) = answer else {
        panic!("{answer:?}")
    };
    assert!(cause.contains(&control.to_string()), "{cause}");
    assert!(cause.contains("refused"), "{cause}");
    state(&connection, &ConnectionState::Failed { cause }).await;
    assert_eq!(connection.stats().errors, 3);
}

#[tokio::test]
async fn a_silent_host_is_given_up_and_asked_again() {
    // It reads nothing: as a host that was cut off from the network.
    let (mut wire, sockets) = serve(config()).unwrap();
    let mut config = eager(sockets.control_endpoint());
    config.suspect_after = Duration::from_millis(50);
    let connection = Connection::connect(config);
    let patience = Duration::from_millis(100);

    let id = RequestId::random();
    let answer = connection.request(id, envelope(id, b""), patience).await;
    assert_eq!(answer, Err(RequestError::Timeout(patience)));
    until("a new connection", || connection.stats().reconnections >= 1).await;

    // The late answer finds nobody.
    let first = soon("the request", wire.inbox.recv()).await.unwrap();
    first.peer.reply(first.payload.unwrap());
    echo(wire.inbox);
    ask(&connection, b"heard").await;
    assert_eq!(connection.stats().timeouts, 1);
}

#[tokio::test]
async fn a_late_answer_is_dropped_and_counted() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let connection = Connection::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    let id = RequestId::random();
    let patience = Duration::from_millis(200);
    let answer = connection.request(id, envelope(id, b""), patience).await;
    assert_eq!(answer, Err(RequestError::Timeout(patience)));
    let late = soon("a message", wire.inbox.recv()).await.unwrap();
    late.peer.reply(late.payload.unwrap());
    until("a stray", || connection.stats().strays == 1).await;
    assert_eq!(connection.stats().reconnections, 0);
}

#[tokio::test]
async fn what_is_in_flight_is_bounded() {
    let (_wire, sockets) = serve(config()).unwrap();
    let mut config = eager(sockets.control_endpoint());
    config.max_in_flight = 3;
    let connection = Connection::connect(config);
    let ids: Vec<_> = (0..3).map(|_| RequestId::random()).collect();
    let asked: Vec<_> = (ids.iter().copied())
        .map(|id| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.request(id, envelope(id, b""), DEADLINE).await })
        })
        .collect();
    until("three", || connection.stats().in_flight == 3).await;

    let id = RequestId::random();
    let more = connection.request(id, envelope(id, b""), DEADLINE).await;
    assert!(matches!(
        more,
        Err(RequestError::TooManyInFlight { requests: 3, .. })
    ));
    let same = ids[0];
    // Dropping a request gives its place back at once.
    for request in &asked[1..] {
        request.abort();
    }
    until("one", || connection.stats().in_flight == 1).await;
    let twice = connection
        .request(same, envelope(same, b""), DEADLINE)
        .await;
    assert_eq!(twice, Err(RequestError::UnderWay(same)));
    let huge = vec![0; MAX_PAYLOAD + 1];
    let bytes = huge.len();
    let huge = connection.request(id, huge.into(), DEADLINE).await;
    assert_eq!(huge, Err(RequestError::TooLarge { bytes }));
}

#[tokio::test]
async fn subscriptions_see_only_their_prefix() {
    let (sockets, publisher) = echo_host(config());
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(sockets.events_endpoint().unwrap());
    let mut a = connection.subscribe("log.a.").await;
    let mut b = connection.subscribe("log.b.").await;
    let mut b_again = connection.subscribe("log.b.").await;
    publish_until_seen(&publisher, &mut a, "log.a.stdout", "ready").await;
    publish_until_seen(&publisher, &mut b, "log.b.stdout", "ready").await;
    for n in 0..100_u8 {
        assert!(publisher.try_publish("log.a.stdout", vec![n]));
        assert!(publisher.try_publish("log.b.stderr", vec![n]));
        assert!(publisher.try_publish("log.c.stdout", vec![n]));
    }
    for (subscription, topic) in [(&mut a, "log.a.stdout"), (&mut b, "log.b.stderr")] {
        let mut expected = 0;
        while expected < 100 {
            let event = soon("an event", subscription.recv()).await.unwrap();
            assert!(event.topic.starts_with(subscription.prefix()));
            if event.payload != "ready" {
                assert_eq!(
                    (event.topic.as_str(), &event.payload[..]),
                    (topic, &[expected][..])
                );
                expected += 1;
            }
        }
        assert_eq!(subscription.lagged(), 0);
    }
    // One reader of a prefix leaving does not end it for the other.
    drop(b);
    publish_until_seen(&publisher, &mut b_again, "log.b.stdout", "still").await;
    drop(b_again);
    drop(a);
    // Another client sees when events have passed that this one no longer gets.
    let other = Connection::connect(eager(sockets.control_endpoint()));
    other.subscribe_events(sockets.events_endpoint().unwrap());
    let mut fence = other.subscribe("log.").await;
    let unsubscribed = async {
        let mut quiet = 0;
        while quiet < 5 {
            let before = connection.stats().events;
            publish_until_seen(&publisher, &mut fence, "log.b.stdout", "nobody").await;
            let same = connection.stats().events == before;
            quiet = if same { quiet + 1 } else { 0 };
        }
    };
    soon("the end of events", unsubscribed).await;
    connection.close().await;
    sockets.close().await;
}

#[tokio::test]
async fn a_slow_reader_lags_alone() {
    let (sockets, publisher) = echo_host(config());
    let mut config = eager(sockets.control_endpoint());
    config.max_waiting_events = 10;
    let connection = Connection::connect(config);
    connection.subscribe_events(sockets.events_endpoint().unwrap());
    let slow = connection.subscribe("").await;
    let mut quick = connection.subscribe("log.").await;
    publish_until_seen(&publisher, &mut quick, "log.a", "ready").await;
    for _ in 0..50 {
        publisher.try_publish("log.a", "line");
        while soon("a line", quick.recv()).await.unwrap().payload != "line" {}
    }
    assert_eq!(quick.lagged(), 0);
    assert!(slow.lagged() >= 40, "{}", slow.lagged());
    assert!(connection.stats().events_dropped >= 40);
}
