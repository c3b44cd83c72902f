//! What a host finds in its state directory when it starts, and what it makes of
//! that before it answers anybody.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_protocol::AgentId;

use crate::clock;
use crate::config::Config;
use crate::core::Core;
use crate::host::{Purpose, StartError};
use crate::log::{self, Logs};
use crate::op::comeback::Fate;
use crate::scratch::{self, Scratch};
use crate::state_dir;
use crate::store::{Recovered, Store};

/// What a host has on disk.
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// All but the agents.
    pub(crate) recovered: Recovered,
    pub(crate) fates: Vec<Fate>,
    pub(crate) logs: Logs,
    /// Where agents of a host before have left files that can be asked for, in the
    /// order in which they ended. Paths, which are removed by nobody if the host
    /// does not get so far as to keep them.
    pub(crate) left: Vec<(AgentId, PathBuf)>,
}

/// Claims the state directory and opens what is in it. A host that keeps nothing
/// leaves nothing there, and finds nothing: it is new.
pub(crate) fn open(
    config: &Config,
    purpose: Purpose,
    budget: &Arc<log::Budget>,
) -> Result<Opened, StartError> {
    let budget = Arc::clone(budget);
    if !purpose.keeps() {
        return Ok(Opened {
            store: Store::absent(),
            recovered: Recovered::default(),
            fates: Vec::new(),
            logs: Logs::in_memory(budget),
            left: Vec::new(),
        });
    }
    let dir = &config.state_dir;
    let claim = state_dir::Claim::new(dir)?;
    let (store, mut recovered) = Store::open(dir, claim)?;
    let logs = Logs::on_disk(&dir.join("logs"), budget)?;
    let agents = std::mem::take(&mut recovered.agents).into_iter();
    let fates: Vec<_> = agents
        .map(|agent| Fate::of(agent, |id| logs.has(id)))
        .collect();
    let aside = set_aside_what_was_lost(dir, &logs, &fates, recovered.written_ms)?;
    sweep_logs(&dir.join("logs"), &logs, &fates)?;
    let left = sweep_files(dir, &fates, aside.as_deref());
    Ok(Opened {
        store,
        recovered,
        fates,
        logs,
        left,
    })
}

/// A log, or scratch directory, that was written to so much later than the store is of an agent that the
/// store should know: what tells of an agent that is forgotten is written after
/// its log.
const TOO_LATE_MS: u64 = 2_000;

/// Where the store is older than what lies beside it, that is of agents that are
/// not known and were not forgotten: its newest changes were lost. Such logs are set
/// aside, and never removed; and it is said where.
fn set_aside_what_was_lost(
    dir: &Path,
    logs: &Logs,
    fates: &[Fate],
    written_ms: u64,
) -> Result<Option<PathBuf>, StartError> {
    let failed = |error| log::OpenError {
        path: dir.join("logs"),
        error,
    };
    let known: HashSet<_> = fates.iter().map(Fate::id).collect();
    let is_known = |agent: &AgentId| known.contains(agent);
    let of_logs = logs.newest_unknown_ms(is_known).map_err(failed)?;
    let newest = of_logs.max(scratch::newest_unknown_ms(&dir.join("scratch"), &known));
    let is_lost = |newest: u64| newest > written_ms + TOO_LATE_MS;
    if !newest.is_some_and(is_lost) {
        return Ok(None);
    }
    let aside = dir.join(format!("unknown-{}", clock::now_ms()));
    let set_aside = logs.set_aside(is_known, &aside.join("logs"));
    set_aside.map_err(failed)?;
    tracing::error!(
        path = %aside.display(), store_written = %clock::rfc3339(written_ms),
        "the store lacks what was written to it last: the logs and scratch directories of \
         agents that it does not know are set aside, and never removed by the host"
    );
    Ok(Some(aside))
}

/// Finds the scratch directories of agents that can still be asked for theirs,
/// and removes all other directories of agents in the background, or moves those
/// of agents that are not known into the one that is given. A host that cannot
/// still runs agents without any.
fn sweep_files(dir: &Path, fates: &[Fate], aside: Option<&Path>) -> Vec<(AgentId, PathBuf)> {
    // Others begin anew.
    let ended = fates.iter().filter(|fate| fate.is_over()).map(Fate::id);
    let ended: Vec<AgentId> = ended.collect();
    let known: HashSet<_> = ended.iter().copied().collect();
    let none = HashSet::new();
    let mut there = HashMap::new();
    if let Some(aside) = aside {
        let all: HashSet<_> = fates.iter().map(Fate::id).collect();
        let (root, aside) = (dir.join("scratch"), aside.join("scratch"));
        if let Err(error) = scratch::set_aside_unknown(&root, &all, &aside) {
            tracing::error!(%error, root = %root.display(), "not all was set aside");
        }
    }
    for (root, known) in [("scratch", &known), ("inputs", &none)] {
        let root = dir.join(root);
        match scratch::left_behind(&root, known) {
            Ok(found) => {
                there.extend(found.known);
                if !found.orphans.is_empty() {
                    tracing::info!(
                        count = found.orphans.len(), root = %root.display(),
                        "removing what agents of an earlier host left"
                    );
                    tokio::task::spawn_blocking(move || drop(found.orphans));
                }
            }
            Err(error) => {
                tracing::warn!(%error, root = %root.display(), "directories of agents cannot be made");
            }
        }
    }
    ended
        .into_iter()
        .filter_map(|agent| there.remove_entry(&agent))
        .collect()
}

/// Removes the logs of agents that the store does not know.
fn sweep_logs(root: &Path, logs: &Logs, fates: &[Fate]) -> Result<(), StartError> {
    let known: HashSet<_> = fates.iter().map(Fate::id).collect();
    match logs.sweep(|agent| known.contains(agent)) {
        Ok(0) => {}
        Ok(agents) => tracing::warn!(
            agents, path = %root.display(),
            "the logs of agents that nobody knows are removed"
        ),
        Err(error) => {
            let path = root.to_owned();
            return Err(log::OpenError { path, error }.into());
        }
    }
    Ok(())
}

/// Keeps what agents of a host before left, as far as there is room. It takes a
/// walk over all of it, in which requests are answered.
pub(crate) fn keep_again(core: &Core, left: Vec<(AgentId, PathBuf)>) {
    for (agent, path) in left {
        core.kept.keep(agent, Scratch::found(path));
        // It may have been forgotten meanwhile.
        if !core.registry.has(&agent) {
            core.kept.forget(&agent);
        }
        // Nobody waits here, and what ended last is not to be lost because much is
        // to be removed for it.
        core.kept.remove_doomed();
    }
}
