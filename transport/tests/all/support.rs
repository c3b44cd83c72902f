//! Hosts, envelopes and deadlines.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_protocol::RequestId;
use skep_transport::{
    Connection, ConnectionConfig, ConnectionState, Endpoint, Inbox, Publisher, ServerConfig,
    Sockets, Wire, serve,
};
use tokio::task::JoinHandle;

pub(crate) const MIB: usize = 1024 * 1024;

/// Ten times what anything here should take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for a future, within the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until a condition holds, within the deadline.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn state(connection: &Connection, wanted: &ConnectionState) {
    let mut states = connection.watch_state();
    soon(
        &format!("state {wanted:?}"),
        states.wait_for(|state| state == wanted),
    )
    .await
    .unwrap();
}

/// An envelope that the transport can read the id of: `{v, id, body: bin}`.
pub(crate) fn envelope(id: RequestId, body: &[u8]) -> Bytes {
    let mut bytes = vec![0x83, 0xa1, b'v', 1, 0xa2, b'i', b'd', 0xd9, 36];
    bytes.extend_from_slice(id.to_string().as_bytes());
    bytes.extend_from_slice(&[0xa4, b'b', b'o', b'd', b'y', 0xc6]);
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.into()
}

pub(crate) fn any_port() -> Endpoint {
    Endpoint::loopback(0)
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig::new(any_port(), Some(any_port()))
}

/// Answers every payload with itself.
pub(crate) fn echo(mut inbox: Inbox) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            match message.payload {
                Ok(payload) => message.peer.reply(payload),
                Err(error) => message.peer.reply(error.to_string()),
            }
        }
    })
}

pub(crate) fn echo_host(config: ServerConfig) -> (Sockets, Publisher) {
    let (wire, sockets) = serve(config).unwrap();
    let Wire {
        inbox, publisher, ..
    } = wire;
    echo(inbox);
    (sockets, publisher)
}

/// A configuration that comes back quickly.
pub(crate) fn eager(endpoint: &Endpoint) -> ConnectionConfig {
    let mut config = ConnectionConfig::new(endpoint.clone());
    config.reconnect_min = Duration::from_millis(10);
    config.reconnect_max = Duration::from_millis(100);
    config
}

pub(crate) async fn ask(connection: &Connection, body: &[u8]) -> Bytes {
    let id = RequestId::random();
    let asked = envelope(id, body);
    let answer = connection
        .request(id, asked.clone(), DEADLINE)
        .await
        .unwrap();
    assert_eq!(answer, asked);
    answer
}

/// Publishes until the subscription has an event: over sockets it is not known
/// when a subscription is effective.
pub(crate) async fn publish_until_seen(
    publisher: &Publisher,
    subscription: &mut skep_transport::Subscription,
    topic: &str,
    payload: &'static str,
) {
    let seen = async {
        loop {
            publisher.try_publish(topic, payload);
            let next = tokio::time::timeout(Duration::from_millis(20), subscription.recv());
            if let Ok(event) = next.await {
                let event = event.expect("subscription open");
                if event.payload == payload {
                    assert_eq!(event.topic, topic);
                    return;
                }
            }
        }
    };
    soon("an event", seen).await;
}
