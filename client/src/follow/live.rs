//! What a follower hears.

use skep_protocol::AgentId;
use skep_protocol::event::Topic;
use skep_transport::Subscription;

use crate::{Client, Result};

/// The subscriptions. Both streams always: only then is a hole a loss.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) log: Subscription,
    pub(super) status: Subscription,
    /// Whether the host publishes events.
    pub(super) on: bool,
    pub(super) closed: bool,
    pub(super) interruptions: u64,
}

impl Live {
    /// Subscribes before the history is read for the first time, so that nothing
    /// falls between.
    pub(super) async fn subscribe(client: Client, agent: AgentId) -> Result<Self> {
        let connection = client.connection();
        let log = connection.subscribe(&format!("log.{agent}.")).await;
        let status = connection
            .subscribe(&Topic::Status(agent).to_string())
            .await;
        let on = client.connect_events(agent).await?;
        Ok(Self {
            log,
            status,
            on,
            closed: false,
            interruptions: 0,
        })
    }

    pub(super) fn interruptions(&self) -> u64 {
        self.log.interruptions() + self.status.interruptions()
    }
}
