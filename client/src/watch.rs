//! An agent's status and progress as they are published. Events may be missing;
//! the state of record is what `agent.get` says.

use skep_protocol::AgentId;
use skep_protocol::codec::decode;
use skep_protocol::event::{ProgressEvent, StatusEvent, Topic};
use skep_transport::Subscription;

use crate::{Client, Result};

/// A stream of an agent's events.
#[derive(Debug)]
pub struct Watch {
    status: Subscription,
    progress: Subscription,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// The state has changed.
    Status(StatusEvent),
    /// The agent says how far it has come.
    Progress(ProgressEvent),
}

impl Watch {
    pub(crate) async fn new(client: &Client, agent: AgentId) -> Result<Self> {
        let connection = client.connection();
        let watch = Self {
            status: connection
                .subscribe(&Topic::Status(agent).to_string())
                .await,
            progress: connection
                .subscribe(&Topic::Progress(agent).to_string())
                .await,
        };
        client.connect_events(agent).await?;
        Ok(watch)
    }

    /// The next event; `None` once the connection is closed. Where events are
    /// off none ever comes. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            // Not biased: neither may hold up the other. What cannot be decoded
            // comes from another version and is passed over.
            tokio::select! {
                event = self.status.recv() => if let Ok(status) = decode(&event?.payload) {
                    return Some(WatchEvent::Status(status));
                },
                event = self.progress.recv() => if let Ok(progress) = decode(&event?.payload) {
                    return Some(WatchEvent::Progress(progress));
                },
            }
        }
    }
}
