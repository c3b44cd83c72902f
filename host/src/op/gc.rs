//! `host.gc`, and what of a host's is kept.

use skep_protocol::op::{GcReply, HostGc, Kept};

use super::component::settle;
use crate::core::Core;

pub async fn gc(core: &Core, body: &HostGc) -> GcReply {
    let agents = match (body.older_than_ms, body.dry_run) {
        (older_than_ms, true) => core.registry.older(older_than_ms),
        (older_than_ms, false) => core.registry.forget_older(older_than_ms).await,
    };
    let (components, component_bytes) = if body.components {
        core.components.remove_unused(body.dry_run)
    } else {
        (0, 0)
    };
    settle(core).await;
    GcReply {
        agents: agents.agents,
        bytes: agents.bytes,
        components,
        component_bytes,
    }
}

/// Costs a few counters, and a look at each component.
#[must_use]
pub fn kept(core: &Core) -> Kept {
    let ended = core.registry.ended();
    let components = core.components.totals();
    let (files_bytes, max_files_bytes) = core.kept.totals();
    Kept {
        ended_agents: ended.agents,
        max_ended_agents: ended.bounds.max_ended as u64,
        oldest_ended_ms: ended.oldest_ms,
        max_ended_age_ms: ended.bounds.max_age_ms(),
        history_bytes: ended.history_bytes,
        max_history_bytes: ended.max_history_bytes,
        files_bytes,
        max_files_bytes,
        components: components.components,
        components_used: components.used,
        component_bytes: components.bytes,
        component_bytes_used: components.bytes_used,
        max_component_bytes: components.bound,
        store_bytes: core.store.bytes(),
    }
}
