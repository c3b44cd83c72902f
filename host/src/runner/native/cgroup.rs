//! Cgroups of version 2, one for each agent, where the host may make them:
//! below its own, or beside it if an operator has delegated the one above to
//! it. Everything here is a file of the kernel's; nothing waits.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, getxattr};
use skep_protocol::{AgentId, Limits};

use super::layers::Controllers;

const PREFIX: &str = "skep-";

/// A host that was killed leaves empty cgroups behind; what is younger may be
/// another host's, about to be entered.
const STALE: Duration = Duration::from_secs(60);

/// Where a host makes cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    base: PathBuf,
    controllers: Controllers,
}

impl Cgroups {
    /// `None` where the host may not make any.
    pub(super) fn find() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = own(&cgroups, &mounts)?;
        let base = match own.parent() {
            Some(parent) if is_delegated(parent) => parent.to_owned(),
            _ => own,
        };
        // Who moves a process needs this of what lies above both places.
        let procs = base.join("cgroup.procs");
        rustix::fs::access(&procs, Access::WRITE_OK).ok()?;
        sweep(&base);
        for controller in ["+memory", "+pids", "+cpu"] {
            // It is not there, or the host itself lies in the same cgroup.
            let _refused = fs::write(base.join("cgroup.subtree_control"), controller);
        }
        let trial = Cgroup::make(&base, AgentId::random()).ok()?;
        let has = |name: &str| trial.path.join(name).exists();
        if !has("cgroup.kill") || !has("cgroup.freeze") {
            return None;
        }
        let controllers = Controllers {
            memory: has("memory.max"),
            pids: has("pids.max"),
        };
        drop(trial);
        Some(Self { base, controllers })
    }

    pub(super) fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Makes one with these limits.
    pub(super) fn make(&self, agent: AgentId, limits: &Limits) -> io::Result<Cgroup> {
        let cgroup = Cgroup::make(&self.base, agent)?;
        let set = |name: &str, value: &str| fs::write(cgroup.path.join(name), value);
        if self.controllers.memory {
            set("memory.max", &limits.memory_bytes.to_string())?;
            // All of it at once: half a tree would only be confused.
            set("memory.oom.group", "1")?;
            // Not every kernel has swap.
            let swap = cgroup.path.join("memory.swap.max");
            if swap.exists() {
                fs::write(swap, "0")?;
            }
        }
        if self.controllers.pids {
            set("pids.max", &limits.processes.to_string())?;
        }
        Ok(cgroup)
    }
}

/// One agent's cgroup, removed on drop: by then, nothing of the agent is left.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(super) fn make(base: &Path, agent: AgentId) -> io::Result<Self> {
        let path = base.join(format!("{PREFIX}{agent}"));
        DirBuilder::new().create(&path)?;
        Ok(Self { path })
    }

    /// What a process writes to, to be in it.
    pub(super) fn procs(&self) -> io::Result<OwnedFd> {
        let procs = self.path.join("cgroup.procs");
        Ok(OpenOptions::new().write(true).open(procs)?.into())
    }

    /// Holds all of it, or lets it go on. Such processes can be killed.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let value = if frozen { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), value)
    }

    /// Whether all of it is held.
    pub(super) fn is_frozen(&self) -> bool {
        self.says("frozen 1")
    }

    /// Whether none of it is left.
    pub(super) fn is_empty(&self) -> bool {
        self.says("populated 0")
    }

    fn says(&self, event: &str) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == event))
    }

    /// Kills all of it.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether the kernel killed any of it for its memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events"))
            .is_ok_and(|events| oom_kills(&events) > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a cgroup was not removed");
        }
    }
}

fn oom_kills(events: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(count).unwrap_or(0)
}

/// The directory of the cgroup that this process is in.
fn own(cgroups: &str, mounts: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(mounted).join(below))
    })
}

/// Whether systemd says that it belongs to what runs in it.
fn is_delegated(cgroup: &Path) -> bool {
    ["trusted.delegate", "user.delegate"]
        .into_iter()
        .any(|name| {
            let mut value = [0_u8; 8];
            getxattr(cgroup, name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
        })
}

/// Removes the empty ones of hosts that are gone.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let modified = entry.metadata().and_then(|found| found.modified());
        let age = modified.map(|time| time.elapsed().unwrap_or_default());
        if ours && age.is_ok_and(|age| age > STALE) {
            // One with a process in it stays.
            let _in_use = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_where_it_is_mounted() {
        let mounts = "30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 /user.slice /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        let found = |cgroups| own(cgroups, mounts);
        assert_eq!(
            found("4:memory:/a\n0::/user.slice/b.scope\n"),
            Some("/sys/fs/cgroup/unified/b.scope".into())
        );
        assert_eq!(
            found("0::/user.slice\n"),
            Some("/sys/fs/cgroup/unified/".into())
        );
        assert_eq!(found("0::/elsewhere\n"), None);
        assert_eq!(found("4:memory:/a\n"), None);
        assert_eq!(own("0::/\n", ""), None);
    }

    #[test]
    fn kills_for_memory_are_counted() {
        assert_eq!(
            oom_kills("low 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 1\n"),
            3
        );
        assert_eq!(oom_kills("max 7\n"), 0);
    }
}
