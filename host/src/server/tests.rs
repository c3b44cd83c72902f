use serde::de::IgnoredAny;
use serde_bytes::ByteBuf;
use skep_protocol::codec::{decode_reply, encode_request};
use skep_protocol::op::{AgentKill, AgentStop, AgentWait, ComponentPut, HostHealth, Operation};
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

    /// What asks for nobody: `agent.stop`, which waits, and `agent.kill`.
    async fn ask_both(&mut self) -> [Option<ErrorCode>; 2] {
        let agent = AgentId::random();
        let stop = AgentStop {
            agent,
            grace_ms: None,
        };
        [self.ask(&stop).await, self.ask(&AgentKill { agent }).await]
    }
}

const WAITS: Nature = Nature {
    waits: true,
    changes: false,
};
const OTHER: Nature = Nature {
    waits: false,
    changes: false,
};

#[tokio::test]
async fn those_who_wait_and_all_others_have_places_of_their_own() {
    let mut scene = Scene::set();
    let not_there = Some(ErrorCode::NotFound);
    let full = Some(ErrorCode::RateLimited);
    for (nature, when_full) in [(WAITS, [full, not_there]), (OTHER, [not_there, full])] {
        let mut taken: Vec<_> = std::iter::from_fn(|| scene.places.for_op(nature)).collect();
        assert_eq!(taken.len(), 8192);
        assert_eq!(scene.ask_both().await, when_full);
        // What is answered at once needs no place.
        assert_eq!(scene.ask(&HostHealth {}).await, None);
        let wait = AgentWait {
            agent: AgentId::random(),
            timeout_ms: 1,
        };
        assert_eq!(scene.ask(&wait).await, not_there);
        taken.pop();
        assert_eq!(scene.ask_both().await, [not_there, not_there]);
    }
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
