//! How things stand, as the host says when it is asked.

use std::collections::BTreeSet;

use skep_protocol::event::StatusEvent;
use skep_protocol::{AgentId, AgentInfo, AgentState, ErrorCode};

use crate::{AgentFilter, Client, ClientError, Result};

/// Of whom it is asked.
#[derive(Debug)]
pub(super) enum Whom {
    These(BTreeSet<AgentId>),
    All {
        /// Whether also of those that have ended.
        ended: bool,
        /// Those that had not when they were last heard of: one that is not
        /// listed is asked for by itself.
        expected: BTreeSet<AgentId>,
    },
}

/// What the host said: of no more agents than it has or was asked for.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) states: Vec<StatusEvent>,
    /// Whom it does not know.
    pub(super) gone: Vec<AgentId>,
}

impl Standing {
    /// Asks for it. What was learned before a failure comes with it.
    pub(super) async fn ask(client: Client, whom: Whom) -> (Self, Result<()>) {
        let mut standing = Self::default();
        let asked = standing.learn(&client, whom).await;
        (standing, asked)
    }

    async fn learn(&mut self, client: &Client, whom: Whom) -> Result<()> {
        let single = match whom {
            Whom::These(agents) => agents,
            Whom::All { ended, expected } => self.list(client, ended, expected).await?,
        };
        for agent in single {
            match client.get(agent).await {
                Ok(info) => self.states.push(of_info(&info)),
                Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::NotFound => {
                    self.gone.push(agent);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lists all, and gives those that were expected and are missing.
    async fn list(
        &mut self,
        client: &Client,
        ended: bool,
        mut expected: BTreeSet<AgentId>,
    ) -> Result<BTreeSet<AgentId>> {
        let alive = AgentState::ALL
            .into_iter()
            .filter(|state| *state != AgentState::Exited);
        let filter = AgentFilter {
            states: (!ended).then(|| alive.collect()),
            ..AgentFilter::default()
        };
        let mut after = None;
        loop {
            let page = client.list(&filter, after).await?;
            for info in &page.agents {
                expected.remove(&info.id);
                self.states.push(of_info(info));
            }
            match page.next {
                Some(next) if after.is_none_or(|after| after < next) => after = Some(next),
                _ => return Ok(expected),
            }
        }
    }
}

/// The event that would have told this.
pub(super) fn of_info(info: &AgentInfo) -> StatusEvent {
    StatusEvent {
        agent: info.id,
        generation: info.generation,
        state: info.state,
        outcome: info.outcome.clone(),
        restart: info.restart.clone(),
        receipt: info.receipt.clone().map(Box::new),
        usage: info.usage,
        last_seq: info.next_seq.checked_sub(1),
        time_ms: (info.exited_ms.or(info.started_ms)).unwrap_or(info.created_ms),
    }
}
