//! Cgroups of version 2, one for each agent, where the host may make them:
//! below its own, or beside it if an operator has delegated the one above to
//! it. Everything here is a file of the kernel's; nothing waits.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, getxattr};
use skep_protocol::{AgentId, Limits};

use super::layers::Controllers;

const PREFIX: &str = "skep-";

/// A host that was killed leaves empty cgroups behind. Where nothing says that
/// it is gone, what is younger may be another's, about to be entered.
const STALE: Duration = Duration::from_secs(60);

/// What an agent weighs where cgroups share the processors: a tenth of what a host does
/// (`cpu.weight`, which is 100 unless it is set).
const WEIGHT: &str = "10";

/// What it weighs from its kill on, which is the most there is: each of its processes
/// takes a turn to end.
const WEIGHT_TO_END: &str = "10000";

/// Where a host makes cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    base: PathBuf,
    controllers: Controllers,
    claim: Claim,
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
        let claim = Claim::make(&base).ok()?;
        let has = |name: &str| claim.cgroup.path.join(name).exists();
        if !has("cgroup.kill") || !has("cgroup.freeze") {
            return None;
        }
        let controllers = Controllers {
            memory: has("memory.max"),
            pids: has("pids.max"),
            cpu: has("cpu.weight"),
        };
        Some(Self {
            base,
            controllers,
            claim,
        })
    }

    pub(super) fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Makes one with these limits.
    pub(super) fn make(&self, agent: AgentId, limits: &Limits) -> io::Result<Cgroup> {
        let name = format!("{PREFIX}{}-{agent}", self.claim.host);
        let cgroup = Cgroup::make(self.base.join(name))?;
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
        if self.controllers.cpu {
            set("cpu.weight", WEIGHT)?;
        }
        Ok(cgroup)
    }
}

/// An empty cgroup that a host has locked for as long as it lives. Those of its
/// agents have its name and one of their own.
#[derive(Debug)]
struct Claim {
    host: String,
    cgroup: Cgroup,
    _lock: File,
}

impl Claim {
    fn make(base: &Path) -> io::Result<Self> {
        let host = uuid::Uuid::new_v4().simple().to_string();
        let cgroup = Cgroup::make(claim(base, &host))?;
        let lock = File::open(&cgroup.path)?;
        // Another host may just be looking whether it is locked.
        lock.lock()?;
        Ok(Self {
            host,
            cgroup,
            _lock: lock,
        })
    }
}

fn claim(base: &Path, host: &str) -> PathBuf {
    base.join(format!("{PREFIX}{host}"))
}

/// One agent's cgroup, removed on drop: by then, nothing of the agent is left.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
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
        // It is not there where cgroups do not share the processors.
        let _absent = fs::write(self.path.join("cpu.weight"), WEIGHT_TO_END);
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

/// Whether this process is in a cgroup that has a share of the processors, of either
/// version. What a container shows as its root is taken for that of the machine.
pub(super) fn shares_the_processors() -> bool {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The root has no weight.
    let weighs = |path: PathBuf| path.ancestors().any(|at| at.join("cpu.weight").exists());
    is_below_the_root_of_cpu(&cgroups) || own(&cgroups, &mounts).is_some_and(weighs)
}

/// In version 1.
fn is_below_the_root_of_cpu(cgroups: &str) -> bool {
    cgroups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let mut controllers = fields.next().unwrap_or_default().split(',');
        controllers.any(|name| name == "cpu") && fields.next() != Some("/")
    })
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

/// Removes the empty ones of hosts that are gone: those of agents at once, if
/// the host's claim says so.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let modified = entry.metadata().and_then(|found| found.modified());
        let stale = modified.is_ok_and(|time| time.elapsed().unwrap_or_default() > STALE);
        let left = match rest.split_once('-') {
            Some((host, _)) => match Holder::of(&claim(base, host)) {
                Holder::Lives => false,
                Holder::Gone => true,
                Holder::Unknown => stale,
            },
            None => stale && Holder::of(&entry.path()) == Holder::Gone,
        };
        if left {
            // One with a process in it stays, and so does one that is another's.
            let _in_use = fs::remove_dir(entry.path());
        }
    }
}

/// Whose a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Lives,
    Gone,
    /// There is no claim.
    Unknown,
}

impl Holder {
    fn of(claim: &Path) -> Self {
        match File::open(claim).map(|file| file.try_lock()) {
            Ok(Ok(())) => Self::Gone,
            Ok(Err(_)) => Self::Lives,
            Err(_) => Self::Unknown,
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
    fn a_part_of_the_processors_is_that_of_a_cgroup_below_the_root() {
        for (cgroups, below) in [
            ("3:cpuset:/\n2:cpu,cpuacct:/a\n", true),
            ("2:cpu:/a:b\n0::/c\n", true),
            ("2:cpu,cpuacct:/\n1:cpuset:/a\n0::/c\n", false),
            ("0::/c\n", false),
        ] {
            assert_eq!(is_below_the_root_of_cpu(cgroups), below, "{cgroups}");
        }
    }

    #[test]
    fn only_what_a_dead_host_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let living = Claim::make(base.path()).unwrap();
        let agent = AgentId::random();
        let of_living = make(format!("{PREFIX}{}-{agent}", living.host));
        let claim = make(format!("{PREFIX}dead"));
        let of_dead = make(format!("{PREFIX}dead-{agent}"));
        let in_use = make(format!("{PREFIX}dead-{}", AgentId::random()));
        fs::create_dir(in_use.join("inner")).unwrap();
        let unclaimed = make(format!("{PREFIX}{agent}"));
        let others = make("other".to_owned());
        sweep(base.path());
        assert!(!of_dead.exists());
        for kept in [&of_living, &claim, &in_use, &unclaimed, &others] {
            assert!(kept.exists(), "{}", kept.display());
        }
        // Some time later.
        let long_ago = std::time::SystemTime::now() - 2 * STALE;
        for dir in [&claim, &unclaimed, &of_living, &living.cgroup.path] {
            File::open(dir).unwrap().set_modified(long_ago).unwrap();
        }
        sweep(base.path());
        assert!(!claim.exists() && !unclaimed.exists());
        assert!(of_living.exists() && living.cgroup.path.exists());
        let path = living.cgroup.path.clone();
        drop(living);
        assert!(!path.exists());
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
