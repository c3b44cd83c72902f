//! A process and all that descends from it, as `/proc` shows it.
//!
//! A snapshot is not atomic: while it is read, processes fork, die and are
//! handed to another parent. Whoever relies on it looks again until nothing is
//! new; that nothing is left, only `waitpid` in the shim can tell. Costs one
//! small file for every process of the machine.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::processors::Processors;

/// How often a tree that goes on growing is looked at before the caller may
/// wait for what was killed.
const ROUNDS: usize = 16;

/// How long a snapshot may be used again.
const RECENT: Duration = Duration::from_millis(250);

/// One process, as `/proc/<pid>/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    /// Dead, and not waited for.
    zombie: bool,
    /// It runs no step of its program before it is told to go on, if it was
    /// told to stop: it has stopped, or is in a call that it leaves only to
    /// stop.
    still: bool,
    /// Ticks of its own.
    own_ticks: u64,
    /// Ticks of the children that it has waited for.
    reaped_ticks: u64,
    resident_pages: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, is the process's to choose: it may contain
    /// parentheses, spaces and newlines, and need not be text.
    fn parse(pid: i32, stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in proc(5), where the state, the first here, is the third.
        let field = |number: usize| fields.get(number - 3).copied();
        let count = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            zombie: matches!(field(3)?, "Z" | "X"),
            still: matches!(field(3)?, "T" | "t" | "D" | "Z" | "X"),
            own_ticks: count(14)? + count(15)?,
            reaped_ticks: count(16)? + count(17)?,
            resident_pages: count(24)?,
        })
    }
}

/// What a tree uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TreeUsage {
    pub(super) cpu_ms: u64,
    pub(super) resident_bytes: u64,
}

/// All processes at about one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    children: HashMap<i32, Vec<Process>>,
}

impl Snapshot {
    /// Looks at every process. What vanishes meanwhile is left out; where
    /// `/proc` cannot be read, the snapshot is empty.
    pub(super) fn take() -> Self {
        let pids = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.parse().ok()
            });
        Self::of(pids.filter_map(Process::read))
    }

    fn of(processes: impl IntoIterator<Item = Process>) -> Self {
        let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
        for process in processes {
            children.entry(process.parent).or_default().push(process);
        }
        Self { children }
    }

    /// Everything that descends from `root`, parents first, without it.
    fn below(&self, root: i32) -> Vec<Process> {
        let mut found: Vec<Process> = Vec::new();
        // Process ids are used again, and a snapshot that saw both users of
        // one can contain a circle.
        let mut seen = HashSet::from([root]);
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            for child in self.children.get(&parent).into_iter().flatten() {
                if seen.insert(child.pid) {
                    found.push(*child);
                    parents.push(child.pid);
                }
            }
        }
        found
    }

    pub(super) fn pids_below(&self, root: i32) -> impl Iterator<Item = i32> {
        self.below(root).into_iter().map(|process| process.pid)
    }

    /// Whether all that was told to stop has done so.
    pub(super) fn stands_still(&self, root: i32) -> bool {
        self.below(root).iter().all(|process| process.still)
    }

    #[cfg(test)]
    pub(super) fn count_below(&self, root: u32) -> usize {
        i32::try_from(root).map_or(0, |root| self.below(root).len())
    }

    /// What the tree below `root` uses, and the children that `root` itself
    /// has waited for have used.
    pub(super) fn usage(&self, root: i32) -> TreeUsage {
        let known = |value: nix::Result<Option<i64>>| {
            value
                .ok()
                .flatten()
                .and_then(|value| u64::try_from(value).ok())
        };
        let ticks_a_second = known(sysconf(SysconfVar::CLK_TCK)).unwrap_or(100).max(1);
        let page = known(sysconf(SysconfVar::PAGE_SIZE)).unwrap_or(4096);
        let (mut ticks, mut pages) = (0, 0);
        for process in self.below(root) {
            ticks += process.own_ticks + process.reaped_ticks;
            pages += process.resident_pages;
        }
        ticks += Process::read(root).map_or(0, |root| root.reaped_ticks);
        TreeUsage {
            cpu_ms: ticks * 1000 / ticks_a_second,
            resident_bytes: pages * page,
        }
    }
}

/// Signals all that is found below `root`, until nothing new is found or the
/// rounds are over. What was being forked meanwhile is found by the next call.
///
/// Parents first, so that what starts its children again is gone before them.
/// Nothing is frozen before a kill: a process that has a SIGKILL coming cannot
/// complete a fork any more, just as one that is to stop, and to stop and wake
/// all of a large tree takes longer than its end.
pub(super) fn signal_all(root: i32, what: Signal) {
    let mut reached = HashSet::new();
    for _ in 0..ROUNDS {
        let mut fresh = false;
        for process in Snapshot::take().below(root) {
            if reached.insert(process.pid) {
                signal(process.pid, what);
                fresh = true;
            }
        }
        if !fresh {
            return;
        }
    }
}

/// Kills all that is found below `root`, and lets it end where no agent runs, if there is
/// such a place: each of its processes takes a turn for that.
pub(super) fn end_all(root: i32, processors: Option<Processors>) {
    signal_all(root, Signal::SIGKILL);
    if let Some(processors) = processors {
        for pid in Snapshot::take().pids_below(root) {
            processors.take_aside(pid);
        }
    }
}

/// Whether a process is gone, and with it all that died before it.
pub(super) fn has_ended(pid: i32) -> bool {
    Process::read(pid).is_none_or(|process| process.zombie)
}

/// What is found of a session whose shim is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Empty,
    /// It was struck.
    Struck,
}

/// Kills what is found of a session. Who has left it is not found.
pub(super) fn strike_session(session: i32) -> Session {
    let mut found = Session::Empty;
    let snapshot = Snapshot::take();
    for process in snapshot.children.values().flatten() {
        if process.session == session {
            signal(process.pid, Signal::SIGKILL);
            // A zombie is somebody else's to wait for.
            if !process.zombie {
                found = Session::Struck;
            }
        }
    }
    found
}

/// A process that is gone needs no signal. Its number may be another's by now
/// only if all numbers were used since the snapshot, a few milliseconds ago.
fn signal(pid: i32, signal: Signal) {
    // 0 and what is below it mean groups, and 1 is never an agent.
    if pid > 1 {
        let _gone = kill(Pid::from_raw(pid), signal);
    }
}

/// Snapshots for all agents of a runner, so that to ask for the usage of a
/// thousand costs no more than to ask for one.
#[derive(Debug)]
pub(super) struct Snapshots {
    last: Mutex<Option<Taken>>,
    /// Held while one is taken: who comes second waits for it instead of taking
    /// another.
    taking: Mutex<()>,
    /// Of those who have one taken without waiting for it, or wait without a thread.
    ordered: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A snapshot, and from when it is.
type Taken = (Instant, Arc<Snapshot>);

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            taking: Mutex::default(),
            ordered: Arc::new(Semaphore::new(1)),
            turns: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Snapshots {
    /// For more than a snapshot, agents are looked at one after another: together
    /// they get no more of the host than one processor.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Looks at every process, unless that was done just now: not for a thread on
    /// which others wait.
    pub(super) fn recent(&self) -> Arc<Snapshot> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, snapshot)) = self.last().filter(is_recent) {
            return snapshot;
        }
        let snapshot = Arc::new(Snapshot::take());
        let taken = (Instant::now(), Arc::clone(&snapshot));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        snapshot
    }

    /// As if one were being taken.
    #[cfg(test)]
    pub(super) fn looks(&self) -> std::sync::MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last one, however old. Waits for nobody.
    pub(super) fn last(&self) -> Option<Taken> {
        let last = self.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the last one is recent.
    pub(super) async fn renewed(self: &Arc<Self>) {
        // It is never closed.
        let order = Arc::clone(&self.ordered).acquire_owned().await;
        if self.last().is_none_or(|last| !is_recent(&last)) {
            let snapshots = Arc::clone(self);
            let look = tokio::task::spawn_blocking(move || {
                snapshots.recent();
                drop(order);
            });
            // If it panicked, what was seen before stands.
            let _panicked = look.await;
        }
    }

    /// Has one taken for those who ask next, if the last one is old.
    pub(super) fn renew(self: &Arc<Self>) {
        let old = self.last().is_none_or(|last| !is_recent(&last));
        if !old || self.ordered.available_permits() == 0 {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let snapshots = Arc::clone(self);
            runtime.spawn(async move { snapshots.renewed().await });
        }
    }
}

fn is_recent((taken, _): &Taken) -> bool {
    taken.elapsed() < RECENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        Process {
            pid,
            parent,
            session: 1,
            zombie: false,
            still: false,
            own_ticks: 1,
            reaped_ticks: 0,
            resident_pages: 1,
        }
    }

    #[test]
    fn a_name_cannot_forge_fields() {
        let stat = b"77 (a) S 1 (\n\xff) R 5 6 7 0 -1 0 1 2 3 4 10 20 30 40 20 0 1 0 9 8 55 0";
        let expected = Process {
            pid: 77,
            parent: 5,
            session: 7,
            zombie: false,
            still: false,
            own_ticks: 30,
            reaped_ticks: 70,
            resident_pages: 55,
        };
        assert_eq!(Process::parse(77, stat), Some(expected));
        assert_eq!(Process::parse(77, b"77 (a) R 5"), None);
        assert_eq!(Process::parse(77, b""), None);
    }

    #[test]
    fn trees_and_circles() {
        let pids = |snapshot: &Snapshot, root| {
            let mut pids: Vec<_> = snapshot.below(root).iter().map(|found| found.pid).collect();
            pids.sort_unstable();
            pids
        };
        let snapshot = Snapshot::of([process(3, 2), process(2, 1), process(4, 1), process(9, 8)]);
        assert_eq!(pids(&snapshot, 1), [2, 3, 4]);
        assert!(pids(&snapshot, 3).is_empty());
        let circle = Snapshot::of([process(2, 3), process(3, 2), process(3, 4)]);
        assert_eq!(pids(&circle, 2), [3]);
        assert_eq!(pids(&circle, 4), [2, 3]);
    }

    #[test]
    fn this_process_is_seen() {
        let this = i32::try_from(std::process::id()).unwrap();
        let parent = nix::unistd::getppid().as_raw();
        let found = Snapshot::take().below(parent);
        assert!(
            found
                .iter()
                .any(|process| process.pid == this && process.resident_pages > 0)
        );
    }
}
