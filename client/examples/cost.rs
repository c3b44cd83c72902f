//! What things cost over real sockets on loopback: a round trip, a spawn, with
//! what is kept on disk and without, a line of log, a window of a long log, and,
//! if asked, a start of a host that remembers many agents.
//! Bounded in count and time. Where something is promised, it says whether that was
//! kept.
//!
//! `cargo run --release --example cost -- examples/prebuilt [AGENTS]`
#![allow(clippy::print_stdout, reason = "its figures are what it is for")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt};
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentId, AgentSpec, Digest, LimitsAsk, Outcome};
use skep_client::{AgentFilter, Client, ConnectionConfig, FollowOptions, LogItem};
use skep_host::config::{Capacity, Config};
use skep_host::{Endpoints, Host, Purpose};
use skep_transport::{ServerConfig, Sockets};

const ROUND_TRIPS: usize = 5_000;
const SPAWNS: usize = 1_000;
const AT_ONCE: usize = 500;
const A_ROUND: usize = 3_000;
const ROUNDS: usize = 5;
const LINES: u64 = 200_000;
const LONG_LOG: u64 = 1_000_000;
const WINDOW: u64 = 1_000;
const WINDOWS: usize = 500;
/// What a record counts besides its bytes.
const RECORD_OVERHEAD: u64 = 64;

/// As in the command `skep`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    skep_host::helper::serve_if_asked();
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<()> {
    let guests = PathBuf::from(
        std::env::args()
            .nth(1)
            .unwrap_or_else(|| "examples/prebuilt".into()),
    );
    let state = tempfile::tempdir()?;
    let (host, sockets) = start(state.path(), Capacity::default())?;
    let client = Client::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));

    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        client.health().await?;
        times.push(start.elapsed());
    }
    report("host.health, round trip", &mut times);

    let hello = client
        .upload(&std::fs::read(guests.join("hello.wasm"))?)
        .await?;
    run(&client, hello, &[]).await?;
    let (mut first_line, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..SPAWNS {
        let start = Instant::now();
        let agent = client.spawn(spec(hello, &[])?, None).await?;
        // The history is asked rather than the live stream, whose subscription
        // would be measured instead.
        while client
            .output(agent.id, None, 0, None)
            .await?
            .records
            .is_empty()
        {}
        first_line.push(start.elapsed());
        client.wait(agent.id, None).await?;
        ended.push(start.elapsed());
    }
    report("spawn to its first log line", &mut first_line);
    report("spawn to its end", &mut ended);

    with_and_without(&client, &guests, hello).await?;

    let probe = client
        .upload(&std::fs::read(guests.join("probe.wasm"))?)
        .await?;
    run(&client, probe, &["lines", "1"]).await?;
    let start = Instant::now();
    let agent = client
        .spawn(spec(probe, &["lines", &LINES.to_string()])?, None)
        .await?;
    let mut follow = client.follow(agent.id, FollowOptions::default());
    let (mut records, mut expired) = (0, 0);
    while let Some(item) = follow.next().await? {
        match item {
            LogItem::Record(_) => records += 1,
            LogItem::Gap(range) => expired += range.to_seq - range.from_seq + 1,
        }
    }
    let each = start.elapsed() / u32::try_from(LINES)?;
    println!(
        "{:<34} {each:>10.1?} each, {:.0} a second; {records} followed, {expired} expired",
        "lines, guest to follower",
        1.0 / each.as_secs_f64()
    );

    let long = run(&client, probe, &["lines", &LONG_LOG.to_string()]).await?;
    drop((follow, client));
    host.shutdown().await;
    sockets.close().await;
    windows(state.path(), long).await?;
    match std::env::args().nth(2) {
        Some(agents) => restart(&guests, agents.parse()?).await,
        None => Ok(()),
    }
}

/// The rates of a host that writes down what it promises, and of one that keeps
/// nothing, by turns, so that neighbours on the machine add to both; of agents that
/// print a line, which goes to disk too, and of agents that print nothing.
async fn with_and_without(client: &Client, guests: &Path, hello: Digest) -> Result<()> {
    let nothing = tempfile::tempdir()?;
    let (host, sockets) = start_for(Purpose::ServeInMemory, nothing.path(), Capacity::default())?;
    let without = Client::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    without
        .upload(&std::fs::read(guests.join("hello.wasm"))?)
        .await?;
    let probe = std::fs::read(guests.join("probe.wasm"))?;
    let silent = client.upload(&probe).await?;
    without.upload(&probe).await?;
    for (what, component, args) in [
        ("spawns and waits, 500 at once", hello, &[][..]),
        ("the same, printing nothing", silent, &["exit", "0"][..]),
    ] {
        let (mut kept, mut not_kept) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            kept.push(many(client, component, args).await?);
            not_kept.push(many(&without, component, args).await?);
        }
        let (kept, not_kept) = (rate(&mut kept), rate(&mut not_kept));
        let share = 100.0 * kept / not_kept;
        println!(
            "{what:<34} {kept:>8.0} a second, {not_kept:.0} with nothing on disk: {share:.0} % \
             (promised 80 %: {})",
            verdict(share >= 80.0)
        );
    }
    host.shutdown().await;
    sockets.close().await;
    Ok(())
}

/// How many a second, in the median of the rounds.
fn rate(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    f64::from(u32::try_from(A_ROUND).unwrap_or(u32::MAX)) / median.as_secs_f64()
}

/// One begins where another ends, so that as many are always under way.
async fn many(client: &Client, component: Digest, args: &[&str]) -> Result<Duration> {
    let start = Instant::now();
    let runs = (0..A_ROUND).map(|_| run(client, component, args));
    let mut ended = futures_util::stream::iter(runs).buffer_unordered(AT_ONCE);
    while ended.try_next().await?.is_some() {}
    Ok(start.elapsed())
}

/// Reads windows of a long log from a host that was just started.
async fn windows(state: &Path, agent: AgentId) -> Result<()> {
    let (host, sockets) = start(state, Capacity::default())?;
    let client = Client::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    client.health().await?;
    let mut times = Vec::with_capacity(WINDOWS);
    // Most lines are as long as this one.
    let bytes = WINDOW * (RECORD_OVERHEAD + (LONG_LOG - 1).to_string().len() as u64);
    for _ in 0..WINDOWS {
        let from = fastrand::u64(..LONG_LOG - WINDOW);
        let begun = Instant::now();
        let page = client.output(agent, None, from, Some(bytes)).await?;
        times.push(begun.elapsed());
        let records = page.records.len() as u64;
        let whole = page.expired.is_none() && records.abs_diff(WINDOW) < WINDOW / 10;
        anyhow::ensure!(whole, "{records} records from {from}, {:?}", page.expired);
    }
    let first = times.first().copied().unwrap_or_default();
    let longest = times.iter().max().copied().unwrap_or_default();
    report("windows of 1,000 of 1,000,000", &mut times);
    println!(
        "{:<34} {first:>10.1?}; the longest {longest:.1?} (promised 5 ms: {})",
        "the first one of a host",
        verdict(longest < Duration::from_millis(5))
    );
    host.shutdown().await;
    sockets.close().await;
    Ok(())
}

/// Starts a host on a directory where that many agents have ended.
async fn restart(guests: &Path, agents: usize) -> Result<()> {
    let state = tempfile::tempdir()?;
    let capacity = || Capacity {
        max_ended: agents,
        ..Capacity::default()
    };
    let (host, sockets) = start(state.path(), capacity())?;
    let client = Client::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    let hello = client
        .upload(&std::fs::read(guests.join("hello.wasm"))?)
        .await?;
    for _ in 0..agents.div_ceil(AT_ONCE) {
        let runs = (0..AT_ONCE).map(|_| run(&client, hello, &[]));
        futures_util::future::try_join_all(runs).await?;
    }
    drop(client);
    host.shutdown().await;
    sockets.close().await;

    let begun = Instant::now();
    let (host, sockets) = start(state.path(), capacity())?;
    let client = Client::connect(ConnectionConfig::new(sockets.control_endpoint().clone()));
    client.health().await?;
    let took = begun.elapsed();
    println!(
        "{:<34} {took:>10.1?} (promised 2 s for 100,000: {})",
        format!("start with {agents} ended agents"),
        verdict(took < Duration::from_secs(2))
    );
    let page = client.list(&AgentFilter::default(), None).await?;
    let mut times = Vec::new();
    for agent in &page.agents {
        let start = Instant::now();
        client.get(agent.id).await?;
        times.push(start.elapsed());
    }
    report("agent.get of one of them", &mut times);
    host.shutdown().await;
    sockets.close().await;
    Ok(())
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

fn start(state_dir: &Path, capacity: Capacity) -> Result<(Host, Sockets)> {
    start_for(Purpose::Serve, state_dir, capacity)
}

fn start_for(purpose: Purpose, state_dir: &Path, capacity: Capacity) -> Result<(Host, Sockets)> {
    let server = ServerConfig::new(
        "tcp://127.0.0.1:0".parse()?,
        Some("tcp://127.0.0.1:0".parse()?),
    );
    let (wire, sockets) = skep_transport::serve(server)?;
    let endpoints = Endpoints {
        control: sockets.control_endpoint().to_string(),
        events: sockets.events_endpoint().map(ToString::to_string),
    };
    let config = Config {
        capacity,
        state_dir: state_dir.to_owned(),
        ..Config::embedded()
    };
    let host = Host::start(&config, wire, endpoints, purpose)?;
    Ok((host, sockets))
}

fn spec(component: Digest, args: &[&str]) -> Result<AgentSpec> {
    Ok(AgentSpec {
        component: Some(ComponentRef::Digest(component)),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        limits: LimitsAsk {
            output_history_bytes: Some(256 * 1024 * 1024),
            ..LimitsAsk::default()
        },
        ..AgentSpec::named("cost".parse()?)
    })
}

async fn run(client: &Client, component: Digest, args: &[&str]) -> Result<AgentId> {
    let agent = client.spawn(spec(component, args)?, None).await?;
    let agent = client.wait(agent.id, Some(Duration::from_secs(60))).await?;
    anyhow::ensure!(
        agent.outcome == Some(Outcome::Exited { code: 0 }),
        "{:?}",
        agent.outcome
    );
    Ok(agent.id)
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let index = ((times.len() - 1) as f64 * share) as usize;
        times.get(index).copied().unwrap_or_default()
    };
    println!("{what:<34} p50 {:>8.1?}  p99 {:>8.1?}", at(0.5), at(0.99));
}
