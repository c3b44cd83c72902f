use serde::de::IgnoredAny;
use serde_bytes::ByteBuf;
use skep_protocol::codec::{decode_reply, encode_request};
use skep_protocol::op::{
    AgentForget, AgentGet, AgentKill, AgentWait, ComponentPut, ComponentRemove, HostDrain,
    Operation,
};
use skep_protocol::{AgentId, Digest, RequestId};
use skep_transport::{Connection, local};

use super::*;
use crate::config::Config;
use crate::{Endpoints, Host, Purpose};

const DEADLINE: Duration = Duration::from_secs(60);

/// A host without its loop: the test takes what comes.
struct Scene {
    host: Host,
    inbox: Inbox,
    connection: Connection,
    places: Places,
}

impl Scene {
    fn set() -> Self {
        let config = Config {
            cache_dir: None,
            ..Config::embedded()
        };
        let (wire, _) = local();
        let host = Host::start(&config, wire, Endpoints::default(), Purpose::RunOne).unwrap();
        let (wire, connection) = local();
        Self {
            host,
            inbox: wire.inbox,
            connection,
            places: Places::new(),
        }
    }

    /// The code of the refusal; none if it is granted.
    async fn ask<O: Operation>(&mut self, body: &O) -> Option<ErrorCode> {
        let id = RequestId::random();
        let payload = encode_request(id, body).unwrap();
        let asked = self.connection.request(id, payload.into(), DEADLINE);
        let taken = async {
            let inbound = self.inbox.recv().await.unwrap();
            take(&self.host.core, &self.places, inbound);
        };
        let (answer, ()) = tokio::join!(asked, taken);
        let answer = decode_reply::<IgnoredAny>(&answer.unwrap()).unwrap();
        answer.err().map(|refusal| refusal.code)
    }

    /// One request of each kind, about an agent that is not there.
    async fn ask_each(&mut self) -> [Option<ErrorCode>; 4] {
        let agent = AgentId::random();
        let wait = AgentWait {
            agent,
            timeout_ms: 1,
        };
        [
            self.ask(&wait).await,
            self.ask(&AgentKill { agent }).await,
            self.ask(&AgentForget { agent }).await,
            self.ask(&AgentGet { agent }).await,
        ]
    }
}

#[tokio::test]
async fn each_kind_of_request_has_places_of_its_own() {
    let mut scene = Scene::set();
    let not_there = Some(ErrorCode::NotFound);
    let full = Some(ErrorCode::RateLimited);
    for (kind, places, when_full) in [
        // What is answered at once, and changes nothing, needs no place.
        (Kind::Waits, 8192, [not_there; 4]),
        (Kind::Reads, 1024, [not_there; 4]),
        (Kind::Stops, 8192, [not_there; 4]),
        (Kind::Steers, 8192, [not_there, full, not_there, not_there]),
        (Kind::Changes, 8192, [not_there, not_there, full, not_there]),
    ] {
        let mut taken: Vec<_> = std::iter::from_fn(|| scene.places.of(kind)).collect();
        assert_eq!(taken.len(), places);
        assert_eq!(scene.ask_each().await, when_full, "{kind:?}");
        taken.pop();
        assert_eq!(scene.ask_each().await, [not_there; 4]);
    }
    scene.host.shutdown().await;
}

#[test]
fn what_changes_the_host_is_never_dropped_half_way() {
    fn kind<O: Operation>(body: &O) -> Kind {
        Kind::of(&encode_request(RequestId::random(), body).unwrap())
    }
    let (agent, digest) = (AgentId::random(), Digest::of(b""));
    let put = ComponentPut {
        digest,
        size: 0,
        offset: 0,
        data: ByteBuf::new(),
    };
    assert_eq!(kind(&put), Kind::Changes);
    assert_eq!(kind(&ComponentRemove { digest }), Kind::Changes);
    assert_eq!(kind(&AgentForget { agent }), Kind::Changes);
    assert_eq!(kind(&HostDrain { timeout_ms: None }), Kind::Stops);
    assert_eq!(kind(&AgentKill { agent }), Kind::Steers);
    assert_eq!(kind(&AgentGet { agent }), Kind::Reads);
}

/// What one who tells the store is interrupted in, the next one does.
#[tokio::test]
async fn what_is_gone_is_owed_to_the_store_until_it_is_told() {
    let mut scene = Scene::set();
    let core = Arc::clone(&scene.host.core);
    let digest = Digest::of(b"12345678");
    let put = ComponentPut {
        digest,
        size: 8,
        offset: 0,
        data: ByteBuf::from(b"12345678"),
    };
    assert_eq!(scene.ask(&put).await, None);
    let in_store = core.components.in_store.lock().await;
    let mut removing = Box::pin(crate::op::component::remove(&core, digest));
    assert!(poll_once(removing.as_mut()).is_none());
    drop(removing);
    assert!(core.components.owes());
    drop(in_store);
    assert_eq!(
        scene.ask(&ComponentRemove { digest }).await,
        Some(ErrorCode::NotFound)
    );
    assert!(!core.components.owes());
    scene.host.shutdown().await;
}

#[tokio::test]
async fn what_is_put_counts_from_its_last_chunk_until_it_is_held() {
    let scene = Scene::set();
    let core = &scene.host.core;
    let put = ComponentPut {
        digest: Digest::of(b"12345678"),
        size: 8,
        offset: 0,
        data: ByteBuf::from(b"12345678"),
    };
    let bytes = || core.components.totals().bytes;
    let in_store = core.components.in_store.lock().await;
    let mut putting = Box::pin(crate::op::component::put(core, put));
    assert!(poll_once(putting.as_mut()).is_none());
    assert_eq!(bytes(), 8);
    // Where nobody waits for it any more, it is given back.
    drop(putting);
    assert_eq!(bytes(), 0);
    drop(in_store);
    scene.host.shutdown().await;
}

#[tokio::test]
async fn large_payloads_under_way_are_bounded_together() {
    const SIZE: usize = 100 * 1024;
    let mut scene = Scene::set();
    let put = |bytes: usize| ComponentPut {
        digest: Digest::of(b""),
        size: 2 * SIZE as u64,
        offset: 0,
        data: ByteBuf::from(vec![0; bytes]),
    };
    let most = scene.places.for_bytes(256 * 1024 * 1024 - SIZE).unwrap();
    // With what an envelope adds to it.
    assert_eq!(scene.ask(&put(SIZE)).await, Some(ErrorCode::RateLimited));
    assert_eq!(scene.ask(&put(SIZE - 1024)).await, None);
    // Small ones do not count.
    let rest = scene.places.for_bytes(SIZE).unwrap();
    assert_eq!(scene.ask(&put(LARGE / 2)).await, None);
    drop((most, rest));
    assert_eq!(scene.ask(&put(SIZE)).await, None);
    scene.host.shutdown().await;
}
