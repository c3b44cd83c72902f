//! `host.hello`, `host.health`, `host.stats`.

use skep_protocol::op::{Health, HostInfo, Stats, TransportCounts};
use skep_protocol::{RunnerKind, VERSION};

use crate::audit::Audit;
use crate::core::Core;

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
    let mut reasons = Vec::new();
    if core.shutdown.is_cancelled() {
        reasons.push("the host is shutting down".to_owned());
    }
    if let Some(trouble) = core.store.trouble() {
        reasons.push(format!("the store cannot be written to: {trouble}"));
    }
    if core.audit.as_ref().is_some_and(Audit::is_failing) {
        reasons.push("the audit record cannot be written; the host's log says why".to_owned());
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
            events_dropped: transport.events_dropped,
            peers_cut: transport.peers_cut,
        },
        records: core.records.load(std::sync::atomic::Ordering::Relaxed),
        compile_hits: core.wasm.compile_hits(),
        compile_misses: core.wasm.compile_misses(),
    }
}
