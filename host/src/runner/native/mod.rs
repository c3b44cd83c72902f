//! Runs programs of the operating system, each below a shim of its own.
//!
//! This is not the sandbox that the wasm runner is. A program has a session of
//! its own, no descriptor, variable, signal setting or terminal of the host's,
//! cannot gain privileges by executing something, and is ended with all that
//! it started. But it is a process of the host's user, who sees that user's
//! files, network and processes, and may send them signals. So it is off
//! unless the operator wants it.
//!
//! ```text
//! host ──control socket── shim (subreaper, one thread) ── program ── …
//!   └───────────── stdin, stdout, stderr ────────────────────┘
//! ```
//! The shim is the only parent that outlives what the program starts, and ends
//! the tree if the host dies. An agent costs the host one task and five
//! descriptors, and the machine one more process.

mod child;
mod control;
mod link;
mod process;
mod pump;
pub mod shim;
#[cfg(test)]
mod tests;
mod tree;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_protocol::{Enforced, Enforcement, ErrorCode};
use tokio::sync::{mpsc, watch};

use self::control::Control;
use self::process::Process;
use self::tree::Snapshots;
use super::{GUEST_EVENTS, Guest, Launch, Runner, Stand};

/// The argument that makes the binary a shim; [`shim::shim_main`] is to be called
/// then, before anything else.
pub const SHIM_ARG: &str = "__native-shim";

/// Where a program is looked for that is given without a directory. The host's
/// own PATH is not consulted: it is not the operator's word on what may run.
const DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// What the operator says of native agents.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// A binary that calls [`shim::shim_main`] when it is given [`SHIM_ARG`].
    pub shim: PathBuf,
    /// Absolute paths of the programs that may be run; all may if there is
    /// none. It does not bind what those programs run.
    pub programs: Vec<PathBuf>,
}

/// Why a program is not run. The submitter can cause both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is neither a name nor an absolute path.
    #[error("the program is neither an absolute path nor a name without slashes")]
    Invalid,
    /// It is not on the operator's list.
    #[error("the operator does not allow this program")]
    NotAllowed,
}

impl Refused {
    /// The code for the wire.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Invalid => ErrorCode::InvalidArgument,
            Self::NotAllowed => ErrorCode::Denied,
        }
    }
}

/// Runs programs. `start` is to be called within a Tokio runtime.
#[derive(Debug)]
pub struct NativeRunner {
    config: NativeConfig,
    snapshots: Arc<Snapshots>,
}

impl NativeRunner {
    /// A runner without agents.
    #[must_use]
    pub fn new(config: NativeConfig) -> Self {
        Self {
            config,
            snapshots: Arc::default(),
        }
    }

    /// The path under which a program is executed: its own if it is absolute,
    /// or else the first of `/usr/local/bin`, `/usr/bin` and `/bin` that has
    /// it. Whether it exists and can be executed, only its start tells; a name
    /// that is found nowhere gets a path that its start will not find.
    ///
    /// # Errors
    /// [`Refused`]. A listed program is allowed under the path that is listed
    /// and no other: links are not followed, since whoever made one may change
    /// it after it was checked.
    pub fn check_program(&self, program: &str) -> Result<PathBuf, Refused> {
        let allowed = &self.config.programs;
        let allows = |path: &Path| {
            allowed.is_empty()
                || allowed
                    .iter()
                    .any(|listed| listed.as_os_str() == path.as_os_str())
        };
        if program.is_empty() || program.contains('\0') {
            return Err(Refused::Invalid);
        }
        let path = PathBuf::from(program);
        if path.is_absolute() {
            return if allows(&path) {
                Ok(path)
            } else {
                Err(Refused::NotAllowed)
            };
        }
        if program.contains('/') || program == "." || program == ".." {
            return Err(Refused::Invalid);
        }
        let mut candidates: Vec<_> = DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(program))
            .collect();
        candidates.retain(|path| allows(path));
        let found = candidates
            .iter()
            .find(|path| path.is_file())
            .or(candidates.first());
        found.cloned().ok_or(Refused::NotAllowed)
    }
}

impl Runner for NativeRunner {
    /// Kill, stop and the wall clock are best effort: a program of the same
    /// user can kill its shim, and what had left its session by then survives.
    fn enforced(&self) -> Enforced {
        Enforced {
            memory: Enforcement::None,
            cpu: Enforcement::None,
            wall: Enforcement::BestEffort,
            files: Enforcement::None,
            network: Enforcement::None,
            pause: Enforcement::None,
        }
    }

    /// The program's arguments are its own, then [`Launch::args`]; `argv[0]`
    /// is the program as it was given, because many programs are several under
    /// different names. The directory granted at `/` is the working directory;
    /// no other directory is given or withheld.
    ///
    /// A program that ended by itself, before or while it was killed, ends as
    /// it did; one that SIGTERM ended after `ask_stop` ends as signaled. When
    /// a shim is killed by a stranger, its program dies of SIGKILL with it, and
    /// so it is reported. Dropping [`Guest::events`] kills the guest.
    fn start(&self, launch: Launch) -> Guest {
        let (events, receiver) = mpsc::channel(GUEST_EVENTS);
        // Natives report no progress and are not held.
        let (_, progress) = watch::channel(None);
        let (_, stand) = watch::channel(Stand::Goes);
        let control = Arc::new(Control::new(Arc::clone(&self.snapshots)));
        let program = match &launch.program {
            super::Program::Command(command) => command
                .first()
                .map_or(Err(Refused::Invalid), |program| self.check_program(program)),
            super::Program::Component { .. } => Err(Refused::Invalid),
        };
        let process = Process {
            shim: self.config.shim.clone(),
            control: Arc::clone(&control),
            events,
        };
        tokio::spawn(process.run(program, launch));
        Guest {
            events: receiver,
            progress,
            stand,
            control,
        }
    }
}
