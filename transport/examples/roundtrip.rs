//! Measures a host that echoes and a client, in one process over loopback:
//! the round trip of 200 bytes, and requests a second with 1,000 in flight.
//! Run with `cargo run --release -p skep-transport --example roundtrip`.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]
#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement, not a library"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_protocol::RequestId;
use skep_transport::{Connection, ConnectionConfig, Endpoint, ServerConfig, Wire, local, serve};

const EACH: Duration = Duration::from_millis(1500);
const WAIT: Duration = Duration::from_secs(5);

fn envelope(id: RequestId) -> Bytes {
    let mut bytes = vec![0x83, 0xa1, b'v', 1, 0xa2, b'i', b'd', 0xd9, 36];
    bytes.extend_from_slice(id.to_string().as_bytes());
    bytes.extend_from_slice(&[0xa4, b'b', b'o', b'd', b'y', 0xc4, 148]);
    bytes.resize(200, 0);
    bytes.into()
}

async fn ask(connection: &Connection) -> anyhow::Result<()> {
    let id = RequestId::random();
    connection.request(id, envelope(id), WAIT).await?;
    Ok(())
}

fn echo(wire: Wire) {
    let Wire {
        mut inbox,
        publisher,
        ..
    } = wire;
    tokio::spawn(async move {
        let _kept = publisher;
        while let Some(message) = inbox.recv().await {
            if let Ok(payload) = message.payload {
                message.peer.reply(payload);
            }
        }
    });
}

async fn measure(name: &str, connection: &Connection) -> anyhow::Result<()> {
    for _ in 0..200 {
        ask(connection).await?;
    }
    let mut trips = Vec::new();
    let start = Instant::now();
    while start.elapsed() < EACH {
        let begin = Instant::now();
        ask(connection).await?;
        trips.push(begin.elapsed());
    }
    trips.sort_unstable();
    let at = |percent: usize| trips[trips.len() * percent / 100].as_secs_f64() * 1e6;

    let start = Instant::now();
    let askers: Vec<_> = (0..1000)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move {
                let mut asked = 0_usize;
                while start.elapsed() < EACH {
                    ask(&connection).await?;
                    asked += 1;
                }
                anyhow::Ok(asked)
            })
        })
        .collect();
    let mut asked = 0;
    for asker in askers {
        asked += asker.await??;
    }
    let rate = asked as f64 / start.elapsed().as_secs_f64();
    println!(
        "{name:6} round trip p50 {:.0} us, p99 {:.0} us; 1,000 in flight: {rate:.0}/s",
        at(50),
        at(99)
    );
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let (wire, sockets) = serve(ServerConfig::new(Endpoint::loopback(0), None))?;
    echo(wire);
    let config = ConnectionConfig::new(sockets.control_endpoint().clone());
    measure("tcp", &Connection::connect(config)).await?;
    sockets.close().await;

    let (wire, connection) = local();
    echo(wire);
    measure("local", &connection).await
}
