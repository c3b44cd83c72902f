//! What happens at each bound of a host, and that it happens to nobody else.

use std::time::Duration;

use futures_util::FutureExt;
use skep_protocol::RequestId;
use skep_transport::{Connection, Endpoint, Publisher, ServerConfig, Sockets, Wire, serve};
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket};

use crate::support::*;

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_and_counted() {
    let mut config = config();
    config.max_peer_reply_bytes = 8 * MIB;
    let (mut wire, sockets) = serve(config).unwrap();
    let control = sockets.control_endpoint().clone();
    let other = Connection::connect(eager(&control));
    state(&other, &skep_transport::ConnectionState::Connected).await;

    // It never receives, so nothing is read once the kernel's buffers are full.
    let mut deaf = DealerSocket::new();
    deaf.connect(&control.to_string()).await.unwrap();
    deaf.send("tell me everything".into()).await.unwrap();
    let asked = soon("a message", wire.inbox.recv()).await.unwrap();

    let peer = asked.peer;
    let echo = echo(wire.inbox);
    let mut sent = 0;
    while sockets.stats().peers_cut == 0 {
        peer.reply(vec![0; MIB]);
        sent += 1;
        assert!(sent < 1000, "{:?}", sockets.stats());
        ask(&other, b"undisturbed").await;
    }
    let stats = sockets.stats();
    assert_eq!((stats.peers_cut, stats.replies_dropped), (1, 1));
    assert!(stats.reply_bytes_held <= 8 * MIB as u64, "{stats:?}");
    peer.reply("more");
    assert_eq!(sockets.stats().replies_dropped, 2, "it stays cut");
    ask(&other, b"undisturbed").await;
    drop(deaf);
    until("its queue is freed", || {
        sockets.stats().reply_bytes_held == 0
    })
    .await;
    sockets.close().await;
    echo.await.unwrap();
}

#[tokio::test]
async fn a_client_that_was_cut_comes_back_and_gets_its_answer() {
    let mut config = config();
    config.max_peer_reply_bytes = MIB;
    let (mut wire, sockets) = serve(config).unwrap();
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    let id = RequestId::random();
    let answer = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.request(id, envelope(id, b""), DEADLINE).await })
    };
    let first = soon("a message", wire.inbox.recv()).await.unwrap();
    // Over the bound in one reply: dropped, and the connection with it.
    first.peer.reply(vec![0; 2 * MIB]);
    let again = soon("the same", wire.inbox.recv()).await.unwrap();
    assert_eq!(again.payload, first.payload);
    again.peer.reply(again.payload.unwrap());
    soon("an answer", answer).await.unwrap().unwrap();
    assert_eq!(sockets.stats().peers_cut, 1);
    assert_eq!(connection.stats().reconnections, 1);
}

#[tokio::test]
async fn a_full_inbox_stops_only_requests() {
    let mut config = config();
    config.max_inbox_messages = 4;
    let (wire, sockets) = serve(config).unwrap();
    let Wire {
        mut inbox,
        publisher,
        ..
    } = wire;
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(sockets.events_endpoint().unwrap());
    let mut subscription = connection.subscribe("log.").await;
    let early = {
        let connection = connection.clone();
        tokio::spawn(async move { ask(&connection, b"early").await })
    };
    let first = soon("a message", inbox.recv()).await.unwrap();
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { ask(&connection, b"later").await })
        })
        .collect();
    until("a full inbox", || sockets.stats().messages_in >= 5).await;

    first.peer.reply(first.payload.unwrap());
    soon("an answer", early).await.unwrap();
    publish_until_seen(&publisher, &mut subscription, "log.a", "line").await;
    // One in hand, four queued: nothing more was taken from the socket.
    assert!(sockets.stats().messages_in <= 6, "{:?}", sockets.stats());

    echo(inbox);
    for answer in asked {
        soon("an answer", answer).await.unwrap();
    }
    sockets.close().await;
}

#[tokio::test]
async fn events_beyond_the_bound_are_refused_and_counted() {
    let mut config = config();
    config.max_events = 16;
    let (wire, sockets) = serve(config).unwrap();
    let mut refused = 0;
    let mut taken = 0;
    // Nobody subscribes, so each is done with at once; a tight loop still gets
    // ahead of the thread.
    until("a refusal", || {
        for _ in 0..1000 {
            if wire.publisher.try_publish_beyond_share("log.a", "line") {
                taken += 1;
            } else {
                refused += 1;
            }
        }
        refused > 0
    })
    .await;
    let stats = sockets.stats();
    assert_eq!(
        (stats.events_published, stats.events_dropped),
        (taken, refused)
    );
    until("room", || wire.publisher.try_publish("log.a", "line")).await;
}

/// A subscriber that never reads, over an endpoint where no kernel timeout ends it.
async fn deaf_to(events: &Endpoint, topic: &str) -> SubSocket {
    let mut deaf = SubSocket::new();
    deaf.connect(&events.to_string()).await.unwrap();
    deaf.subscribe(topic).await.unwrap();
    deaf
}

/// A host with room for 4 MiB of events.
fn small(folder: &tempfile::TempDir) -> (Endpoint, Sockets, Publisher) {
    let events = Endpoint::Ipc(folder.path().join("events"));
    let mut config = ServerConfig::new(any_port(), Some(events.clone()));
    config.max_event_bytes = 4 * MIB;
    let (sockets, publisher) = echo_host(config);
    (events, sockets, publisher)
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_costs_no_other_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let (events, sockets, publisher) = small(&folder);
    let _deaf = [
        deaf_to(&events, "log.").await,
        deaf_to(&events, "log.").await,
    ];
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.").await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "ready").await;

    // Until much was left out for those who do not read, whoever reads has everything.
    let mut number = 0_u64;
    while sockets.stats().events_left_out < 100 {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(64 * 1024, 0);
        assert!(publisher.try_publish("log.a", payload), "{number}");
        let read = loop {
            let event = soon("an event", subscription.recv()).await.unwrap();
            if event.payload != "ready" {
                break event.payload;
            }
        };
        assert_eq!(read[..8], number.to_be_bytes());
        number += 1;
    }
    assert!(number < 1000, "{:?}", sockets.stats());
    assert_eq!(subscription.interruptions(), 0);
    assert_eq!(sockets.stats().resets, 0);
    sockets.close().await;
}

/// Nobody takes a reader that is slow for one that does not read: it has whole events, in
/// their order, with holes where it was too slow.
#[tokio::test]
async fn a_slow_subscriber_has_whole_events_with_holes() {
    let folder = tempfile::tempdir().unwrap();
    let (events, sockets, publisher) = small(&folder);
    let mut slow = deaf_to(&events, "log.").await;
    until("its subscription", || {
        publisher.try_publish("log.a", "ready");
        slow.recv().now_or_never().is_some()
    })
    .await;
    let payload = |number: u64| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(usize::try_from(8 + number % 5000).unwrap(), b'x');
        payload
    };
    let (mut last, mut holes, mut read) = (None, 0, 0);
    let mut sent = 0;
    until("a hole, and something after it", || {
        for _ in 0..50 {
            publisher.try_publish("log.a", payload(sent));
            sent += 1;
        }
        let Some(event) = slow.recv().now_or_never() else {
            return false;
        };
        let frames = event.unwrap().into_vec();
        assert_eq!(frames[0], "log.a");
        if frames[1] == "ready" {
            return false;
        }
        let number = u64::from_be_bytes(frames[1][..8].try_into().unwrap());
        assert!(frames[1] == payload(number), "{number}");
        assert!(last.is_none_or(|last| number > last));
        holes += u64::from(last.is_some_and(|last| number > last + 1));
        last = Some(number);
        read += 1;
        holes >= 2 && read > 100
    })
    .await;
    assert_eq!(sockets.stats().peers_left, 0);
    sockets.close().await;
}

#[tokio::test]
async fn a_flood_that_is_not_read_costs_no_other_source_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let (events, sockets, publisher) = small(&folder);
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.quiet").await;
    publish_until_seen(&publisher, &mut subscription, "log.quiet", "ready").await;
    let _deaf = deaf_to(&events, "log.flood").await;

    let flood = publisher.of_its_own();
    let pours = || (0..1000).all(|_| flood.try_publish("log.flood", vec![0; 16 * 1024]));
    until("a flood that is not read", || {
        pours();
        sockets.stats().events_left_out > 1000
    })
    .await;
    let quiet = publisher.of_its_own();
    for number in 0..100 {
        pours();
        let line = format!("line {number}");
        assert!(quiet.try_publish("log.quiet", line.clone()), "{number}");
        let event = loop {
            let event = soon("the line", subscription.recv()).await.unwrap();
            if event.payload != "ready" {
                break event;
            }
        };
        assert_eq!(event.payload, line);
    }
    assert_eq!(sockets.stats().resets, 0);
    sockets.close().await;
}

/// Those end that leave their replies unread, and nobody else does.
#[tokio::test]
async fn peers_that_leave_too_much_unread_end_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    // No timeout of the kernel's ends these.
    let control = Endpoint::Ipc(folder.path().join("control"));
    let mut config = ServerConfig::new(control.clone(), None);
    config.max_reply_bytes = 16 * MIB;
    config.stuck_after = Duration::from_millis(400);
    let (sockets, _publisher) = echo_host(config);
    let connection = Connection::connect(eager(&control));
    ask(&connection, b"before").await;
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let mut one = DealerSocket::new();
        one.connect(&control.to_string()).await.unwrap();
        // The first is written in part, and no longer held.
        for _ in 0..2 {
            one.send(vec![b'x'; 5 * MIB].into()).await.unwrap();
        }
        deaf.push(one);
    }
    until("one that is ended", || sockets.stats().peers_cut > 0).await;
    until("room", || sockets.stats().reply_bytes_held < 8 * MIB as u64).await;
    ask(&connection, b"after").await;
    assert_eq!(connection.stats().reconnections, 0);
    assert_eq!(sockets.stats().resets, 0);
    sockets.close().await;
}
