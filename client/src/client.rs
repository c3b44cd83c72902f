//! The handle of a host: one way of asking, and what is asked of the host itself
//! and of its components.

use std::time::Duration;

use bytes::Bytes;
use skep_protocol::codec::{decode_reply, encode_request};
use skep_protocol::op::{
    CheckReply, ComponentCheck, ComponentInfo, ComponentList, ComponentPage, ComponentPut,
    ComponentRemove, ComponentStat, ComponentSummary, GcReply, Health, HostDrain, HostGc,
    HostHealth, HostHello, HostInfo, HostStats, Operation, PutReply, Stats,
};
use skep_protocol::{Digest, RequestId};
use skep_transport::{Connection, ConnectionConfig, ConnectionState, RequestError};

use crate::{ClientError, Result};

/// How long a request waits for its answer before it is repeated.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a request is made in all.
const ATTEMPTS: u32 = 3;
/// How many entries are asked for at a time: a page of large ones must still
/// fit into a payload.
pub(crate) const PAGE: u64 = 250;

/// A handle of a host. Cheap to clone; the last clone of its connection closes it.
///
/// Each method makes one request unless it says otherwise. A request without an
/// answer within 10 s is repeated under its id, three times in all; then it is a
/// [`ClientError::Timeout`].
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
    pub(crate) patience: Duration,
}

impl Client {
    /// A client of the host at an endpoint. Returns at once and connects behind
    /// the scenes; [`connected`](Self::connected) waits for it.
    #[must_use]
    pub fn connect(config: ConnectionConfig) -> Self {
        Self::over(Connection::connect(config))
    }

    /// A client over a connection that is there already.
    #[must_use]
    pub fn over(connection: Connection) -> Self {
        Self {
            connection,
            patience: PATIENCE,
        }
    }

    /// The same, with another time to wait for each answer.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits until the host is there.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], or [`ClientError::Connection`] if the connection
    /// was closed or gave up.
    pub async fn connected(&self, within: Duration) -> Result<()> {
        let mut states = self.connection.watch_state();
        let settled = states.wait_for(|state| {
            matches!(
                state,
                ConnectionState::Connected
                    | ConnectionState::Disconnected
                    | ConnectionState::Failed { .. }
            )
        });
        let state = match tokio::time::timeout(within, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => ConnectionState::Disconnected,
            Err(_) => {
                let what = "the host did not answer";
                return Err(ClientError::Timeout {
                    what,
                    after: within,
                });
            }
        };
        match state {
            ConnectionState::Connected => Ok(()),
            ConnectionState::Failed { cause } => Err(RequestError::Failed(cause).into()),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// Makes any request.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call<O: Operation>(&self, operation: &O) -> Result<O::Reply> {
        self.call_within(operation, self.patience).await
    }

    /// Makes a request whose answer may take longer than usual.
    pub(crate) async fn call_within<O: Operation>(
        &self,
        operation: &O,
        patience: Duration,
    ) -> Result<O::Reply> {
        let id = RequestId::random();
        let payload = encode_request(id, operation)
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        let payload = Bytes::from(payload);
        if O::OP.holds_the_host() {
            let reply = self.connection.request_once(id, payload, patience).await?;
            return Ok(decode_reply(&reply)??);
        }
        for _ in 0..ATTEMPTS {
            match self.connection.request(id, payload.clone(), patience).await {
                Ok(reply) => return Ok(decode_reply(&reply)??),
                // The host remembers what it has done under this id.
                Err(RequestError::Timeout(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let what = "the host did not answer";
        Err(ClientError::Timeout {
            what,
            after: patience * ATTEMPTS,
        })
    }

    /// Asks what the host is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn hello(&self) -> Result<HostInfo> {
        self.call(&HostHello {}).await
    }

    /// Asks how the host is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<Health> {
        self.call(&HostHealth {}).await
    }

    /// Asks what the host has counted.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stats(&self) -> Result<Stats> {
        self.call(&HostStats {}).await
    }

    /// Has the host take no more agents, waits until those it has have ended, or for
    /// that time, and tells how many have not.
    ///
    /// # Errors
    /// Refused with `invalid_argument` for more than an hour. If the host goes away
    /// meanwhile, [`RequestError::Lost`]: the next one is not drained.
    pub async fn drain(&self, within: Duration) -> Result<u64> {
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let asked = HostDrain {
            timeout_ms: Some(timeout_ms),
        };
        let patience = within.saturating_add(self.patience);
        Ok(self.call_within(&asked, patience).await?.remaining)
    }

    /// Forgets agents that have ended, and components that no agent uses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn gc(&self, request: &HostGc) -> Result<GcReply> {
        self.call(request).await
    }

    /// Brings one chunk of a component; [`upload`](Self::upload) brings them all.
    ///
    /// # Errors
    /// Refused with `digest_mismatch`, `too_large` or `compile_limit`.
    pub async fn put_component(&self, chunk: &ComponentPut) -> Result<PutReply> {
        self.call(chunk).await
    }

    /// Asks about a component.
    ///
    /// # Errors
    /// Refused with `not_found`.
    pub async fn stat_component(&self, digest: Digest) -> Result<ComponentInfo> {
        self.call(&ComponentStat { digest }).await
    }

    /// A page of the host's components, after a digest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_components(&self, after: Option<Digest>) -> Result<ComponentPage> {
        self.call(&ComponentList {
            limit: Some(PAGE),
            after,
        })
        .await
    }

    /// All of the host's components, page by page.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn all_components(&self) -> Result<Vec<ComponentSummary>> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.list_components(after).await?;
            all.extend(page.components);
            match page.next {
                // A next page that does not lie behind this one would never end.
                Some(next) if after.is_none_or(|after| after < next) => after = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Asks whether a spawn of a component would be taken, without running
    /// anything.
    ///
    /// # Errors
    /// Refused with `not_found`. That the component cannot run is no error.
    pub async fn check_component(&self, asked: &ComponentCheck) -> Result<CheckReply> {
        self.call(asked).await
    }

    /// Deletes a component.
    ///
    /// # Errors
    /// Refused with `not_found`, or `conflict` while an agent starts from it.
    pub async fn remove_component(&self, digest: Digest) -> Result<()> {
        self.call(&ComponentRemove { digest }).await.map(|_done| ())
    }
}

#[cfg(test)]
mod tests;
