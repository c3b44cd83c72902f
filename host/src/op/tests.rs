//! Operations that cross each other at a moment which no client can choose.

use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use serde_bytes::ByteBuf;
use skep_protocol::op::{AgentSpawn, ComponentCheck, ComponentPut, HostDrain, PutReply};
use skep_protocol::spec::ComponentRef;
use skep_protocol::{AgentSpec, ErrorCode, Outcome, RequestId};
use skep_transport::{Connection, local};

use super::*;
use crate::components::{Component, Gone};
use crate::config::Config;
use crate::dispatch::wire_error;
use crate::runner::wasm::Facts;
use crate::store::Reply;
use crate::{Endpoints, Host, Purpose, clock};

/// Longer than anything here takes.
const DRAIN: HostDrain = HostDrain {
    timeout_ms: Some(600_000),
};

/// A host with a state directory, which nobody else asks for anything.
struct Scene {
    host: Host,
    dir: tempfile::TempDir,
    _connection: Connection,
}

impl Scene {
    async fn set() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            cache_dir: None,
            state_dir: dir.path().to_owned(),
            ..Config::embedded()
        };
        change(&mut config);
        let (wire, connection) = local();
        let host = Host::start(&config, wire, Endpoints::default(), Purpose::Serve).unwrap();
        // Until it has looked for agents of a host before, it has some to come.
        while !host.core.drivers.is_empty() {
            tokio::task::yield_now().await;
        }
        Self {
            host,
            dir,
            _connection: connection,
        }
    }

    /// The files of components and uploads.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("components")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        entries.map(name).collect()
    }

    async fn put(&self, put: ComponentPut) -> Result<PutReply, Error> {
        component::put(&self.host.core, put).await
    }

    async fn end(self) {
        self.host.shutdown().await;
    }
}

/// An agent that ends at once.
fn spawn_request() -> AgentSpawn {
    let component = wat::parse_str(
        r#"(component
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#,
    );
    let mut spec = AgentSpec::named("agent".parse().unwrap());
    spec.component = Some(ComponentRef::Data(ByteBuf::from(component.unwrap())));
    AgentSpawn {
        spec,
        when_full: None,
    }
}

fn reply() -> Reply {
    Reply {
        id: RequestId::random(),
        request: Digest::of(b"a spawn"),
        answer: Bytes::from_static(b"it is there"),
        given_ms: clock::now_ms(),
    }
}

/// Some of the bytes that an upload has.
fn part_of(whole: &[u8], offset: usize, data: &[u8]) -> ComponentPut {
    ComponentPut {
        digest: Digest::of(whole),
        size: whole.len() as u64,
        offset: offset as u64,
        data: ByteBuf::from(data),
    }
}

#[tokio::test]
async fn a_drain_waits_for_a_spawn_that_is_acknowledged_meanwhile() {
    let scene = Scene::set().await;
    let core = &scene.host.core;
    let prepared = spawn::prepare(core, spawn_request()).await.unwrap();
    let agent = prepared.reply().agent.id;
    let mut draining = Box::pin(host::drain(core, &DRAIN));
    assert!(poll!(&mut draining).is_pending(), "an agent is to come");
    let (begun, drained) = tokio::join!(spawn::begin(core, prepared, reply()), draining);
    begun.unwrap();
    assert_eq!(drained.unwrap().remaining, 0);
    let outcome = agents::get(core, agent).await.unwrap().agent.outcome;
    assert_eq!(outcome, Some(Outcome::Exited { code: 0 }));
    scene.end().await;
}

#[tokio::test]
async fn a_spawn_that_a_drain_did_not_see_is_refused() {
    let scene = Scene::set().await;
    let core = &scene.host.core;
    let mut preparing = Box::pin(spawn::prepare(core, spawn_request()));
    assert!(poll!(&mut preparing).is_pending(), "it is looked at");
    assert_eq!(host::drain(core, &DRAIN).await.unwrap().remaining, 0);
    let refusal = preparing.await.unwrap_err();
    assert!(matches!(refusal, Error::ShuttingDown), "{refusal}");
    scene.end().await;
}

#[tokio::test]
async fn a_part_that_is_written_after_its_upload_was_deleted_leaves_no_file() {
    let scene = Scene::set().await;
    let core = &scene.host.core;
    // Whoever comes next tells the store of this one first, and waits for that.
    let gone = part_of(b"gone", 0, b"go");
    let (digest, size) = (gone.digest, gone.size);
    let taken = core.components.put(digest, size, 0, &gone.data);
    assert!(taken.is_ok() && core.components.remove(&digest));
    let in_store = core.components.in_store.lock().await;
    let part = part_of(b"deleted", 0, b"del");
    let digest = part.digest;
    let mut putting = Box::pin(scene.put(part));
    assert!(poll!(&mut putting).is_pending());
    // Deleted, and all that there is of it, while its part is on its way.
    assert!(core.components.remove(&digest));
    let owed = core.components.owed(usize::MAX);
    assert_eq!(owed.last(), Some(&Gone::Upload(digest)));
    core.store.forget_uploads(vec![digest]).await;
    core.components.told(owed.len());
    drop(in_store);
    putting.await.unwrap();
    assert_eq!(scene.files(), [""; 0]);
    scene.end().await;
}

#[tokio::test]
async fn an_upload_leaves_no_part_however_it_ends() {
    const BOUND: usize = 10;
    let scene = Scene::with(|config| config.capacity.components_bytes = BOUND as u64).await;
    let part = |digest: &Digest| format!("{digest}.part").replace("sha256:", "");
    // It becomes whole.
    let whole = b"123456";
    let digest = Digest::of(whole);
    scene.put(part_of(whole, 0, &whole[..3])).await.unwrap();
    assert_eq!(scene.files(), [part(&digest)]);
    assert!(
        (scene.put(part_of(whole, 3, &whole[3..])).await)
            .unwrap()
            .complete
    );
    assert_eq!(scene.files(), [digest.to_string().replace("sha256:", "")]);
    component::remove(&scene.host.core, digest).await.unwrap();
    assert_eq!(scene.files(), [""; 0]);
    // It is whole, and something else.
    scene.put(part_of(whole, 0, &whole[..3])).await.unwrap();
    let refusal = scene.put(part_of(whole, 3, b"789")).await.unwrap_err();
    assert_eq!(wire_error(&refusal).code, ErrorCode::DigestMismatch);
    assert_eq!(scene.files(), [""; 0]);
    // It is deleted.
    scene.put(part_of(whole, 0, &whole[..3])).await.unwrap();
    component::remove(&scene.host.core, digest).await.unwrap();
    assert_eq!(scene.files(), [""; 0]);
    // Nobody goes on with it, and its room is needed, but is not enough.
    scene.put(part_of(whole, 0, &whole[..3])).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::resume();
    let large = [0; 2 * BOUND];
    let refusal = scene.put(part_of(&large, 0, &large[1..])).await;
    assert!(matches!(
        refusal,
        Err(Error::Store(StoreError::Full { held: 0, .. }))
    ));
    assert_eq!(scene.files(), [""; 0]);
    scene.end().await;
}

#[tokio::test]
async fn what_a_host_before_knew_otherwise_is_looked_at_again() {
    let scene = Scene::set().await;
    let core = &scene.host.core;
    let bytes: Bytes = wat::parse_str(
        r#"(component
            (import "nobody:has/this@1.0.0" (instance (export "f" (func))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#,
    )
    .unwrap()
    .into();
    let digest = Digest::of(&bytes);
    // Of a time when this was no cause to refuse it, and facts had no edition.
    let mut facts = serde_json::to_value(Facts::default()).unwrap();
    facts.as_object_mut().unwrap().remove("edition").unwrap();
    let facts = serde_json::from_value(facts).unwrap();
    let known = Component::new(digest, bytes, facts);
    assert!(!known.is_known());
    core.components.insert(known, None).unwrap();
    let asked = ComponentCheck {
        digest,
        grants: None,
        limits: None,
    };
    let reply = check::check(core, asked, wire_error).await.unwrap();
    assert_eq!(reply.refusal.unwrap().code, ErrorCode::MissingImport);
    let known = core.components.get(&digest).unwrap();
    assert!(known.is_known() && !known.facts.missing.is_empty());
    scene.end().await;
}
