//! What a host finds in its state directory when it starts, and what it makes of
//! that before it answers anybody.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_protocol::AgentId;

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

/// Claims the state directory and opens what is in it. A host that runs one
/// agent leaves nothing there, and finds nothing: it is new.
pub(crate) fn open(
    config: &Config,
    purpose: Purpose,
    budget: &Arc<log::Budget>,
) -> Result<Opened, StartError> {
    let budget = Arc::clone(budget);
    match purpose {
        Purpose::Serve => {}
        Purpose::RunOne => {
            return Ok(Opened {
                store: Store::absent(),
                recovered: Recovered::default(),
                fates: Vec::new(),
                logs: Logs::in_memory(budget),
                left: Vec::new(),
            });
        }
    }
    let dir = &config.state_dir;
    let claim = state_dir::Claim::new(dir)?;
    let (store, mut recovered) = Store::open(dir, claim)?;
    let logs = Logs::on_disk(&dir.join("logs"), budget)?;
    let agents = std::mem::take(&mut recovered.agents).into_iter();
    let fates: Vec<_> = agents
        .map(|agent| Fate::of(agent, |id| logs.has(id)))
        .collect();
    sweep_logs(&dir.join("logs"), &logs, &fates)?;
    let left = sweep_files(dir, &fates);
    Ok(Opened {
        store,
        recovered,
        fates,
        logs,
        left,
    })
}

/// Finds the scratch directories of agents that can still be asked for theirs,
/// and removes all other directories of agents in the background. A host that
/// cannot still runs agents without any.
fn sweep_files(dir: &Path, fates: &[Fate]) -> Vec<(AgentId, PathBuf)> {
    // Others begin anew.
    let ended = fates.iter().filter(|fate| fate.is_over()).map(Fate::id);
    let ended: Vec<AgentId> = ended.collect();
    let known: HashSet<_> = ended.iter().copied().collect();
    let none = HashSet::new();
    let mut there = HashMap::new();
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
    }
}
