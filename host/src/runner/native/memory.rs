//! How much memory a tree has that nobody else has, for hosts where no cgroup
//! limits it.

use std::fs;
use std::sync::Arc;

use super::tree::{Snapshot, Snapshots};

/// How much the tree below `root` has, if that is over `limit`.
pub(super) fn over(limit: u64, snapshots: &Snapshots, root: i32) -> Option<u64> {
    let snapshot: Arc<Snapshot> = snapshots.recent();
    // Counts what processes share once for each: never too little, and cheap.
    if snapshot.usage(root).resident_bytes <= limit {
        return None;
    }
    let exact: u64 = snapshot.pids_below(root).map(own_bytes).sum();
    (exact > limit).then_some(exact)
}

/// What a process's memory amounts to without the files that it maps, each
/// part divided by how many processes have it. Nothing for one that is gone.
fn own_bytes(pid: i32) -> u64 {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let exact = sum(&read("smaps_rollup"), ["Pss_Anon:", "Pss_Shmem:"]);
    // It has made itself unreadable.
    exact
        .or_else(|| sum(&read("status"), ["RssAnon:", "RssShmem:"]))
        .unwrap_or(0)
}

fn sum(text: &str, names: [&str; 2]) -> Option<u64> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let [first, second] = names.map(kib);
    Some((first? + second?).saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_memory_is_known() {
        let this = std::process::id();
        let before = own_bytes(i32::try_from(this).unwrap());
        let held = vec![1_u8; 8 << 20];
        let after = own_bytes(i32::try_from(this).unwrap());
        // Other tests run in this process too, and give back what they had.
        assert!(before > 0 && after > 4 << 20, "{before} {after}");
        drop(held);
        assert_eq!(sum("A: 2 kB\nB:   3 kB\n", ["A:", "B:"]), Some(5 * 1024));
        assert_eq!(sum("A: 2 kB\n", ["A:", "B:"]), None);
    }
}
