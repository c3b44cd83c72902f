//! The status and progress of one agent, of some, or of all on a host: events
//! for speed, what the host says when asked for the rest.
//!
//! Events may be lost, and the last one leaves no hole that would show it. So
//! the host is asked in the beginning, when the connection was interrupted, and
//! now and then; the generation of a state tells whether it is news.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use skep_protocol::codec::decode;
use skep_protocol::event::{ProgressEvent, StatusEvent, Topic};
use skep_protocol::{AgentId, AgentState};
use skep_transport::{Event, Subscription};

use crate::absence::{Absence, HOST_AWAY};
use crate::asking::Asking;
use crate::poll::Poll;
use crate::{Client, Result};

mod known;
mod standing;

use known::Known;
use standing::{Standing, Whom};

/// The pause before the host is asked again, in the beginning: over sockets a
/// subscription is effective some time after it was made. It doubles.
const FIRST_POLL: Duration = Duration::from_millis(20);
/// The pause once it has doubled often enough.
const POLL: Duration = Duration::from_secs(5);
/// The same, where there are no events.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// A stream of what becomes of agents.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// Whose; all where absent.
    agents: Option<BTreeSet<AgentId>>,
    status: Subscription,
    progress: Subscription,
    /// Whether the host publishes events.
    on: bool,
    closed: bool,
    known: Known,
    ready: VecDeque<WatchEvent>,
    /// Events that may have been lost so far, as far as it was looked.
    losses: u64,
    poll: Poll,
    asking: Asking<(Standing, Result<()>)>,
    /// Whether agents that ended meanwhile may be unknown.
    lost: bool,
    /// Whether the host has not been asked yet.
    first: bool,
    absence: Absence,
}

/// One thing that became of an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// Its state: as it is in the beginning, and then each change. Where events
    /// were lost, several changes are told as one; the latest never is lost. The
    /// time of one that was asked for is the last that the host tells.
    Status(StatusEvent),
    /// How far it says that it has come. The host keeps no reports: one that is
    /// lost stays so.
    Progress(ProgressEvent),
    /// The host does not know it any more, or never did: it was forgotten, or
    /// the host has begun anew.
    Gone(AgentId),
}

impl WatchEvent {
    /// Whose it is.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        match self {
            Self::Status(status) => status.agent,
            Self::Progress(progress) => progress.agent,
            Self::Gone(agent) => *agent,
        }
    }
}

impl Client {
    /// Watches an agent's status and progress, from its present state on.
    ///
    /// # Errors
    /// As any request.
    pub async fn watch(&self, agent: AgentId) -> Result<Watch> {
        Watch::new(self, Some(BTreeSet::from([agent]))).await
    }

    /// Watches some agents.
    ///
    /// # Errors
    /// As any request.
    pub async fn watch_some(&self, agents: impl IntoIterator<Item = AgentId>) -> Result<Watch> {
        Watch::new(self, Some(agents.into_iter().collect())).await
    }

    /// Watches all agents of the host: those that have not ended, and those
    /// that come.
    ///
    /// # Errors
    /// As any request.
    pub async fn watch_all(&self) -> Result<Watch> {
        Watch::new(self, None).await
    }
}

impl Watch {
    async fn new(client: &Client, agents: Option<BTreeSet<AgentId>>) -> Result<Self> {
        // Of several, what concerns others is passed over here: a topic for each
        // would be a subscription for each.
        let one = match agents.iter().flatten().collect::<Vec<_>>().as_slice() {
            [agent] => Some(**agent),
            _ => None,
        };
        let (status, progress) = match one {
            Some(agent) => (
                Topic::Status(agent).to_string(),
                Topic::Progress(agent).to_string(),
            ),
            None => ("status.".to_owned(), "progress.".to_owned()),
        };
        let connection = client.connection();
        let status = connection.subscribe(&status).await;
        let progress = connection.subscribe(&progress).await;
        let on = client.connect_host_events().await?;
        Ok(Self {
            client: client.clone(),
            agents,
            status,
            progress,
            on,
            closed: false,
            known: Known::default(),
            ready: VecDeque::new(),
            losses: 0,
            poll: Poll::new(FIRST_POLL),
            asking: Asking::nothing(),
            lost: true,
            first: true,
            absence: Absence::new(HOST_AWAY),
        })
    }

    /// The same, of this agent alone: for one that was spawned after the watch
    /// began, so that nothing of it is missed.
    #[must_use]
    pub fn only(mut self, agent: AgentId) -> Self {
        self.agents = Some(BTreeSet::from([agent]));
        self.ready.retain(|event| event.agent() == agent);
        // It was about all, of whom those that have ended are no news.
        self.asking = Asking::nothing();
        self
    }

    /// The next event; `None` once all agents that are watched have ended or are
    /// gone. One who watches all never comes to that. Cancel-safe, and may be
    /// called again after an error.
    ///
    /// # Errors
    /// [`ClientError::Timeout`](crate::ClientError::Timeout) if the host was away for 5
    /// minutes; else as any request.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if let Some(event) = self.try_next() {
                return Ok(Some(event));
            }
            if self.is_complete() {
                return Ok(None);
            }
            if self.asking.is_under_way() || self.poll.is_due() {
                let asked = self.ask().await;
                self.absence.forgive(asked).await?;
                continue;
            }
            self.listen().await;
        }
    }

    /// The next event, if it is here already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = self
                .status
                .try_recv()
                .or_else(|| self.progress.try_recv())?;
            self.heard(&event);
        }
    }

    fn is_complete(&self) -> bool {
        let ended = |&agent| self.known.has_ended(agent);
        self.agents
            .as_ref()
            .is_some_and(|agents| agents.iter().all(ended))
    }

    async fn listen(&mut self) {
        let (closed, at) = (self.closed, self.poll.at());
        // Not biased: neither may hold up the other.
        let event = tokio::select! {
            event = self.status.recv(), if !closed => Some(event),
            event = self.progress.recv(), if !closed => Some(event),
            () = tokio::time::sleep_until(at) => None,
        };
        let losses = self.status.interruptions() + self.status.lagged();
        if std::mem::replace(&mut self.losses, losses) != losses {
            // It is as in the beginning.
            self.poll.reset();
            self.lost = true;
        }
        match event {
            Some(Some(event)) => {
                self.on = true;
                self.heard(&event);
            }
            // The connection is closed: the next request will say so.
            Some(None) => (self.on, self.closed) = (false, true),
            None => {}
        }
    }

    fn heard(&mut self, event: &Event) {
        // What cannot be decoded comes from another version and is passed over.
        if event.topic.starts_with("status.") {
            if let Ok(status) = decode::<StatusEvent>(&event.payload) {
                self.status(status);
            }
        } else if let Ok(progress) = decode::<ProgressEvent>(&event.payload)
            && self.concerns(progress.agent)
        {
            self.ready.push_back(WatchEvent::Progress(progress));
        }
    }

    fn concerns(&self, agent: AgentId) -> bool {
        let agents = self.agents.as_ref();
        agents.is_none_or(|agents| agents.contains(&agent))
    }

    /// Takes a state, if it is news.
    fn status(&mut self, status: StatusEvent) {
        if self.concerns(status.agent) && self.known.learn(&status) {
            self.ready.push_back(WatchEvent::Status(status));
        }
    }

    /// Asks the host how things stand. Cancel-safe.
    async fn ask(&mut self) -> Result<()> {
        let whom = || match &self.agents {
            Some(agents) => {
                let alive = agents.iter().filter(|agent| !self.known.has_ended(**agent));
                Whom::These(alive.copied().collect())
            }
            None => Whom::All {
                ended: self.lost,
                expected: self.known.alive().collect(),
            },
        };
        let question = || Standing::ask(self.client.clone(), whom());
        let (standing, asked) = self.asking.answer(question).await;
        for status in standing.states {
            // Of all, those that had ended before are no news.
            if self.first && self.agents.is_none() && status.state == AgentState::Exited {
                self.known.learn(&status);
            } else {
                self.status(status);
            }
        }
        for agent in standing.gone {
            if self.known.gone(agent) {
                self.ready.push_back(WatchEvent::Gone(agent));
            }
        }
        asked?;
        (self.lost, self.first) = (false, false);
        self.poll
            .put_off(if self.on { POLL } else { POLL_WITHOUT_EVENTS });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
