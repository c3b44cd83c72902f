//! What the machine has.

/// Where a container is told how much memory it may have.
const CGROUP: &str = "/sys/fs/cgroup/memory.max";

/// The bytes of memory of the machine, or of the container that this is.
pub(super) fn memory_bytes() -> u64 {
    // It fails on no Linux. Then nothing is bounded here but by the limits.
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX / 16, |info| info.ram_total());
    let container = std::fs::read_to_string(CGROUP).ok();
    let container = container.and_then(|text| text.trim().parse::<u64>().ok());
    container.map_or(machine, |container| container.min(machine))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_a_sensible_number() {
        let bytes = super::memory_bytes();
        assert!((1 << 26..1 << 50).contains(&bytes), "{bytes}");
    }
}
