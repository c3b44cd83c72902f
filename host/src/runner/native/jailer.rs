//! What a host can shut its agents in with: found out once, by trying.

use std::ffi::{CString, NulError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use skep_protocol::{AgentId, Enforced, Limits};
use tokio::time::timeout;

use super::account::Account;
use super::cgroup::{Cgroup, Cgroups};
use super::layers::Layers;
use super::link::Shim;
use super::processors::Processors;
use super::reach::Reach;
use super::session;
use super::wire::{Jail, Order, Report};
use crate::runner::{Access, GrantedDir};

/// A probe takes a few milliseconds.
const PROBE: Duration = Duration::from_secs(10);

/// Why agents cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("the shim could not be run: {0}")]
    Shim(#[from] io::Error),
    #[error("the shim cannot become the user of native agents: {}", .0.desc())]
    Account(Errno),
    #[error("the shim did not answer: is it of the same build as the host?")]
    Silent,
}

/// What there is on this host.
#[derive(Debug)]
pub(super) struct Jailer {
    layers: Layers,
    account: Option<Account>,
    /// Whether a session costs the host processors that it does not share out itself.
    sessions_share: bool,
    cgroups: Option<Cgroups>,
}

impl Jailer {
    /// Tries everything in a shim of its own, which then ends.
    pub(super) async fn probe(shim: &Path, account: Option<Account>) -> Result<Self, ProbeError> {
        let order = Order::Probe { account };
        let frame = order.encode().ok_or(ProbeError::Silent)?;
        let mut shim = Shim::spawn(shim)?;
        shim.order(Vec::new(), &frame).await?;
        let report = timeout(PROBE, shim.report()).await;
        shim.exit().await;
        let layers = match report {
            Ok(Some(Report::Holds(layers))) => layers,
            Ok(Some(Report::NotStarted { errno, .. })) => {
                return Err(ProbeError::Account(Errno::from_raw(errno)));
            }
            _ => return Err(ProbeError::Silent),
        };
        let cgroups = tokio::task::spawn_blocking(Cgroups::find)
            .await
            .ok()
            .flatten();
        let cpu = (cgroups.as_ref()).is_some_and(|cgroups| cgroups.controllers().cpu);
        let sessions_share = !cpu && session::share_the_processors();
        tracing::info!(
            ?layers,
            ?account,
            sessions_share,
            ?cgroups,
            "native agents are shut in"
        );
        Ok(Self {
            layers,
            account,
            sessions_share,
            cgroups,
        })
    }

    #[cfg(test)]
    pub(super) fn layers(&self) -> Layers {
        self.layers
    }

    #[cfg(test)]
    pub(super) fn gives_cgroups_with_cpu(&self) -> bool {
        self.controllers().is_some_and(|cgroup| cgroup.cpu)
    }

    /// With other layers, and no cgroup.
    #[cfg(test)]
    pub(super) fn with(mut self, layers: Layers) -> Self {
        (self.layers, self.cgroups) = (layers, None);
        self
    }

    /// Where the kernel shares the processors by session, or does not.
    #[cfg(test)]
    pub(super) fn where_sessions_share(mut self, share: bool) -> Self {
        self.sessions_share = share;
        self
    }

    pub(super) fn enforced(&self) -> Enforced {
        self.layers.enforced(self.controllers())
    }

    pub(super) fn counts_processes(&self) -> bool {
        self.layers.counts_processes(self.controllers())
    }

    /// Whether a grant of a directory means anything: whether all else is
    /// withheld, and this too if it is not to be written to.
    pub(super) fn grants_dirs(&self) -> bool {
        self.layers.landlock
    }

    /// Whether it is told that files are withheld, and what lies below a directory
    /// that every agent sees is not: Landlock has no exceptions.
    pub(super) fn lays_open(&self) -> bool {
        self.layers.landlock && !self.layers.view && self.account.is_none()
    }

    /// Whether inputs can be read and not written. The way to them is the host's
    /// alone, but where they are mounted.
    pub(super) fn shows_inputs(&self) -> bool {
        self.grants_dirs() && (self.layers.view || self.account.is_none())
    }

    /// Whether somebody has to look at the sum of an agent's memory.
    pub(super) fn watches_memory(&self) -> bool {
        !self.controllers().is_some_and(|cgroup| cgroup.memory)
    }

    /// A session keeps agents from the host's terminal, and tells which processes are
    /// theirs. Where it would also get as much of the processors as the host's, who sees
    /// neither a terminal nor others' processes has none.
    fn gives_sessions(&self) -> bool {
        let hidden = self.layers.namespaces && self.layers.view;
        !(self.sessions_share && hidden)
    }

    /// Which processor agents leave alone, where none of them has a part of its own and
    /// there are others.
    pub(super) fn processors(&self) -> Option<Processors> {
        let have_parts = self.controllers().is_some_and(|cgroup| cgroup.cpu);
        (!have_parts).then(Processors::split).flatten()
    }

    fn controllers(&self) -> Option<super::layers::Controllers> {
        self.cgroups.as_ref().map(Cgroups::controllers)
    }

    /// What shuts an agent with these limits in.
    ///
    /// # Errors
    /// If the path of a directory has a NUL.
    pub(super) fn jail(
        &self,
        limits: &Limits,
        dirs: &[GrantedDir],
        covered: &[PathBuf],
    ) -> Result<Jail, NulError> {
        let pids = self.controllers().is_some_and(|cgroup| cgroup.pids);
        let c = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
        let reach = |dir: &GrantedDir| {
            Ok(Reach {
                path: c(&dir.host)?,
                writable: dir.access != Access::Read,
            })
        };
        Ok(Jail {
            layers: self.layers,
            session: self.gives_sessions(),
            spares: self.processors().is_some(),
            account: self.account,
            reach: dirs.iter().map(reach).collect::<Result<_, _>>()?,
            covered: covered
                .iter()
                .map(|path| c(path))
                .collect::<Result<_, _>>()?,
            open_files: limits.open_files,
            data_bytes: self.watches_memory().then_some(limits.memory_bytes),
            // Elsewhere it would count what else the user runs.
            processes: (self.layers.namespaces && !pids).then_some(limits.processes),
        })
    }

    /// Makes a directory the agent's own. May block for a moment.
    pub(super) fn give(&self, scratch: &Path) -> io::Result<()> {
        match self.account {
            Some(Account { uid, gid }) => std::os::unix::fs::lchown(scratch, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// The agent's cgroup, where there are any. May block for a moment.
    pub(super) fn cgroup(&self, agent: AgentId, limits: &Limits) -> io::Result<Option<Cgroup>> {
        let make = |cgroups: &Cgroups| cgroups.make(agent, limits);
        self.cgroups.as_ref().map(make).transpose()
    }
}
