//! Many clients that come and go while they spawn: the host answers all the
//! while, and afterwards holds what it held before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentSpec, Digest, Outcome};
use skep_client::{Client, ClientError};
use skep_protocol::ErrorCode;
use skep_protocol::op::WhenFull;
use skep_tests::{DEADLINE, HostProcess, Resources, guest, probe, run, sh, soon, spec};
use tokio::task::JoinSet;

use crate::quiet;

/// For how long clients come and go, unless `SKEP_TEST_CHURN_SECONDS` says
/// otherwise; by hand it is 60.
const SECONDS: u64 = 10;
const CLIENTS: usize = 10;
/// Room for a thousand agents of the default limits, on a small machine too.
const ROOMY: [&str; 5] = [
    "--allow-native",
    "--max-agents",
    "1000",
    "--set",
    "capacity.memory_bytes=16GiB",
];
/// Spawns of one client at once.
const AT_ONCE: usize = 20;
/// Descriptors that a host opens when it first needs them, and keeps.
const SET_UP_ONCE: usize = 4;
/// A request is always answered within this time.
const STALL: Duration = Duration::from_secs(10);

fn length() -> Duration {
    let asked = std::env::var("SKEP_TEST_CHURN_SECONDS").ok();
    Duration::from_secs(asked.map_or(SECONDS, |text| text.parse().unwrap()))
}

fn of_digest(guest_name: &str, args: &[&str]) -> AgentSpec {
    let mut spec = spec(guest_name, args);
    spec.component = Some(ComponentRef::Digest(Digest::of(&guest(guest_name))));
    spec
}

/// What a client starts, and how each should end.
fn mixture(number: usize) -> (AgentSpec, Outcome) {
    match number % 5 {
        0 => (of_digest("hello", &[]), Outcome::Exited { code: 0 }),
        1 => (
            of_digest("probe", &["exit", "7"]),
            Outcome::Exited { code: 7 },
        ),
        2 => (
            of_digest("probe", &["lines", "50"]),
            Outcome::Exited { code: 0 },
        ),
        3 => (sh("echo native"), Outcome::Exited { code: 0 }),
        _ => (of_digest("probe", &["sleep", "600000"]), Outcome::Killed),
    }
}

/// When a client leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// When all its agents have ended.
    AfterTheEnds,
    /// When all its spawns were answered.
    AfterTheAnswers,
    /// When the first was, with the others under way.
    InTheMidst,
}

/// One visit: connects, spawns all at once, and leaves.
async fn visit(client: Client, leaves: Leaves) {
    let mut spawning = JoinSet::new();
    for number in 0..AT_ONCE {
        let client = client.clone();
        spawning.spawn(async move {
            // Nobody would end those whose ids were never told.
            let kinds = if leaves == Leaves::InTheMidst { 4 } else { 5 };
            let (spec, expected) = mixture(number % kinds);
            let agent = client.spawn(spec, None).await?.id;
            if expected == Outcome::Killed {
                client.kill(agent).await?;
            }
            if leaves == Leaves::AfterTheEnds {
                let ended = client.wait(agent, Some(DEADLINE)).await?;
                assert_eq!(ended.outcome, Some(expected));
                client.forget(agent).await?;
            }
            Ok::<_, ClientError>(())
        });
    }
    while let Some(spawned) = spawning.join_next().await {
        spawned.unwrap().unwrap();
        if leaves == Leaves::InTheMidst {
            break;
        }
    }
    client.connection().close().await;
}

async fn come_and_go(host: Arc<HostProcess>, end: Instant, visits: Arc<AtomicU64>) {
    let ways = [
        Leaves::AfterTheEnds,
        Leaves::AfterTheAnswers,
        Leaves::InTheMidst,
    ];
    for leaves in ways.into_iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        soon("a visit", visit(host.client(), leaves)).await;
        visits.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks after the host's health all the while; gives the longest wait.
async fn look_after(client: Client, over: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let health = tokio::time::timeout(STALL, client.health()).await;
        assert!(health.expect("the host has stalled").unwrap().healthy);
        longest = longest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    longest
}

#[expect(clippy::print_stdout, reason = "for whoever measures with it")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_and_go_and_leave_nothing_behind() {
    let host = Arc::new(HostProcess::start(&ROOMY).await);
    let client = host.client();
    for name in ["hello", "probe"] {
        client.upload(&guest(name)).await.unwrap();
    }
    let base = Resources::of(host.pid());
    let base = Resources {
        descriptors: base.descriptors + SET_UP_ONCE,
        ..base
    };

    let over = Arc::new(AtomicBool::new(false));
    let looking = tokio::spawn(look_after(host.client(), Arc::clone(&over)));
    let visits = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + length();
    let mut coming = JoinSet::new();
    for _ in 0..CLIENTS {
        coming.spawn(come_and_go(Arc::clone(&host), end, Arc::clone(&visits)));
    }
    while let Some(came) = coming.join_next().await {
        came.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let longest = looking.await.unwrap();
    let visits = visits.load(Ordering::Relaxed);
    assert!(visits >= 2 * CLIENTS as u64, "only {visits} visits");
    println!("{visits} visits; the longest that a request for health waited: {longest:?}");

    quiet(&client).await;
    // Idle threads of the pools end after ten seconds.
    let end = Instant::now() + DEADLINE;
    loop {
        let now = Resources::of(host.pid());
        if now.within(&base) {
            break;
        }
        assert!(
            Instant::now() < end,
            "{visits} visits left {now:?} of {base:?}; the longest wait was {longest:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spawns = client.stats().await.unwrap().spawns;
    // Each was answered, but for those of clients that left before.
    let asked = visits * AT_ONCE as u64;
    assert!(
        spawns <= asked && spawns >= asked / 2,
        "{spawns} of {asked}"
    );
    // Every slot is free.
    let mut spawning = JoinSet::new();
    for _ in 0..1000 {
        let client = client.clone();
        spawning.spawn(async move { client.spawn(probe_sleeper(), None).await.unwrap() });
    }
    while let Some(spawned) = soon("a thousand agents", spawning.join_next()).await {
        spawned.unwrap();
    }
    crate::refused(
        client.spawn(probe_sleeper(), Some(WhenFull::Reject)).await,
        ErrorCode::Capacity,
    );
}

fn probe_sleeper() -> AgentSpec {
    of_digest("probe", &["sleep", "600000"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_leaves_its_agents_running() {
    let host = HostProcess::start(&[]).await;
    let client = host.client();
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    crate::written(&client, agent, 1).await;
    client.connection().close().await;
    drop(client);
    let other = host.client();
    assert_eq!(other.get(agent).await.unwrap().outcome, None);
    let stopped = other.stop(agent, None).await.unwrap();
    assert_eq!(stopped.outcome, Some(Outcome::Stopped { forced: false }));
    assert_eq!(
        run(&other, spec("hello", &[])).await.output.stdout(),
        "Hello, world!\n"
    );
}
