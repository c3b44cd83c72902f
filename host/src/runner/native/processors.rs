//! One processor on which no agent runs, where there are more and no cgroup shares
//! them.
//!
//! Hundreds of processes that always compute keep whoever wakes beside them waiting for
//! a tenth of a second and more, however little each of them weighs. So what keeps an
//! agent, and the agent itself once it is to end, have a processor without them; so have
//! the host's threads that serve all, and its others always find it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS: Pid = Pid::from_raw(0);

/// How the names begin of threads that serve all agents: those of the sockets, the logs,
/// the store, the record of requests, and of what the host says itself.
const SERVICES: [&str; 6] = [
    "skep-control",
    "skep-events",
    "skep-log-",
    "skep-store",
    "skep-audit",
    "skep-stderr",
];

/// What this process may use of the machine, in two parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processors {
    all: CpuSet,
    spare: CpuSet,
    others: CpuSet,
}

impl Processors {
    /// `None` where there is only one, or more than 1,024 are told apart.
    pub(super) fn split() -> Option<Self> {
        let all = sched_getaffinity(THIS).ok()?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true));
        let last = usable.next_back()?;
        usable.next()?;
        let (mut spare, mut others) = (CpuSet::new(), all);
        spare.set(last).ok()?;
        others.unset(last).ok()?;
        Some(Self { all, spare, others })
    }

    /// Runs the calling process where agents do.
    pub(super) fn join_agents(&self) -> nix::Result<()> {
        sched_setaffinity(THIS, &self.others)
    }

    /// Runs the calling process where no agent does.
    pub(super) fn leave_agents(&self) -> nix::Result<()> {
        sched_setaffinity(THIS, &self.spare)
    }

    /// Runs all threads of a process where no agent does, as far as they are found.
    pub(super) fn take_aside(&self, pid: i32) {
        for (id, _) in threads_of(&pid.to_string()) {
            let _gone = sched_setaffinity(id, &self.spare);
        }
    }

    /// The same for those of this process that serve all agents, from now on: a thread
    /// that writes logs, and had last run beside hundreds of such processes, waited for up
    /// to 0.5 s to run there again, and every neighbour's lines with it.
    pub(super) fn take_services_aside(&self) {
        let is_service = |task: &Path| {
            let name = fs::read_to_string(task.join("comm"));
            name.is_ok_and(|name| SERVICES.iter().any(|service| name.starts_with(service)))
        };
        // Whoever was given other processors keeps them.
        let may_run_aside = |id| sched_getaffinity(id).is_ok_and(|own| own == self.all);
        for (id, task) in threads_of("self") {
            if is_service(&task) && may_run_aside(id) {
                let _gone = sched_setaffinity(id, &self.spare);
            }
        }
    }
}

fn threads_of(process: &str) -> impl Iterator<Item = (Pid, PathBuf)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    tasks.into_iter().flatten().flatten().filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        Some((Pid::from_raw(id), entry.path()))
    })
}

/// How many there are in a set.
#[cfg(test)]
pub(super) fn count(set: &CpuSet) -> usize {
    let is_set = |cpu: &usize| set.is_set(*cpu) == Ok(true);
    (0..CpuSet::count()).filter(is_set).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_is_set_aside_and_none_is_lost() {
        let all = sched_getaffinity(THIS).unwrap();
        match Processors::split() {
            Some(Processors { spare, others, .. }) => {
                assert_eq!((count(&spare), count(&others)), (1, count(&all) - 1));
                let both = |cpu| spare.is_set(cpu).unwrap() ^ others.is_set(cpu).unwrap();
                assert!((0..CpuSet::count()).all(|cpu| both(cpu) == all.is_set(cpu).unwrap()));
            }
            None => assert_eq!(count(&all), 1),
        }
    }

    #[test]
    fn who_is_taken_aside_is_where_no_agent_is() {
        let Some(processors) = Processors::split() else {
            return;
        };
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        processors.take_aside(pid);
        let of_child = sched_getaffinity(Pid::from_raw(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of_child.unwrap(), processors.spare);
    }
}
