//! What a host offers to any ZeroMQ client: framing, endpoints, end.

use bytes::Bytes;
use skep_protocol::{MAX_PAYLOAD, RequestId};
use skep_transport::{
    BindError, Connection, ConnectionConfig, Endpoint, FramingError, ServerConfig, serve,
};
use zeromq::{DealerSocket, ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::support::*;

async fn dealer(endpoint: &Endpoint) -> DealerSocket {
    let mut dealer = DealerSocket::new();
    dealer.connect(&endpoint.to_string()).await.unwrap();
    dealer
}

fn message(frames: &[&'static [u8]]) -> ZmqMessage {
    let frames: Vec<Bytes> = frames.iter().map(|f| Bytes::from_static(f)).collect();
    frames.try_into().unwrap()
}

#[tokio::test]
async fn a_req_gets_its_delimiter_back() {
    let (sockets, _publisher) = echo_host(config());
    let mut req = ReqSocket::new();
    req.connect(&sockets.control_endpoint().to_string())
        .await
        .unwrap();
    for text in ["first", "second"] {
        req.send(text.into()).await.unwrap();
        let reply = soon("a reply", req.recv()).await.unwrap();
        assert_eq!(reply.into_vec(), [Bytes::from(text)]);
    }
    sockets.close().await;
}

#[tokio::test]
async fn a_message_without_exactly_one_payload_can_be_answered() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let mut dealer = dealer(sockets.control_endpoint()).await;
    for (frames, error) in [
        (&[b"".as_slice()][..], FramingError::NoPayload),
        (&[b"a", b"b"], FramingError::SeveralPayloads),
        (&[b"", b"a", b"b", b"c"], FramingError::SeveralPayloads),
    ] {
        dealer.send(message(frames)).await.unwrap();
        let inbound = soon("a message", wire.inbox.recv()).await.unwrap();
        assert_eq!(inbound.payload.unwrap_err(), error);
        inbound.peer.reply("malformed");
        let reply = soon("a reply", dealer.recv()).await.unwrap();
        assert_eq!(reply.get(reply.len() - 1).unwrap(), "malformed");
    }
    // The connection stays.
    dealer.send(message(&[b"good"])).await.unwrap();
    let inbound = soon("a message", wire.inbox.recv()).await.unwrap();
    assert_eq!(inbound.payload.unwrap(), "good");
    assert_eq!(sockets.stats().malformed, 3);
    assert_eq!(sockets.stats().messages_in, 4);
}

#[tokio::test]
async fn a_payload_over_the_cap_is_told_with_its_id() {
    let (mut wire, sockets) = serve(config()).unwrap();
    let mut dealer = dealer(sockets.control_endpoint()).await;
    let id = RequestId::random();
    let header = envelope(id, b"").len();

    let most = envelope(id, &vec![7; MAX_PAYLOAD - header]);
    dealer.send(most.clone().into()).await.unwrap();
    let inbound = soon("the most", wire.inbox.recv()).await.unwrap();
    assert!(inbound.payload.unwrap() == most);

    for over in [1, 5 * MAX_PAYLOAD] {
        let over = envelope(id, &vec![7; MAX_PAYLOAD - header + over]);
        dealer.send(over.into()).await.unwrap();
        let inbound = soon("too much", wire.inbox.recv()).await.unwrap();
        let error = FramingError::TooLarge { id: Some(id) };
        assert_eq!(inbound.payload.unwrap_err(), error);
    }
}

#[tokio::test]
async fn ipc_works_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let events = folder.path().join("events");
    let config = ServerConfig::new(
        Endpoint::Ipc(control.clone()),
        Some(Endpoint::Ipc(events.clone())),
    );
    // A stale file of a host that was killed.
    drop(std::os::unix::net::UnixListener::bind(&control).unwrap());

    let (sockets, publisher) = echo_host(config.clone());
    let connection = Connection::connect(ConnectionConfig::new(Endpoint::Ipc(control.clone())));
    connection.subscribe_events(&Endpoint::Ipc(events.clone()));
    let mut subscription = connection.subscribe("log.").await;
    ask(&connection, b"over ipc").await;
    publish_until_seen(&publisher, &mut subscription, "log.a", "line").await;

    let error = serve(config).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    ask(&connection, b"undisturbed").await;

    sockets.close().await;
    assert!(!control.exists() && !events.exists());
}

#[tokio::test]
async fn a_taken_port_is_named_and_free_again_after_close() {
    let (sockets, _publisher) = echo_host(config());
    let control = sockets.control_endpoint().clone();
    let events = sockets.events_endpoint().unwrap().clone();
    let connection = Connection::connect(ConnectionConfig::new(control.clone()));
    ask(&connection, b"").await;

    let again = ServerConfig::new(any_port(), Some(events.clone()));
    let error = serve(again).unwrap_err().to_string();
    assert!(error.contains(&events.to_string()), "{error}");
    assert!(error.contains("in use"), "{error}");

    sockets.close().await;
    let (sockets, _publisher) = echo_host(ServerConfig::new(control, Some(events)));
    ask(&connection, b"").await;
    sockets.close().await;
}

#[tokio::test]
async fn what_was_queued_is_written_before_the_end() {
    const REPLIES: usize = 500;
    let (mut wire, sockets) = serve(config()).unwrap();
    let connection = Connection::connect(eager(sockets.control_endpoint()));
    connection.subscribe_events(sockets.events_endpoint().unwrap());
    let mut subscription = connection.subscribe("status.").await;
    publish_until_seen(&wire.publisher, &mut subscription, "status.a", "begin").await;

    let asked: Vec<_> = (0..REPLIES)
        .map(|_| {
            let (id, connection) = (RequestId::random(), connection.clone());
            tokio::spawn(async move {
                let asked = envelope(id, &[1; 10_000]);
                connection.request(id, asked, DEADLINE).await
            })
        })
        .collect();
    let mut waiting = Vec::new();
    for _ in 0..REPLIES {
        waiting.push(soon("a message", wire.inbox.recv()).await.unwrap());
    }
    for message in waiting {
        message.peer.reply(message.payload.unwrap());
    }
    for _ in 0..REPLIES {
        assert!(wire.publisher.try_publish("status.a", vec![2; 10_000]));
    }
    assert!(wire.publisher.try_publish("status.a", "end"));
    sockets.close().await;

    for answer in asked {
        soon("an answer", answer).await.unwrap().unwrap();
    }
    let last = async {
        let mut events = 0;
        while subscription.recv().await.unwrap().payload != "end" {
            events += 1;
        }
        events
    };
    assert!(soon("the last event", last).await >= REPLIES);
    assert!(soon("the end", wire.inbox.recv()).await.is_none());
    assert!(!wire.publisher.try_publish("status.a", "late"));
}
