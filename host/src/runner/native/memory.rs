//! How much memory a tree has that nobody else has, for hosts where no cgroup
//! limits it.

use std::fs;

use super::tree::Snapshots;

/// Bytes of page tables that the kernel walks in one look, and as many more as
/// would map the limit so often. It walks all that a process maps, which the agent
/// decides: a mebibyte of them, of half a gibibyte that is mapped, takes 1 to 20 ms.
const WALKED_BYTES: u64 = 8 << 20;
const WALKED_LIMITS: u64 = 4;

/// Bytes that a byte of page tables maps.
const MAPPED_BY_TABLES: u64 = 512;

/// How much the tree below `root` has, if that is over `limit`; looks at one process
/// after another as long as that is `wanted`.
///
/// What processes share counts once for each of those that are not walked: never too
/// little.
pub(super) fn over(
    limit: u64,
    snapshots: &Snapshots,
    root: i32,
    wanted: impl Fn() -> bool,
) -> Option<u64> {
    let snapshot = snapshots.recent();
    // With all files that are mapped, and no look at any process.
    if snapshot.usage(root).resident_bytes <= limit {
        return None;
    }
    let mut held = Vec::new();
    for pid in snapshot.pids_below(root) {
        if !wanted() {
            return None;
        }
        held.extend(Held::read(pid).map(|held| (pid, held)));
    }
    let mut sum: u64 = held.iter().map(|(_, held)| held.bytes).sum();
    let mut walked = 0;
    for (pid, Held { bytes, tables }) in held {
        if sum <= limit || !wanted() {
            return None;
        }
        if walked + tables <= may_walk(limit) {
            walked += tables;
            // One that has made itself unreadable is taken to share nothing.
            let own = own_bytes(pid).unwrap_or(bytes);
            sum = sum.saturating_sub(bytes).saturating_add(own);
        }
    }
    (sum > limit).then_some(sum)
}

fn may_walk(limit: u64) -> u64 {
    WALKED_BYTES.saturating_add(limit / MAPPED_BY_TABLES * WALKED_LIMITS)
}

/// What a process has in memory but the files that it maps, shared or not, and
/// what it takes to tell these apart.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: u64,
    tables: u64,
}

impl Held {
    /// Nothing for one that is gone.
    fn read(pid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            bytes: sum(&status, &["RssAnon:", "RssShmem:"])?,
            tables: sum(&status, &["VmPTE:"])?,
        })
    }
}

/// The same, each part divided by how many processes have it.
fn own_bytes(pid: i32) -> Option<u64> {
    let walked = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    sum(&walked, &["Pss_Anon:", "Pss_Shmem:"])
}

fn sum(text: &str, names: &[&str]) -> Option<u64> {
    let kib = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let all: Option<u64> = names.iter().map(kib).sum();
    Some(all?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_memory_is_known() {
        let this = i32::try_from(std::process::id()).unwrap();
        let before = own_bytes(this).unwrap();
        let held = vec![1_u8; 8 << 20];
        let (after, cheap) = (own_bytes(this).unwrap(), Held::read(this).unwrap());
        // Other tests run in this process too, and give back what they had.
        assert!(before > 0 && after > 4 << 20, "{before} {after}");
        assert!(cheap.bytes > 4 << 20 && cheap.tables > 0, "{cheap:?}");
        drop(held);
        assert_eq!(sum("A: 2 kB\nB:   3 kB\n", &["A:", "B:"]), Some(5 * 1024));
        assert_eq!(sum("A: 2 kB\n", &["A:", "B:"]), None);
    }

    #[test]
    fn what_may_be_walked_maps_the_limit_four_times() {
        let tables = |limit: u64| may_walk(limit) - may_walk(0);
        assert_eq!(tables(4 << 30), 4 * (4 << 30) / 512);
        assert_eq!(may_walk(0), 8 << 20);
    }
}
