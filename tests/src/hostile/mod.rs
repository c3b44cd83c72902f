//! What hostile agents do, and how each must end: one table for the suite,
//! which tries every case among neighbours, and for the soak, which tries them
//! at random and all at once.

mod calls;
mod files;
mod loading;
mod output;
mod running;
mod wat;

use std::time::{Duration, Instant};

use skep_client::protocol::event::Stream;
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec, AgentState, ErrorCode, Outcome, Trap};
use skep_client::{Client, ClientError};

pub use self::files::Yard;
pub use self::wat::{command, core_module};

use crate::output::end_of;
use crate::wait::eventually;

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
    /// How it ends.
    pub ends: Ends,
    /// All that it writes to stdout, where that is certain.
    pub writes: Option<Vec<u8>>,
    /// Whether any other end means that it got out, or saw what was another's.
    pub guards: bool,
}

/// How an agent must end. The numbers that an outcome bears are those of the
/// spec's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It is refused and never becomes an agent.
    Refused(ErrorCode),
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
    /// It is killed as soon as it runs.
    Killed,
}

/// How long the end of a case took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// By how much it outlived its wall clock, by the host's clock, if that
    /// ended it.
    pub overdue: Option<Duration>,
    /// How long the kill took, if it was killed.
    pub kill: Option<Duration>,
}

impl Case {
    fn new(row: &'static str, what: &str, spec: AgentSpec, ends: Ends) -> Self {
        let mut spec = spec;
        spec.limits.wall_ms.get_or_insert(FOR_EVER_MS);
        Self {
            row,
            what: what.to_owned(),
            spec,
            ends,
            writes: None,
            guards: false,
        }
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

    /// Tries it, and forgets it.
    ///
    /// # Panics
    /// If it ends in any other way, or writes anything else.
    pub async fn try_on(&self, client: &Client) -> Timing {
        let name = format!("{}: {}", self.row, self.what);
        let agent = match (client.spawn(self.spec.clone(), None).await, self.ends) {
            (Err(ClientError::Refused(refusal)), Ends::Refused(code)) if refusal.code == code => {
                return Timing::default();
            }
            (Ok(agent), Ends::Refused(code)) => {
                let _ = client.kill(agent.id).await;
                panic!("{name}: taken instead of refused with {code}")
            }
            (Ok(agent), _) => agent.id,
            (Err(error), ends) => panic!("{name}: {error} instead of {ends:?}"),
        };
        let kill = if self.ends == Ends::Killed {
            begun(client, agent).await;
            let start = Instant::now();
            client.kill(agent).await.expect("a kill");
            Some(start.elapsed())
        } else {
            None
        };
        let ended = end_of(client, agent).await;
        let right = self.is_end(&ended.info);
        assert!(
            right,
            "{name}: {} instead of {:?}",
            ended.outcome, self.ends
        );
        if let Some(expected) = &self.writes {
            let written = ended.output.bytes(Stream::Stdout);
            assert!(
                written == *expected,
                "{name}: wrote {} bytes instead of {}, or others",
                written.len(),
                expected.len()
            );
        }
        client.forget(agent).await.expect("an agent that has ended");
        Timing {
            overdue: overdue(&ended.info),
            kill,
        }
    }

    fn is_end(&self, info: &AgentInfo) -> bool {
        let limits = &info.limits;
        match (self.ends, &info.outcome) {
            (Ends::Exited(expected), Some(Outcome::Exited { code })) => *code == expected,
            (Ends::Trapped(expected), Some(Outcome::Trapped { trap, .. })) => *trap == expected,
            (Ends::OutOfFuel, Some(Outcome::OutOfFuel { limit })) => *limit == limits.fuel,
            (
                Ends::OutOfMemory,
                Some(Outcome::OutOfMemory {
                    limit_bytes,
                    asked_bytes,
                }),
            ) => *limit_bytes == limits.memory_bytes && asked_bytes > limit_bytes,
            (Ends::Deadline, Some(Outcome::Deadline { limit_ms })) => *limit_ms == limits.wall_ms,
            (Ends::Killed, Some(Outcome::Killed)) => true,
            _ => false,
        }
    }
}

/// Waits until an agent runs, or has ended before that was seen.
async fn begun(client: &Client, agent: AgentId) {
    eventually("an agent that runs", || async {
        let info = client.get(agent).await.expect("an agent");
        matches!(info.state, AgentState::Running | AgentState::Exited).then_some(())
    })
    .await;
}

fn overdue(info: &AgentInfo) -> Option<Duration> {
    let Some(Outcome::Deadline { limit_ms }) = info.outcome else {
        return None;
    };
    let took_ms = info.exited_ms?.saturating_sub(info.created_ms);
    Some(Duration::from_millis(took_ms.saturating_sub(limit_ms)))
}

/// Every case.
#[must_use]
pub fn cases(yard: &Yard) -> Vec<Case> {
    [
        loading::cases(),
        running::cases(),
        calls::cases(),
        output::cases(),
        files::cases(yard),
    ]
    .concat()
}
