//! Hostile agents and clients, each kind once, against a real host where others
//! go about their work. However a case ends, the host is the same process and
//! has not panicked, the others' output has no hole, all that was held is given
//! back, and the next agent runs. Every limit has a twin that stays just below
//! it and succeeds.

mod clients;
mod rows;

use std::time::{Duration, Instant};

use skep_client::Client;
use skep_client::protocol::Outcome;
use skep_tests::hostile::Yard;
use skep_tests::{DEADLINE, HostProcess, Neighbours, Resources, eventually, run, spec};

use crate::quiet;

/// How many print while something else is tried.
const NEIGHBOURS: usize = 8;

/// Descriptors that a host opens when it first needs them, and keeps.
const SET_UP_ONCE: usize = 4;

/// What allocators may keep, and the code of components that were compiled.
const KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// A host with neighbours, and what it held before they came.
pub(crate) struct Scene {
    host: HostProcess,
    client: Client,
    neighbours: Neighbours,
    yard: Yard,
    base: Resources,
    spawns: u64,
}

impl Scene {
    /// Starts the host, and the neighbours.
    pub(crate) async fn set() -> Self {
        Self::with(&[]).await
    }

    /// The same, with more arguments for the host.
    pub(crate) async fn with(args: &[&str]) -> Self {
        let yard = Yard::new();
        let allowed = yard.host_args();
        let mut all: Vec<&str> = allowed.iter().map(String::as_str).collect();
        all.extend(args);
        let host = HostProcess::start(&all).await;
        let client = host.client();
        // For what is set up but once.
        run(&client, spec("hello", &[])).await;
        let neighbours = Neighbours::start(&client, NEIGHBOURS).await;
        neighbours.heard().await;
        quiet(&client).await;
        let base = Resources::of(host.pid());
        let neighbours = Neighbours::start(&client, NEIGHBOURS).await;
        let spawns = client.stats().await.unwrap().spawns;
        Self {
            host,
            client,
            neighbours,
            yard,
            base: Resources {
                descriptors: base.descriptors + SET_UP_ONCE,
                ..base
            },
            spawns,
        }
    }

    pub(crate) fn host(&self) -> &HostProcess {
        &self.host
    }

    /// The client that is there already.
    pub(crate) async fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn yard(&self) -> &Yard {
        &self.yard
    }

    /// How many agents were spawned since the neighbours are there.
    pub(crate) async fn spawned(&self) -> u64 {
        self.client.stats().await.unwrap().spawns - self.spawns
    }

    /// Asserts that all is as it was before.
    pub(crate) async fn end(self) {
        let Self {
            mut host,
            client,
            neighbours,
            yard,
            base,
            ..
        } = self;
        neighbours.go_on().await;
        let next = run(&client, spec("hello", &[])).await;
        assert_eq!(next.outcome, Outcome::Exited { code: 0 });
        assert_eq!(next.output.stdout(), "Hello, world!\n");
        neighbours.end().await;
        quiet(&client).await;
        assert_eq!(yard.harm(), None);
        // What was forgotten is removed in the background.
        eventually("scratch directories that are gone", || async {
            host.scratch().is_empty().then_some(())
        })
        .await;
        gives_back(host.pid(), &base).await;
        assert_eq!(host.panics(), Vec::<String>::new());
        host.terminate();
        assert!(host.ended().await.success(), "it was the same process");
    }
}

/// Waits until a host holds no more than that. Idle threads of its pools end
/// after ten seconds.
async fn gives_back(pid: u32, base: &Resources) {
    let end = Instant::now() + DEADLINE;
    loop {
        let now = Resources::of(pid);
        if now.within(base) && now.resident <= base.resident + KEPT_BYTES {
            break;
        }
        assert!(Instant::now() < end, "{now:?} is left of {base:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
