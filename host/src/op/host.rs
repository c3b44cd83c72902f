//! `host.hello`, `host.health`, `host.stats`, `host.drain`.

use skep_protocol::op::{
    DrainReply, Health, HealthCode, HealthReason, HostDrain, HostInfo, Stats, TransportCounts,
};
use skep_protocol::{RunnerKind, VERSION};

use tokio::time::Instant;

use super::Error;
use super::control::duration;
use crate::audit::Audit;
use crate::core::Core;

/// How long a drain waits if it does not say, in milliseconds.
const DRAIN_MS: u64 = 60_000;

#[must_use]
pub fn hello(core: &Core) -> HostInfo {
    let mut runners = vec![RunnerKind::Wasm];
    if core.native.is_some() {
        runners.push(RunnerKind::Native);
    }
    HostInfo {
        server_id: core.server_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: VERSION,
        control: core.endpoints.control.clone(),
        events: core.endpoints.events.clone(),
        runners,
        ceilings: core.rules.ceilings,
        defaults: core.rules.defaults,
        features: Vec::new(),
    }
}

/// Costs a few counters, however many agents there are.
#[must_use]
pub fn health(core: &Core) -> Health {
    let mut reasons = core.vitals.reasons(Instant::now());
    let mut because = |code, message: &str| {
        let message = message.to_owned();
        reasons.push(HealthReason { code, message });
    };
    if core.shutdown.is_cancelled() {
        because(HealthCode::ShuttingDown, "the host is shutting down");
    } else if core.draining.is_cancelled() {
        because(
            HealthCode::Draining,
            "the host takes no more agents and waits for those it has",
        );
    }
    if core.slots.queue_is_full() {
        because(
            HealthCode::QueueFull,
            "as many agents wait for their turn as may",
        );
    }
    if core.slots.specs_are_full() {
        because(
            HealthCode::QueueFull,
            "agents that run or wait hold as much as may be held of texts, environment and \
             stdin: large specs are refused until some have ended",
        );
    }
    if let Some(trouble) = core.store.trouble() {
        let message = format!("the store cannot be written to: {trouble}");
        because(HealthCode::Storage, &message);
    }
    if let Some(trouble) = core.logs.trouble() {
        because(HealthCode::Storage, &trouble);
    }
    let postponed = core.registry.postponed();
    if postponed > 0 {
        let message = format!(
            "agents of the host before, {postponed} of them, cannot be taken up yet; the host's \
             log says why"
        );
        because(HealthCode::Storage, &message);
    }
    if core.audit.as_ref().is_some_and(Audit::is_failing) {
        because(
            HealthCode::Storage,
            "the audit record cannot be written; the host's log says why",
        );
    }
    Health {
        healthy: reasons.is_empty(),
        uptime_ms: core.uptime_ms(),
        protocol: VERSION,
        agents: core.counts.read(),
        reasons,
    }
}

#[must_use]
pub fn stats(core: &Core) -> Stats {
    let transport = core.meter.read();
    Stats {
        requests: core.tally.requests(),
        spawns: core.tally.spawns(),
        outcomes: core.tally.outcomes(),
        transport: TransportCounts {
            messages_in: transport.messages_in,
            messages_out: transport.messages_out,
            bytes_in: transport.bytes_in,
            bytes_out: transport.bytes_out,
            events: transport.events_published,
            events_dropped: transport.events_dropped + transport.events_left_out,
            peers_cut: transport.peers_cut,
        },
        records: core.records.load(std::sync::atomic::Ordering::Relaxed),
        compile_hits: core.wasm.compile_hits(),
        compile_misses: core.wasm.compile_misses(),
        kept: Some(super::gc::kept(core)),
    }
}

/// Takes no more agents from now on, whatever the answer, and answers when all have
/// ended or the time is over.
pub async fn drain(core: &Core, body: &HostDrain) -> Result<DrainReply, Error> {
    let timeout = duration("timeout_ms", body.timeout_ms.unwrap_or(DRAIN_MS))?;
    core.draining.cancel();
    core.drivers.close();
    // What remains is counted below.
    let _ = tokio::time::timeout(timeout, core.drivers.wait()).await;
    Ok(DrainReply {
        remaining: core.counts.read().all(),
    })
}
