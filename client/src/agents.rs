//! What is done with agents: the operations `agent.…`, and what takes more
//! than one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_bytes::ByteBuf;
use skep_protocol::event::Stream;
use skep_protocol::op::{
    AgentForget, AgentGet, AgentKill, AgentList, AgentOutput, AgentPage, AgentPause, AgentRefuel,
    AgentResume, AgentSpawn, AgentStdin, AgentStop, AgentSubscribe, AgentWait, OutputReply,
    SubscribeReply, WhenFull,
};
use skep_protocol::{AgentId, AgentInfo, AgentName, AgentSpec, AgentState, ErrorCode};
use tokio::time::Instant;

use crate::absence::{Absence, HOST_AWAY};
use crate::client::PAGE;
use crate::follow::{Follow, FollowOptions};
use crate::{Client, ClientError, Result};

/// The longest that the host is asked to wait at a time.
const SERVER_WAIT: Duration = Duration::from_secs(30);

/// How long a host that is ending is left alone before it is asked again.
const HOST_ENDS: Duration = Duration::from_millis(500);
/// As many bytes of stdin as one request carries: it fits the host's queue many
/// times over, so that most of them are taken whole.
const STDIN_PIECE: usize = 128 * 1024;
/// The pauses between attempts to write to a full stdin.
const STDIN_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Which agents to list. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only those in one of these states.
    pub states: Option<Vec<AgentState>>,
    /// Only those of this name.
    pub name: Option<AgentName>,
    /// Only those that bear all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// How long a host waits for an agent that is to stop, if it is not told.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

impl Client {
    /// Starts an agent. Where the host is full it waits for its turn and comes
    /// back `queued`, unless `when_full` says otherwise.
    ///
    /// # Errors
    /// Refused for many reasons: see PROTOCOL.md.
    pub async fn spawn(&self, spec: AgentSpec, when_full: Option<WhenFull>) -> Result<AgentInfo> {
        let reply = self.call(&AgentSpawn { spec, when_full }).await?;
        Ok(reply.agent)
    }

    /// A page of agents, after an id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, filter: &AgentFilter, after: Option<AgentId>) -> Result<AgentPage> {
        let AgentFilter {
            states,
            name,
            labels,
        } = filter.clone();
        self.call(&AgentList {
            states,
            name,
            labels,
            limit: Some(PAGE),
            after,
        })
        .await
    }

    /// All agents of a filter, page by page.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_all(&self, filter: &AgentFilter) -> Result<Vec<AgentInfo>> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(filter, after).await?;
            all.extend(page.agents);
            match page.next {
                Some(next) if after.is_none_or(|after| after < next) => after = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Asks about an agent.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn get(&self, agent: AgentId) -> Result<AgentInfo> {
        Ok(self.call(&AgentGet { agent }).await?.agent)
    }

    /// Holds an agent where it is; returns when it stands still.
    ///
    /// # Errors
    /// Refused with `not_found`, with `wrong_state` if it has ended or is being
    /// ended, or with `unsupported_feature` if its runner cannot hold it.
    pub async fn pause(&self, agent: AgentId) -> Result<AgentInfo> {
        Ok(self.call(&AgentPause { agent }).await?.agent)
    }

    /// Lets an agent that was paused go on.
    ///
    /// # Errors
    /// Refused with `not_found`, or with `wrong_state` if it is out of fuel, has
    /// ended or is being ended.
    pub async fn resume(&self, agent: AgentId) -> Result<AgentInfo> {
        Ok(self.call(&AgentResume { agent }).await?.agent)
    }

    /// Gives an agent so many instructions more. One that was paused for want
    /// of fuel goes on.
    ///
    /// # Errors
    /// Refused with `not_found`, with `limit_exceeds_ceiling` if it would have
    /// more in all than the operator allows, with `wrong_state` if it has ended
    /// or is being ended, or with `unsupported_feature` if its runner does not
    /// count fuel.
    pub async fn refuel(&self, agent: AgentId, fuel: u64) -> Result<AgentInfo> {
        Ok(self.call(&AgentRefuel { agent, fuel }).await?.agent)
    }

    /// Asks an agent to end; after the grace (5 s by default) it is killed.
    /// Returns when it has ended.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn stop(&self, agent: AgentId, grace: Option<Duration>) -> Result<AgentInfo> {
        let grace_ms = grace.map(milliseconds);
        let asked = AgentStop { agent, grace_ms };
        // The host answers when the agent has ended.
        let patience = grace.unwrap_or(DEFAULT_GRACE) + self.patience;
        Ok(self.call_within(&asked, patience).await?.agent)
    }

    /// Ends an agent at once.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn kill(&self, agent: AgentId) -> Result<AgentInfo> {
        Ok(self.call(&AgentKill { agent }).await?.agent)
    }

    /// Waits until an agent has ended and all of its output can be read; in
    /// several requests, so that a lost one costs little. Where its host ends and
    /// leaves it to the next, that one is asked; where it cannot read it, that is
    /// waited for, for a minute at most.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] if it has not ended `within` that time; refused
    /// with `not_found`.
    pub async fn wait(&self, agent: AgentId, within: Option<Duration>) -> Result<AgentInfo> {
        let start = Instant::now();
        let mut absence = Absence::new(HOST_AWAY);
        loop {
            let left = within.map(|within| within.saturating_sub(start.elapsed()));
            let wait = left.map_or(SERVER_WAIT, |left| left.min(SERVER_WAIT));
            let timeout_ms = milliseconds(wait);
            let asked = AgentWait { agent, timeout_ms };
            let answer = match self.call_within(&asked, wait + self.patience).await {
                Err(error @ ClientError::Timeout { .. }) => return Err(error),
                answer => answer,
            };
            match absence.forgive(answer).await {
                Ok(Some(reply)) if !reply.timed_out => return Ok(reply.agent),
                Ok(_) => {}
                // The host leaves it to the one that comes after, which is waited for
                // as any host is that is away.
                Err(error) if error.code() == Some(ErrorCode::ShuttingDown) => {
                    tokio::time::sleep(wait.min(HOST_ENDS)).await;
                }
                Err(error) => return Err(error),
            }
            if let Some(after) = within
                && start.elapsed() >= after
            {
                let what = "the agent has not ended";
                return Err(ClientError::Timeout { what, after });
            }
        }
    }

    /// Offers bytes to an agent's stdin and returns how many were taken: 0 where
    /// its queue is full. Closes it after them if all were taken.
    ///
    /// # Errors
    /// Refused with `not_found`, or `wrong_state` once it has ended or the stdin
    /// is closed.
    pub async fn stdin(&self, agent: AgentId, data: &[u8], close: bool) -> Result<u64> {
        let data = (!data.is_empty()).then(|| ByteBuf::from(data));
        Ok(self
            .call(&AgentStdin { agent, data, close })
            .await?
            .accepted)
    }

    /// Writes all of the bytes to an agent's stdin, in pieces, waiting where its
    /// queue is full.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] if nothing is taken for as long as `stalled`;
    /// else as [`stdin`](Self::stdin).
    pub async fn write_all_stdin(
        &self,
        agent: AgentId,
        data: &[u8],
        stalled: Option<Duration>,
    ) -> Result<()> {
        let mut rest = data;
        let mut progress = Instant::now();
        let mut pause = STDIN_PAUSE.0;
        while !rest.is_empty() {
            let piece = rest.get(..STDIN_PIECE).unwrap_or(rest);
            let taken = self.stdin(agent, piece, false).await?;
            let taken = usize::try_from(taken)
                .ok()
                .filter(|&taken| taken <= piece.len());
            let taken = taken.ok_or_else(|| {
                ClientError::Protocol("more of the stdin was taken than was sent".to_owned())
            })?;
            if taken > 0 {
                rest = rest.get(taken..).unwrap_or_default();
                progress = Instant::now();
                pause = STDIN_PAUSE.0;
            } else if let Some(after) = stalled
                && progress.elapsed() >= after
            {
                let what = "the agent has not read its stdin";
                return Err(ClientError::Timeout { what, after });
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(STDIN_PAUSE.1);
            }
        }
        Ok(())
    }

    /// Closes an agent's stdin.
    ///
    /// # Errors
    /// As [`stdin`](Self::stdin).
    pub async fn close_stdin(&self, agent: AgentId) -> Result<()> {
        self.stdin(agent, &[], true).await.map(|_none| ())
    }

    /// Reads a piece of an agent's history; [`follow`](Self::follow) reads it all.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn output(
        &self,
        agent: AgentId,
        streams: Option<&[Stream]>,
        from_seq: u64,
        max_bytes: Option<u64>,
    ) -> Result<OutputReply> {
        let streams = streams.map(<[Stream]>::to_vec);
        let from_seq = Some(from_seq);
        self.call(&AgentOutput {
            agent,
            streams,
            from_seq,
            max_bytes,
        })
        .await
    }

    /// Asks where an agent's events are published.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn subscribe(&self, agent: AgentId) -> Result<SubscribeReply> {
        self.call(&AgentSubscribe {
            agent,
            streams: None,
        })
        .await
    }

    /// Asks where an agent's events are published and connects to it. `false`
    /// where events are off.
    pub(crate) async fn connect_events(&self, agent: AgentId) -> Result<bool> {
        let place = self.subscribe(agent).await?;
        Ok(self.connect_events_at(place.events.as_deref()))
    }

    /// The same, for all of the host's events.
    pub(crate) async fn connect_host_events(&self) -> Result<bool> {
        let host = self.hello().await?;
        Ok(self.connect_events_at(host.events.as_deref()))
    }

    fn connect_events_at(&self, endpoint: Option<&str>) -> bool {
        // An endpoint that this side cannot use leaves the history, which has
        // everything. In the same process there is none to connect to.
        if let Some(Ok(endpoint)) = endpoint.map(str::parse) {
            self.connection().subscribe_events(&endpoint);
        }
        endpoint.is_some()
    }

    /// Follows an agent's output.
    #[must_use]
    pub fn follow(&self, agent: AgentId, options: FollowOptions) -> Follow {
        Follow::new(self.clone(), agent, options)
    }

    /// Deletes an ended agent's record and history.
    ///
    /// # Errors
    /// Refused with `not_found`, or `wrong_state` while it has not ended.
    pub async fn forget(&self, agent: AgentId) -> Result<()> {
        self.call(&AgentForget { agent }).await.map(|_done| ())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
