//! What hostile agents do, and how each must end: one table for the suite,
//! which tries every case among neighbours, and for the soak, which tries them
//! at random and all at once.

mod calls;
mod compiling;
mod disk;
mod files;
mod loading;
mod native;
mod output;
mod pauses;
mod running;
mod trying;
mod wat;

use std::time::Duration;

use skep_client::protocol::{AgentSpec, ErrorCode, Trap};

pub use self::files::Yard;
pub use self::trying::Timing;
pub use self::wat::{PROGRESS, command, core_module, preview1};

const MIB: u64 = 1024 * 1024;

/// Whoever is still there then is held up by something that has no limit.
const FOR_EVER_MS: u64 = 60_000;
/// The wall clock of those who never end by themselves.
const SOON_MS: u64 = 300;
/// The fuel of those who burn it: a tenth of a second.
const SOME_FUEL: u64 = 50_000_000;

/// One thing that an agent does, and how it must end.
#[derive(Debug, Clone)]
pub struct Case {
    /// The row of cases that it belongs to.
    pub row: &'static str,
    /// What it does.
    pub what: String,
    /// The agent.
    pub spec: AgentSpec,
    /// What is done to it, one after the other.
    pub acts: Vec<Act>,
    /// How it ends.
    pub ends: Ends,
    /// All that it writes to stdout, where that is certain.
    pub writes: Option<Vec<u8>>,
    /// Whether any other end means that it got out, or saw what was another's.
    pub guards: bool,
    /// Whether a host refuses it on a machine that cannot hold it.
    pub where_held: bool,
}

/// What a client does to an agent, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Waits until it runs, or has ended before that was seen.
    Begun,
    /// Waits until it has written so many records.
    Written(u64),
    /// Waits until it is held for want of fuel.
    OutOfFuel,
    /// Holds it.
    Pause,
    /// Lets it go on.
    Resume,
    /// Gives it more fuel.
    Refuel(u64),
    /// Asks it to stop, with this grace.
    Stop(Duration),
    /// Kills it.
    Kill,
}

/// How an agent must end. The numbers that an outcome bears are those of the
/// spec's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It is refused and never becomes an agent.
    Refused(ErrorCode),
    /// It becomes one that never runs.
    StartFailed(ErrorCode),
    /// It exits.
    Exited(u8),
    /// It traps.
    Trapped(Trap),
    /// Its fuel is used up.
    OutOfFuel,
    /// It gives up after a growth was refused.
    OutOfMemory,
    /// Its time is over.
    Deadline,
    /// It was paused for as long as it may be.
    PausedTooLong,
    /// It was asked to stop.
    Stopped {
        /// Whether that did not help.
        forced: bool,
    },
    /// A signal that the host did not send ended it.
    Signaled(i32),
    /// It is killed, as soon as it runs unless something is done before.
    Killed,
}

impl Case {
    fn new(row: &'static str, what: &str, spec: AgentSpec, ends: Ends) -> Self {
        let mut spec = spec;
        spec.limits.wall_ms.get_or_insert(FOR_EVER_MS);
        Self {
            row,
            what: what.to_owned(),
            spec,
            acts: match ends {
                Ends::Killed => vec![Act::Begun, Act::Kill],
                _ => Vec::new(),
            },
            ends,
            writes: None,
            guards: false,
            where_held: false,
        }
    }

    fn acts(mut self, acts: &[Act]) -> Self {
        acts.clone_into(&mut self.acts);
        self
    }

    fn fuel(mut self, fuel: u64) -> Self {
        self.spec.limits.fuel = Some(fuel);
        self
    }

    fn wall_ms(mut self, wall_ms: u64) -> Self {
        self.spec.limits.wall_ms = Some(wall_ms);
        self
    }

    fn memory(mut self, bytes: u64) -> Self {
        self.spec.limits.memory_bytes = Some(bytes);
        self
    }

    fn writing(mut self, stdout: Vec<u8>) -> Self {
        self.writes = Some(stdout);
        self
    }

    fn guarding(mut self) -> Self {
        self.guards = true;
        self
    }
}

/// Every case.
#[must_use]
pub fn cases(yard: &Yard) -> Vec<Case> {
    [
        loading::cases(),
        compiling::cases(),
        running::cases(),
        calls::cases(),
        output::cases(),
        files::cases(yard),
        disk::cases(),
        pauses::cases(),
        native::cases(),
    ]
    .concat()
}
