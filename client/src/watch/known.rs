//! What is known of agents, so that nothing is told twice. Pure.

use std::collections::HashMap;

use skep_protocol::event::StatusEvent;
use skep_protocol::{AgentId, AgentState};

/// How many agents are remembered before those that have ended are forgotten.
/// Of these a late event could then be told twice.
const MAX_KNOWN: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Known(HashMap<AgentId, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    generation: u64,
    ended: bool,
}

impl Known {
    /// Takes a state; whether it is news.
    pub(super) fn learn(&mut self, status: &StatusEvent) -> bool {
        let now = Seen {
            generation: status.generation,
            ended: status.state == AgentState::Exited,
        };
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|_, seen| !seen.ended);
        }
        let before = self.0.insert(status.agent, now);
        if let Some(before) = before
            && before.generation >= now.generation
        {
            self.0.insert(status.agent, before);
            return false;
        }
        true
    }

    /// Takes that the host knows an agent no more; whether that is news.
    pub(super) fn gone(&mut self, agent: AgentId) -> bool {
        let gone = Seen {
            generation: u64::MAX,
            ended: true,
        };
        let before = self.0.insert(agent, gone);
        before.is_none_or(|before| !before.ended)
    }

    /// Whether an agent has ended or is gone.
    pub(super) fn has_ended(&self, agent: AgentId) -> bool {
        self.0.get(&agent).is_some_and(|seen| seen.ended)
    }

    /// Those that have not.
    pub(super) fn alive(&self) -> impl Iterator<Item = AgentId> {
        let alive = self.0.iter().filter(|(_, seen)| !seen.ended);
        alive.map(|(agent, _)| *agent)
    }
}

#[cfg(test)]
mod tests {
    use skep_protocol::Usage;

    use super::*;

    fn status(state: AgentState) -> StatusEvent {
        StatusEvent {
            agent: AgentId::random(),
            generation: 1,
            state,
            outcome: None,
            restart: None,
            receipt: None,
            usage: Usage::default(),
            last_seq: None,
            time_ms: 0,
        }
    }

    #[test]
    fn those_that_have_ended_are_forgotten_when_there_are_many() {
        let mut known = Known::default();
        let (runs, first) = (status(AgentState::Running), status(AgentState::Exited));
        assert!(known.learn(&runs) && known.learn(&first));
        let mut other = first.clone();
        while known.0.len() < MAX_KNOWN - 1 {
            other.agent = AgentId::random();
            assert!(known.learn(&other));
        }
        assert!(!known.learn(&first), "it is remembered");
        for _ in 0..2 {
            other.agent = AgentId::random();
            assert!(known.learn(&other));
        }
        assert_eq!(known.0.len(), 2, "the last and the one that runs");
        assert!(!known.learn(&runs) && known.learn(&first));
    }
}
