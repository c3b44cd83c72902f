//! A host in this process, over real sockets.

use std::path::Path;
use std::time::Duration;

use skep_client::Client;
use skep_host::config::{Config, RawConfig, RawServer};
use skep_host::{Endpoints, Host, Purpose};
use skep_protocol::{AgentInfo, AgentSpec};
use skep_transport::{ConnectionConfig, Endpoint, ServerConfig, Sockets, serve};
use tempfile::TempDir;

use crate::process::skep_binary;
use crate::wait::soon;

/// A host on free ports of loopback, with its state in a directory that goes
/// with it. Needs a tokio runtime, and should be [ended](Self::end).
#[derive(Debug)]
pub struct TestHost {
    host: Host,
    sockets: Sockets,
    control: Endpoint,
    dir: TempDir,
    /// Beside it: no agent is given the host's state, or the cache to write to.
    shared: TempDir,
    _cache: TempDir,
}

impl TestHost {
    /// A host with the defaults, but for 64 agents at most, who have 100 ms when
    /// it ends.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with another configuration. `state_dir` is a directory that is
    /// there; granted directories may lie anywhere below another.
    ///
    /// # Panics
    /// If the host does not start.
    #[expect(clippy::unused_async, reason = "it must run within a runtime")]
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shared = tempfile::tempdir().expect("a temporary directory");
        let cache = tempfile::tempdir().expect("a temporary directory");
        let raw = RawConfig {
            server: RawServer {
                control: Some("tcp://127.0.0.1:0".to_owned()),
                events: Some("tcp://127.0.0.1:0".to_owned()),
                state_dir: Some(dir.path().to_owned()),
                cache_dir: Some(cache.path().join("skep")),
                helper: Some(skep_binary()),
                ..RawServer::default()
            },
            ..RawConfig::default()
        };
        let mut config = Config::try_from(raw).expect("a configuration");
        config.capacity.max_agents = 64;
        config.grace = Duration::from_millis(100);
        config.dir_roots = vec![
            (shared.path())
                .canonicalize()
                .expect("a directory that is there"),
        ];
        change(&mut config);

        let wire = ServerConfig::new(config.control.clone(), config.events.clone());
        let (wire, sockets) = serve(wire).expect("free ports");
        let endpoints = Endpoints {
            control: sockets.control_endpoint().to_string(),
            events: sockets.events_endpoint().map(ToString::to_string),
        };
        let control = sockets.control_endpoint().clone();
        let host = Host::start(&config, wire, endpoints, Purpose::Serve).expect("a host");
        Self {
            host,
            sockets,
            control,
            dir,
            shared,
            _cache: cache,
        }
    }

    /// Where it takes requests.
    #[must_use]
    pub fn control(&self) -> &Endpoint {
        &self.control
    }

    /// Its state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root of what it may grant.
    #[must_use]
    pub fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// A new client that is connected.
    ///
    /// # Panics
    /// If the host does not answer.
    pub async fn client(&self) -> Client {
        let client = Client::connect(ConnectionConfig::new(self.control.clone()));
        client
            .connected(crate::DEADLINE)
            .await
            .expect("a connection to the host");
        client
    }

    /// Spawns an agent over a client of its own.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn spawn(&self, spec: AgentSpec) -> AgentInfo {
        self.client()
            .await
            .spawn(spec, None)
            .await
            .expect("a spawn")
    }

    /// Ends the host as a signal would: when it returns, nothing runs any more.
    ///
    /// # Panics
    /// If that does not end.
    pub async fn end(self) {
        self.end_and_leave().await;
    }

    /// The same, and gives the state directory that it leaves.
    ///
    /// # Panics
    /// If that does not end.
    pub async fn end_and_leave(self) -> TempDir {
        let Self {
            host, sockets, dir, ..
        } = self;
        soon("the end of the host", async {
            host.shutdown().await;
            sockets.close().await;
        })
        .await;
        dir
    }
}
