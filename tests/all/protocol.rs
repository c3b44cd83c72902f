//! The bare protocol: what is no request is answered with the right code, and
//! leaves the host as it was.

use bytes::Bytes;
use serde_json::json;
use skep_client::Client;
use skep_tests::{HostProcess, Resources};
use zeromq::DealerSocket;

use crate::hostile::Scene;
use crate::raw::{Raw, new_id, request};

const MAX_PAYLOAD: usize = 10 * 1024 * 1024;

/// A host with neighbours, and a socket without manners.
pub(crate) async fn host() -> (Scene, Raw<DealerSocket>) {
    let scene = Scene::set().await;
    let raw = Raw::connect(&scene.host().control()).await;
    (scene, raw)
}

/// Asserts that the host and the connection are as before.
pub(crate) async fn unharmed(scene: Scene, mut raw: Raw<DealerSocket>) {
    let id = new_id();
    let health = raw.ask(request(&id, "host.health", json!({}))).await;
    assert_eq!(
        (health.id(), health.body()["healthy"].as_bool()),
        (id.as_str(), Some(true))
    );
    assert_eq!(scene.spawned().await, 0, "something was spawned");
    drop(raw);
    scene.end().await;
}

/// Numbers that are the same each time (xorshift64).
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.to_le_bytes()[3]
}

fn any_spawn() -> Vec<u8> {
    let spec = json!({"name": "x", "runner": "native", "command": ["/bin/true"]});
    request(&new_id(), "agent.spawn", json!({ "spec": spec }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_are_malformed() {
    let (host, mut raw) = host().await;
    let mut state = 0x5eed;
    for length in 1..300 {
        let payload: Vec<u8> = (0..length).map(|_| noise(&mut state)).collect();
        let answer = raw.ask(payload.clone()).await;
        assert_eq!(
            (answer.code(), answer.id()),
            ("malformed", ""),
            "{payload:02x?}"
        );
    }
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_truncated_prefix_is_malformed() {
    let (host, mut raw) = host().await;
    let whole = any_spawn();
    for length in 1..whole.len() {
        let answer = raw.ask(whole[..length].to_vec()).await;
        assert_eq!(
            answer.code(),
            "malformed",
            "{length} of {} bytes",
            whole.len()
        );
    }
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailing_bytes_are_malformed() {
    let (host, mut raw) = host().await;
    for tail in [&[0xc0][..], &[0x80], b"x", &[0; 1000]] {
        let answer = raw.ask([&any_spawn(), tail].concat()).await;
        assert_eq!(answer.code(), "malformed", "{tail:02x?}");
    }
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_claims_to_be_huge_is_malformed_and_costs_nothing() {
    let host = HostProcess::start(&[]).await;
    let mut raw = Raw::connect(&host.control()).await;
    let mut bombs: Vec<Vec<u8>> = [0xdd, 0xdf, 0xdb, 0xc6, 0xc9]
        .map(|head| [&[head, 0xff, 0xff, 0xff, 0xff][..], &[0; 5]].concat())
        .to_vec();
    let head = request(&new_id(), "host.hello", json!({}));
    let within = |bomb: &[u8]| [&head[..head.len() - 1], bomb].concat();
    bombs.extend(bombs.clone().iter().map(|bomb| within(bomb)));
    bombs.push(vec![0x91; 100_000]);
    bombs.push(within(&vec![0x91; 100_000]));
    bombs.push(within(&vec![0x81; 100_000]));
    // Once for what is set up but once.
    for bomb in &bombs {
        assert_eq!(raw.ask(bomb.clone()).await.code(), "malformed");
    }
    let before = Resources::of(host.pid()).resident;
    for _ in 0..20 {
        for bomb in &bombs {
            assert_eq!(raw.ask(bomb.clone()).await.code(), "malformed");
        }
    }
    let grown = Resources::of(host.pid()).resident.saturating_sub(before);
    assert!(
        grown < 10 * 1024 * 1024,
        "the host has grown by {grown} bytes"
    );
    assert!(host.client().health().await.unwrap().healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_one_payload() {
    let (host, mut raw) = host().await;
    let frame = || Bytes::from(any_spawn());
    let empty = Bytes::new;
    for frames in [
        vec![empty()],
        vec![empty(), empty(), frame()],
        vec![frame(), frame()],
        vec![frame(), empty()],
        vec![empty(), frame(), frame()],
        vec![frame(); 1000],
    ] {
        let (count, delimited) = (frames.len(), frames[0].is_empty());
        raw.send_frames(frames).await;
        let answer = if delimited {
            raw.answer_behind_delimiter().await
        } else {
            raw.answer().await
        };
        assert_eq!(
            (answer.code(), answer.id()),
            ("malformed", ""),
            "{count} frames"
        );
    }
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_end_at_ten_mebibytes() {
    let (host, mut raw) = host().await;
    let answer = raw.ask(vec![0xc0; MAX_PAYLOAD + 1]).await;
    assert_eq!((answer.code(), answer.id()), ("too_large", ""));
    assert_eq!(answer.details()["limit"], "payload_bytes");
    assert_eq!(raw.ask(vec![0xc0; MAX_PAYLOAD]).await.code(), "malformed");

    // The id is told where it can be read, and the twin just below is taken.
    let padded = |bytes: usize| {
        let id = new_id();
        let bare = request(&id, "host.hello", json!({ "pad": "" })).len();
        // A string of this length has a head of five bytes instead of one.
        let pad = "x".repeat(bytes - bare - 4);
        (request(&id, "host.hello", json!({ "pad": pad })), id)
    };
    let (payload, id) = padded(MAX_PAYLOAD + 1);
    assert_eq!(payload.len(), MAX_PAYLOAD + 1);
    let answer = raw.ask(payload).await;
    assert_eq!((answer.code(), answer.id()), ("too_large", id.as_str()));
    let (payload, id) = padded(MAX_PAYLOAD);
    assert_eq!(payload.len(), MAX_PAYLOAD);
    let answer = raw.ask(payload).await;
    assert_eq!(
        (answer.code(), answer.id()),
        ("invalid_argument", id.as_str())
    );
    assert_eq!(answer.details()["field"], "pad");
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_req_socket_is_answered_behind_its_delimiter() {
    let (host, raw) = host().await;
    let mut req = Raw::connect_req(&host.host().control()).await;
    for _ in 0..3 {
        let id = new_id();
        let answer = req.ask(request(&id, "host.hello", json!({}))).await;
        assert_eq!(
            (answer.id(), &answer.body()["runners"]),
            (id.as_str(), &json!(["wasm", "native"]))
        );
        assert_eq!(req.ask(b"nonsense".to_vec()).await.code(), "malformed");
    }
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_holds_up_no_other() {
    let (host, mut raw) = host().await;
    let client: Client = host.client().await;
    let sleeper = client
        .spawn(skep_tests::probe(&["sleep", "600000"]), None)
        .await
        .unwrap();
    let (slow, fast) = (new_id(), new_id());
    let wait = json!({"agent": sleeper.id, "timeout_ms": 3_600_000});
    raw.send(request(&slow, "agent.wait", wait)).await;
    assert_eq!(
        raw.ask(request(&fast, "host.hello", json!({}))).await.id(),
        fast
    );
    client.kill(sleeper.id).await.unwrap();
    let waited = raw.answer().await;
    assert_eq!(
        (waited.id(), &waited.body()["timed_out"]),
        (slow.as_str(), &json!(false))
    );
    host.end().await;
}
