//! The names of what a guest may import, interface by interface, so that a
//! missing one is named before anything is compiled. The list is that of
//! wasmtime-wasi 48 without its unstable parts, and of `wit/`; what the linker
//! says is what holds.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// Each line: an interface without its version, and its functions.
const OFFER: &str = include_str!("offer.txt");

static FUNCTIONS: LazyLock<HashMap<&str, HashSet<&str>>> = LazyLock::new(|| {
    OFFER
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.collect()))
        })
        .collect()
});

/// The name of an import, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// `wasi:cli/run`
    pub(super) interface: &'a str,
    /// `0.2.6`
    pub(super) version: &'a str,
}

impl<'a> Name<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        Self { interface, version }
    }

    /// The package and version of WASI 0.3, which this host does not run.
    pub(super) fn is_wasi_0_3(self) -> bool {
        self.interface.starts_with("wasi:") && self.version.starts_with("0.3.")
    }

    /// `wasi:cli@0.3.0`
    pub(super) fn world(self) -> String {
        let package = self.interface.split('/').next().unwrap_or_default();
        format!("{package}@{}", self.version)
    }

    /// What is offered of this interface: in versions below 1.0, a component
    /// links against any patch of the same minor version.
    pub(super) fn functions(self) -> Option<&'static HashSet<&'static str>> {
        let minor = if self.interface.starts_with("wasi:") {
            "0.2."
        } else {
            "0.1."
        };
        let patch = self.version.strip_prefix(minor)?;
        // `0.2.0-rc-2023-11-10` is a version of its own, unlike all others.
        let released = !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit());
        FUNCTIONS.get(self.interface).filter(|_| released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let offered = |name| Name::of(name).functions().is_some();
        assert!(offered("wasi:cli/exit@0.2.0"));
        assert!(offered("wasi:cli/exit@0.2.12"));
        assert!(offered("wasi:cli/terminal-input@0.2.3"));
        assert!(offered("skep:agent/task@0.1.0"));
        for missing in [
            "wasi:cli/exit",
            "wasi:cli/exit@0.2",
            "wasi:cli/exit@0.2.",
            "wasi:cli/exit@0.3.0",
            "wasi:cli/exit@0.2.0-rc-2023-11-10",
            "wasi:http/types@0.2.0",
            "skep:agent/task@0.2.0",
            "",
        ] {
            assert!(!offered(missing), "{missing}");
        }
        assert!(Name::of("wasi:cli/run@0.3.0-rc-2025-09-16").is_wasi_0_3());
        assert_eq!(Name::of("wasi:cli/run@0.3.0").world(), "wasi:cli@0.3.0");
    }
}
