//! What happens at each bound of a host, and that it happens to nobody else.

use std::time::Duration;

use skep_protocol::RequestId;
use skep_transport::{Connection, Endpoint, Publisher, ServerConfig, Sockets, Wire, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeromq::{DealerSocket, Socket, SocketSend, SubSocket};

use crate::support::*;

const MIB: usize = 1024 * 1024;

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
async fn idle_connections_are_ended_when_they_are_too_many_and_clients_come_back() {
    let mut config = config();
    config.max_connection_tasks = 20;
    let (sockets, _publisher) = echo_host(config);
    let control = sockets.control_endpoint().clone();
    // A few do not disturb anybody.
    let clients: Vec<_> = (0..5)
        .map(|_| Connection::connect(eager(&control)))
        .collect();
    for client in &clients {
        ask(client, b"before").await;
    }
    let Endpoint::Tcp { port, .. } = control else {
        panic!("asked for tcp")
    };
    let mut idle = Vec::new();
    while sockets.stats().resets == 0 {
        assert!(idle.len() < 10_000, "{:?}", sockets.stats());
        idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut greeting = Vec::new();
    // It ends, however it does.
    let _ = soon("the end of the first", idle[0].read_to_end(&mut greeting)).await;
    drop(idle);
    for client in &clients {
        state(client, &skep_transport::ConnectionState::Connected).await;
        ask(client, b"after").await;
    }
    sockets.close().await;
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

/// A host with room for 4 MiB of events, which waits so long for who does not read.
fn patient(folder: &tempfile::TempDir, patience: Duration) -> (Endpoint, Sockets, Publisher) {
    let events = Endpoint::Ipc(folder.path().join("events"));
    let mut config = ServerConfig::new(any_port(), Some(events.clone()));
    config.max_event_bytes = 4 * MIB;
    config.stuck_after = patience;
    let (sockets, publisher) = echo_host(config);
    (events, sockets, publisher)
}

/// Fills one, and shows that another gets events again.
async fn is_got_rid_of(publish: fn(&Publisher, Vec<u8>) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let (events, sockets, publisher) = patient(&folder, Duration::from_millis(400));

    let deaf = deaf_to(&events, "log.").await;
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.").await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "ready").await;

    until("a reset", || {
        publish(&publisher, vec![0; 64 * 1024]);
        let stats = sockets.stats();
        assert!(stats.event_bytes_held <= 4 * MIB as u64 + 1024, "{stats:?}");
        stats.resets >= 1
    })
    .await;
    assert!(sockets.stats().events_dropped > 0);
    drop(deaf);
    publish_until_seen(&publisher, &mut subscription, "log.a", "again").await;
    assert!(subscription.interruptions() >= 1);
    ask(&connection, b"control is undisturbed").await;
    assert_eq!(connection.stats().reconnections, 0);
    sockets.close().await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_got_rid_of() {
    is_got_rid_of(|publisher, payload| publisher.try_publish_beyond_share("log.a", payload)).await;
}

#[tokio::test]
async fn one_that_does_not_read_the_share_of_one_source_is_got_rid_of() {
    is_got_rid_of(|publisher, payload| publisher.try_publish("log.a", payload)).await;
}

#[tokio::test]
async fn a_flood_that_is_not_read_costs_no_other_source_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let (events, sockets, publisher) = patient(&folder, Duration::from_secs(3600));
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.quiet").await;
    publish_until_seen(&publisher, &mut subscription, "log.quiet", "ready").await;
    let _deaf = deaf_to(&events, "log.flood").await;

    let flood = publisher.of_its_own();
    let pours = || (0..1000).all(|_| flood.try_publish("log.flood", vec![0; 16 * 1024]));
    until("a full share that is not read", || {
        !pours() && sockets.stats().event_bytes_held > MIB as u64 / 2
    })
    .await;
    let quiet = publisher.of_its_own();
    for number in 0..100 {
        assert!(!pours());
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

/// What comes after a good handshake and is no message ends its connection only.
#[tokio::test]
async fn bytes_that_are_no_message_cost_only_their_sender() {
    let (sockets, _publisher) = echo_host(config());
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    ask(&connection, b"before").await;
    let Endpoint::Tcp { port, .. } = *sockets.control_endpoint() else {
        panic!("asked for tcp")
    };
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend_from_slice(b"NULL");
    greeting.resize(64, 0);
    let ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
    greeting.extend_from_slice(&[4, u8::try_from(ready.len()).unwrap()]);
    greeting.extend_from_slice(ready);
    for bytes in [
        &[4, 0][..],                             // a command without a name
        &[4, 2, 9, b'x'],                        // a name beyond its frame
        b"\x04\x05\x04PING",                     // a command that zeromq does not know
        b"\x04\x07\x05READY\x09",                // a property beyond its frame
        b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", // a frame of 2^64 - 1 bytes
    ] {
        let left = sockets.stats().peers_left;
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stranger.write_all(&greeting).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        let mut answered = Vec::new();
        let end = stranger.read_to_end(&mut answered);
        // An error is a reset, which is an end as well.
        let _end = soon("the end of the connection", end).await;
        until("its leaving", || sockets.stats().peers_left > left).await;
        ask(&connection, b"undisturbed").await;
    }
    assert_eq!(connection.stats().reconnections, 0);
    assert_eq!(sockets.stats().resets, 0);
    sockets.close().await;
}
