//! What a process holds of the system, read from `/proc`.

use std::fs;

/// How much a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Child processes, dead ones that nobody has waited for included.
    pub children: usize,
    /// Resident memory, in bytes.
    pub resident: u64,
}

impl Resources {
    /// Those of a process.
    ///
    /// # Panics
    /// If there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let entries = |what: &str| {
            let dir = format!("/proc/{pid}/{what}");
            fs::read_dir(&dir)
                .unwrap_or_else(|error| panic!("{dir}: {error}"))
                .count()
        };
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            children: pids().filter(|&child| parent(child) == Some(pid)).count(),
            resident: resident(pid),
        }
    }

    /// Those of this process.
    #[must_use]
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// Whether nothing is held beyond what was held then. Memory is left out:
    /// allocators keep it.
    #[must_use]
    pub fn within(&self, base: &Self) -> bool {
        self.descriptors <= base.descriptors
            && self.threads <= base.threads
            && self.children <= base.children
    }
}

/// The resident memory of a process, in bytes.
#[must_use]
pub(crate) fn resident(pid: u32) -> u64 {
    let kib = field(pid, "VmRSS:").and_then(|kib| kib.split(' ').next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// The processes in whose command line a text stands.
#[must_use]
pub fn processes_with(text: &str) -> Vec<u32> {
    let bears = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    pids().filter(bears).collect()
}

/// The processes that have this variable in their environment.
#[must_use]
pub(crate) fn processes_marked(name: &str, value: &str) -> Vec<u32> {
    let variable = format!("{name}={value}");
    let bears = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == variable.as_bytes())
    };
    pids().filter(bears).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    field(pid, "PPid:")?.parse().ok()
}
