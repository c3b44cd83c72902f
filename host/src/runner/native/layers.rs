//! What a jail is made of, as far as the kernel and the host's privileges
//! grant it, and what that makes true of an agent. Pure.

use serde::{Deserialize, Serialize};
use skep_protocol::{Enforced, Enforcement};

/// What a shim can put between an agent and the machine. Found out once for a
/// host; from then on an agent starts with all of it or not at all, so that
/// what was told of it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layers {
    /// User, pid, mount, network, ipc and uts namespaces of its own.
    pub(super) namespaces: bool,
    /// A root directory with nothing in it but what it may use, and a `/proc`
    /// of its own.
    pub(super) view: bool,
    /// Landlock rules of that same content.
    pub(super) landlock: bool,
    /// A seccomp filter.
    pub(super) syscalls: bool,
}

/// What a cgroup that the host may write to limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Controllers {
    pub(super) memory: bool,
    pub(super) pids: bool,
    pub(super) cpu: bool,
}

impl Layers {
    #[cfg(test)]
    pub(super) const ALL: Self = Self {
        namespaces: true,
        view: true,
        landlock: true,
        syscalls: true,
    };

    pub(super) fn to_bits(self) -> i32 {
        [self.namespaces, self.view, self.landlock, self.syscalls]
            .into_iter()
            .rev()
            .fold(0, |bits, layer| bits << 1 | i32::from(layer))
    }

    pub(super) const fn from_bits(bits: i32) -> Self {
        Self {
            namespaces: bits & 1 != 0,
            view: bits & 2 != 0,
            landlock: bits & 4 != 0,
            syscalls: bits & 8 != 0,
        }
    }

    /// Whether the kernel counts an agent's processes apart from all others of
    /// its user: per user namespace, or per cgroup.
    pub(super) fn counts_processes(self, cgroup: Option<Controllers>) -> bool {
        self.namespaces || cgroup.is_some_and(|cgroup| cgroup.pids)
    }

    pub(super) fn enforced(self, cgroup: Option<Controllers>) -> Enforced {
        use Enforcement::{BestEffort, Enforced as Holds, None as Not};
        let either = |holds, else_holds, otherwise| match (holds, else_holds) {
            (true, _) => Holds,
            (false, true) => BestEffort,
            (false, false) => otherwise,
        };
        Enforced {
            // Without a cgroup: a limit per process, and a look at the sum four
            // times a second, which files in memory get around.
            memory: either(cgroup.is_some_and(|cgroup| cgroup.memory), true, BestEffort),
            // Natives have no fuel.
            cpu: Not,
            // Who kills the first process of a pid namespace kills all of it.
            wall: either(self.namespaces || cgroup.is_some(), true, BestEffort),
            // Landlock alone lets a file's name, times and permissions be seen
            // and changed; a root directory alone has no read-only grants.
            files: either(self.view && self.landlock, self.view || self.landlock, Not),
            // The filter lets no socket be made. An empty network alone leaves
            // the sockets that lie in directories.
            network: either(
                self.syscalls || (self.namespaces && self.view),
                self.namespaces,
                Not,
            ),
            // Without either, a stranger of the same user can wake it.
            pause: either(self.namespaces || cgroup.is_some(), true, BestEffort),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_survive() {
        for bits in 0..16 {
            assert_eq!(Layers::from_bits(bits).to_bits(), bits);
        }
        assert_eq!(Layers::ALL.to_bits(), 15);
    }

    #[test]
    fn nothing_is_told_that_no_layer_holds() {
        use Enforcement::{BestEffort, Enforced as Holds, None as Not};
        let of = |layers: Layers, cgroup| {
            let told = layers.enforced(cgroup);
            [
                told.memory,
                told.cpu,
                told.wall,
                told.files,
                told.network,
                told.pause,
            ]
        };
        let cgroup = |memory| {
            Some(Controllers {
                memory,
                pids: memory,
                cpu: memory,
            })
        };
        assert_eq!(
            of(Layers::default(), None),
            [BestEffort, Not, BestEffort, Not, Not, BestEffort]
        );
        assert_eq!(
            of(Layers::default(), cgroup(true)),
            [Holds, Not, Holds, Not, Not, Holds]
        );
        assert_eq!(
            of(Layers::ALL, cgroup(false)),
            [BestEffort, Not, Holds, Holds, Holds, Holds]
        );
        let landlock = Layers {
            landlock: true,
            ..Layers::default()
        };
        assert_eq!(
            of(landlock, None),
            [BestEffort, Not, BestEffort, BestEffort, Not, BestEffort]
        );
        let namespaces = Layers {
            namespaces: true,
            ..Layers::default()
        };
        assert_eq!(
            of(namespaces, None),
            [BestEffort, Not, Holds, Not, BestEffort, Holds]
        );
        assert!(namespaces.counts_processes(None) && !landlock.counts_processes(cgroup(false)));
    }
}
