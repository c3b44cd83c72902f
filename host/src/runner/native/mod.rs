//! Runs programs of the operating system, each below a shim of its own.
//!
//! This is not the sandbox that the wasm runner is: a program makes calls to
//! the kernel, of which a filter denies some. It has a group of its own, no
//! descriptor, variable, signal setting or terminal of the host's, no
//! privileges and no way to gain any, and what the kernel gives of namespaces,
//! a root directory of its own, Landlock, seccomp and cgroups; it is ended with
//! all that it started. What of it holds here, [`Runner::enforced`] tells. It is
//! off unless the operator wants it.
//!
//! ```text
//! host ──control socket── shim (subreaper, one thread) ── program ── …
//!   └───────────── stdin, stdout, stderr ────────────────────┘
//! ```
//! The shim is the only parent that outlives what the program starts, and ends
//! the tree if the host dies. An agent costs the host one task and five
//! descriptors, and the machine one more process, or two: where there are pid
//! namespaces the shim is the first process in one, below a guard, see
//! `enclosure`.
//!
//! `jailer` finds out what holds, in a shim that tries it all. After that an
//! agent is shut in so or not started. `keeper`, `child`, `enclosure`, `view`,
//! `reach`, `syscalls` and `arguments` run in the shim, `processors` in both; the rest
//! runs in the host.

mod account;
mod arguments;
mod cgroup;
mod child;
mod control;
mod enclosure;
mod hold;
mod jailer;
mod keeper;
mod layers;
mod link;
mod look;
mod memory;
mod process;
mod processors;
mod pump;
mod reach;
mod session;
pub mod shim;
mod start;
mod syscalls;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod wire;

pub use self::account::AccountError;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_protocol::{Enforced, ErrorCode};
use tokio::sync::{OnceCell, mpsc, watch};

use self::account::Account;
use self::control::Control;
use self::jailer::{Jailer, ProbeError};
use self::layers::Layers;
use self::process::Process;
use self::tree::Snapshots;
use super::{GUEST_EVENTS, Guest, Launch, Pipes, Runner};

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
    /// Whom agents are under a host that is root; `nobody` if it is not said.
    pub user: Option<String>,
    /// Directories of the host's own, by paths without links: of what lies there an
    /// agent sees no more than it is granted.
    pub private: Vec<PathBuf>,
}

/// Why an agent is not run. The submitter can cause each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is neither a name nor an absolute path.
    #[error("the program is neither an absolute path nor a name without slashes")]
    Invalid,
    /// It is not on the operator's list.
    #[error("the operator does not allow this program")]
    NotAllowed,
    /// Its processes cannot be counted.
    #[error(
        "this host has neither user namespaces nor a cgroup with the controller `pids`, without \
         which nobody counts a native agent's processes: leave it out"
    )]
    ProcessesUncounted,
    /// Directories would be granted that it sees anyway.
    #[error(
        "this host has no Landlock, without which a native agent sees all that its user does: \
         leave it out"
    )]
    DirsOpen,
    /// The host's own directories lie where every agent reads.
    #[error(
        "the host's state or its cache lies below a directory of the system that native agents \
         read, and without namespaces it cannot be kept from them: the operator moves \
         server.state_dir and server.cache_dir elsewhere, or allows user namespaces"
    )]
    StateOpen,
    /// Its inputs would lie where it may not look, or where it may write.
    #[error(
        "this host has no Landlock, or runs agents as another user without a root directory of \
         their own, without which a native agent has no inputs: leave them out"
    )]
    InputsHidden,
}

impl Refused {
    /// The code for the wire.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Invalid => ErrorCode::InvalidArgument,
            Self::NotAllowed => ErrorCode::Denied,
            Self::ProcessesUncounted | Self::DirsOpen | Self::InputsHidden | Self::StateOpen => {
                ErrorCode::UnsupportedFeature
            }
        }
    }

    /// What of the request it is about.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Invalid | Self::NotAllowed => "spec.command",
            Self::ProcessesUncounted => "spec.limits.processes",
            Self::DirsOpen => "spec.grants.dirs",
            Self::InputsHidden => "spec.inputs",
            Self::StateOpen => "spec.runner",
        }
    }
}

/// What an agent asks for that not every machine has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// A limit on its processes.
    pub processes: bool,
    /// Directories.
    pub dirs: bool,
    /// Inputs.
    pub inputs: bool,
}

/// Runs programs. `start` is to be called within a Tokio runtime.
#[derive(Debug)]
pub struct NativeRunner {
    setup: Arc<Setup>,
    snapshots: Arc<Snapshots>,
}

/// What all agents of a runner are started with.
#[derive(Debug)]
struct Setup {
    config: NativeConfig,
    account: Option<Account>,
    /// What of [`NativeConfig::private`] lies where agents see everything.
    covered: Vec<PathBuf>,
    /// Empty before the first agent: most hosts in a person's own process never
    /// run one.
    jailer: OnceCell<Jailer>,
}

impl Setup {
    async fn jailer(&self) -> Result<&Jailer, ProbeError> {
        let probe = || async {
            let jailer = Jailer::probe(&self.config.shim, self.account).await?;
            if let Some(processors) = jailer.processors() {
                processors.take_services_aside();
            }
            Ok(jailer)
        };
        self.jailer.get_or_try_init(probe).await
    }

    fn known(&self) -> Option<&Jailer> {
        self.jailer.get()
    }

    /// Refuses all agents where they would see the host's own directories, and were
    /// told that they don't.
    fn hides(&self, jailer: &Jailer) -> Result<(), Refused> {
        if jailer.lays_open() && !self.covered.is_empty() {
            return Err(Refused::StateOpen);
        }
        Ok(())
    }
}

impl NativeRunner {
    /// A runner without agents.
    ///
    /// # Errors
    /// [`AccountError`], if agents cannot be whom the operator says.
    pub fn new(config: NativeConfig) -> Result<Self, AccountError> {
        let account = Account::of(config.user.as_deref())?;
        let jailer = OnceCell::new();
        let covered: Vec<PathBuf> = (config.private.iter())
            .filter(|path| view::system_tree(path).is_some())
            .cloned()
            .collect();
        for path in &covered {
            // Only what is there can be covered. Who needs it says why it cannot be made.
            let _later = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path);
        }
        let setup = Setup {
            config,
            account,
            covered,
            jailer,
        };
        Ok(Self {
            setup: Arc::new(setup),
            snapshots: Arc::default(),
        })
    }

    /// Looks at what its agents use, unless that was done within 250 ms.
    pub async fn look(&self) {
        self.snapshots.renewed().await;
    }

    /// Checks what an agent asks for against what holds on this machine, which
    /// is found out first if it is not known: then [`Runner::enforced`] is true.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn check(&self, asked: Wanted) -> Result<(), Refused> {
        // Where nothing can be run, its start says why.
        let Ok(jailer) = self.setup.jailer().await else {
            return Ok(());
        };
        self.setup.hides(jailer)?;
        if asked.processes && !jailer.counts_processes() {
            return Err(Refused::ProcessesUncounted);
        }
        if asked.dirs && !jailer.grants_dirs() {
            return Err(Refused::DirsOpen);
        }
        if asked.inputs && !jailer.shows_inputs() {
            return Err(Refused::InputsHidden);
        }
        Ok(())
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
        let allowed = &self.setup.config.programs;
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
    /// What was found on this machine; before that, the least.
    fn enforced(&self) -> Enforced {
        let least = || Layers::default().enforced(None);
        self.setup.known().map_or_else(least, Jailer::enforced)
    }

    /// The program's arguments are its own, then [`Launch::args`]; `argv[0]`
    /// is the program as it was given, because many programs are several under
    /// different names. The directory granted at `/` is the working directory;
    /// all others lie where the host has them.
    ///
    /// A program that ended by itself, before or while it was killed, ends as
    /// it did; one that SIGTERM ended after `ask_stop` ends as signaled. When
    /// a shim is killed by a stranger, its program dies of SIGKILL with it, and
    /// so it is reported. Dropping [`Guest::events`] kills the guest.
    fn start(&self, launch: Launch, pipes: Pipes) -> Guest {
        let (events, receiver) = mpsc::channel(GUEST_EVENTS);
        // Natives report no progress.
        let (_, progress) = watch::channel(None);
        let control = Arc::new(Control::new(Arc::clone(&self.snapshots)));
        let stand = control.stand();
        let program = match &launch.program {
            super::Program::Command(command) => command
                .first()
                .map_or(Err(Refused::Invalid), |program| self.check_program(program)),
            super::Program::Component { .. } => Err(Refused::Invalid),
        };
        let process = Process {
            setup: Arc::clone(&self.setup),
            control: Arc::clone(&control),
            events,
        };
        tokio::spawn(process.run(program, launch, pipes));
        Guest {
            events: receiver,
            progress,
            stand,
            control,
        }
    }
}
