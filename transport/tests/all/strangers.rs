//! Whatever a peer sends, and however many there are, others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep_transport::{Connection, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// The address of a tcp endpoint.
fn address(endpoint: &Endpoint) -> (&'static str, u16) {
    let Endpoint::Tcp { port, .. } = endpoint else {
        panic!("asked for tcp")
    };
    ("127.0.0.1", *port)
}

/// What every peer says first, of version 3.0 and without security.
fn greeting() -> Vec<u8> {
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend_from_slice(b"NULL");
    greeting.resize(64, 0);
    greeting
}

/// A peer that writes what it likes, after a good handshake as a socket of that type.
async fn stranger(endpoint: &Endpoint, socket_type: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address(endpoint)).await.unwrap();
    let mut greeting = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0];
    greeting.extend_from_slice(b"NULL");
    greeting.resize(64, 0);
    let length = u8::try_from(socket_type.len()).unwrap();
    let ready = [
        b"\x05READY\x0bSocket-Type\0\0\0",
        &[length][..],
        socket_type.as_bytes(),
    ];
    let ready = ready.concat();
    greeting.extend_from_slice(&[4, u8::try_from(ready.len()).unwrap()]);
    greeting.extend_from_slice(&ready);
    stream.write_all(&greeting).await.unwrap();
    stream
}

/// What comes after a good handshake and is no message ends its connection only.
#[tokio::test]
async fn bytes_that_are_no_message_cost_only_their_sender() {
    let (sockets, _publisher) = echo_host(config());
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    ask(&connection, b"before").await;
    for bytes in [
        &[4, 0][..],               // a command without a name
        &[4, 2, 9, b'x'],          // a name beyond its frame
        b"\x04\x05\x04PING",       // a command that zeromq does not know
        b"\x04\x07\x05READY\x09",  // a property beyond its frame
        b"\x06\0\0\x01\0\0\0\0\0", // a command of 2^40 bytes
    ] {
        let ended = || sockets.stats().peers_left + sockets.stats().handshakes_failed;
        let before = ended();
        let mut stranger = stranger(sockets.control_endpoint(), "DEALER").await;
        stranger.write_all(bytes).await.unwrap();
        let mut answered = Vec::new();
        let end = stranger.read_to_end(&mut answered);
        // An error is a reset, which is an end as well.
        let _end = soon("the end of the connection", end).await;
        until("its leaving", || ended() > before).await;
        ask(&connection, b"undisturbed").await;
    }
    assert_eq!(connection.stats().reconnections, 0);
    assert_eq!(sockets.stats().resets, 0);
    sockets.close().await;
}

/// A header that claims 2^40 to 2^64 - 1 bytes reserves nothing, before the handshake and
/// after it: the payload is too large as soon as it is over the cap, and what comes of it
/// goes nowhere.
#[tokio::test]
async fn what_a_header_claims_is_not_believed() {
    let (sockets, _publisher) = echo_host(config());
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    ask(&connection, b"before").await;
    for claimed in [1 << 40, 1 << 62, u64::MAX] {
        let header = [&[2][..], &u64::to_be_bytes(claimed)].concat();
        for endpoint in [
            sockets.control_endpoint(),
            sockets.events_endpoint().unwrap(),
        ] {
            let mut early = TcpStream::connect(address(endpoint)).await.unwrap();
            early.write_all(&greeting()).await.unwrap();
            early.write_all(&header).await.unwrap();
            ask(&connection, b"undisturbed").await;
        }
        let mut late = stranger(sockets.control_endpoint(), "DEALER").await;
        late.write_all(&header).await.unwrap();
        let malformed = sockets.stats().malformed;
        let payload = vec![b'x'; MIB];
        for _ in 0..11 {
            late.write_all(&payload).await.unwrap();
        }
        until("an answer", || sockets.stats().malformed > malformed).await;
        // The rest of it is still the same message.
        for _ in 0..100 {
            late.write_all(&payload).await.unwrap();
        }
        assert_eq!(sockets.stats().malformed, malformed + 1);
        ask(&connection, b"undisturbed").await;
    }
    assert_eq!(connection.stats().reconnections, 0);
    sockets.close().await;
}

#[tokio::test]
async fn a_message_of_endless_frames_is_answered_once_and_is_not_kept() {
    let (sockets, _publisher) = echo_host(config());
    let mut endless = stranger(sockets.control_endpoint(), "DEALER").await;
    let frames = [1, 1, b'x'].repeat(100_000);
    endless.write_all(&frames).await.unwrap();
    until("an answer", || sockets.stats().malformed > 0).await;
    // Its last frame, and a message of one.
    endless.write_all(&[0, 1, b'x', 0, 1, b'y']).await.unwrap();
    until("the next", || sockets.stats().messages_in > 1).await;
    let stats = sockets.stats();
    assert_eq!((stats.messages_in, stats.malformed), (2, 1));
    sockets.close().await;
}

#[tokio::test]
async fn subscriptions_beyond_the_bound_end_their_connection_only() {
    let (sockets, publisher) = echo_host(config());
    let events = sockets.events_endpoint().unwrap().clone();
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(&events);
    let mut subscription = connection.subscribe("log.").await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "before").await;

    let mut greedy = stranger(&events, "SUB").await;
    let subscribe = |number: u32| {
        let topic = format!("log.{number:08}");
        [&[0, 13, 1][..], topic.as_bytes()].concat()
    };
    let left = sockets.stats().peers_left;
    for number in 0..4096 {
        greedy.write_all(&subscribe(number)).await.unwrap();
        // What changes nothing does not count.
        greedy.write_all(&subscribe(number)).await.unwrap();
        greedy.write_all(b"\0\x06\x00none.").await.unwrap();
    }
    // It has them all.
    let mut answered = Vec::new();
    until("the last topic", || {
        publisher.try_publish("log.00004095", "seen");
        let mut chunk = [0; 4096];
        if let Ok(read) = greedy.try_read(&mut chunk) {
            answered.extend_from_slice(&chunk[..read]);
        }
        answered.windows(4).any(|found| found == b"seen")
    })
    .await;
    assert_eq!(sockets.stats().peers_left, left);
    greedy.write_all(&subscribe(4096)).await.unwrap();
    // An error is a reset, which is an end as well.
    let _end = soon("the end", greedy.read_to_end(&mut answered)).await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "after").await;
    assert_eq!(subscription.interruptions(), 0);
    sockets.close().await;
}

#[tokio::test]
async fn where_there_are_too_many_connections_the_silent_ones_give_way() {
    let mut config = config();
    config.max_connections = 10;
    let (sockets, _publisher) = echo_host(config);
    let control = sockets.control_endpoint().clone();
    let clients: Vec<_> = (0..5)
        .map(|_| Connection::connect(eager(&control)))
        .collect();
    for client in &clients {
        ask(client, b"before").await;
    }
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(address(&control)).await.unwrap());
    }
    let mut greeting = Vec::new();
    // It ends, however it does.
    let _ = soon("the end of the first", idle[0].read_to_end(&mut greeting)).await;
    for client in &clients {
        ask(client, b"after").await;
        assert_eq!(client.stats().reconnections, 0);
    }
    // Whoever comes now is let in, though nobody has left.
    let newcomer = Connection::connect(eager(&control));
    ask(&newcomer, b"new").await;
    sockets.close().await;
}

#[tokio::test]
async fn those_who_shook_hands_and_say_nothing_give_way_too_and_come_back() {
    let mut config = config();
    config.max_connections = 4;
    let (sockets, _publisher) = echo_host(config);
    let control = sockets.control_endpoint().clone();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = Connection::connect(eager(&control));
        ask(&client, b"each is answered").await;
        clients.push(client);
    }
    ask(&clients[0], b"again").await;
    assert!(clients[0].stats().reconnections > 0);
    sockets.close().await;
}

/// Sends the same, after a good handshake, as fast as it is taken, until it is told to end.
struct Flood {
    is_over: Arc<AtomicBool>,
    sender: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    async fn of(endpoint: &Endpoint, socket_type: &str, bytes: &[u8]) -> Self {
        let stream = stranger(endpoint, socket_type).await.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, much) = (Arc::clone(&is_over), bytes.repeat(64 * 1024));
        let sender = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // In full, or the rest would be something else.
                let mut left = &much[..];
                while !left.is_empty() && !told.load(Ordering::Relaxed) {
                    match std::io::Write::write(&mut &stream, left) {
                        Ok(written) => left = left.split_at(written).1,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_ended) => return,
                    }
                }
            }
        });
        Self {
            is_over,
            sender: Some(sender),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.sender.take().unwrap().join().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_sends_without_end_leaves_turns_to_others() {
    let (sockets, publisher) = echo_host(config());
    let control = sockets.control_endpoint();
    let events = sockets.events_endpoint().unwrap();
    let connection = Connection::connect(eager(control));
    connection.subscribe_events(events);
    let mut subscription = connection.subscribe("log.").await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "before").await;
    let endless_frames = Flood::of(control, "DEALER", &[1, 0]).await;
    let nothing_taken_back = Flood::of(events, "SUB", &[0, 1, 0]).await;
    let frames_of_events = Flood::of(events, "SUB", &[1, 0]).await;
    for _ in 0..20 {
        ask(&connection, b"beside it").await;
        publish_until_seen(&publisher, &mut subscription, "log.a", "beside it").await;
    }
    drop((endless_frames, nothing_taken_back, frames_of_events));
    assert_eq!(connection.stats().reconnections, 0);
    assert_eq!(subscription.interruptions(), 0);
    sockets.close().await;
}
