//! Telling a person that the host is gone and that it is back.

use std::time::Duration;

use skep_client::{Client, ConnectionState};
use tokio::sync::watch;
use tokio::time::Instant;

/// A connection that is made again at once is nobody's concern.
const AFTER: Duration = Duration::from_secs(2);

/// Looks at the connection.
#[derive(Debug)]
pub(super) struct Away {
    states: watch::Receiver<ConnectionState>,
    since: Option<Instant>,
    told: bool,
}

impl Away {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            states: client.connection().watch_state(),
            since: None,
            told: false,
        }
    }

    /// The next thing to tell. Cancel-safe.
    pub(super) async fn next(&mut self) -> &'static str {
        let away = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { .. });
        loop {
            let now = away(&self.states.borrow_and_update());
            let change = match (now, self.since) {
                (true, None) => {
                    self.since = Some(Instant::now());
                    continue;
                }
                (true, Some(since)) if !self.told => {
                    tokio::select! {
                        () = tokio::time::sleep_until(since + AFTER) => {
                            self.told = true;
                            return "the host is gone; waiting for it to come back";
                        }
                        change = self.states.changed() => change,
                    }
                }
                (true, Some(_)) => self.states.changed().await,
                (false, _) => {
                    self.since = None;
                    if std::mem::take(&mut self.told) {
                        return "the host is back";
                    }
                    self.states.changed().await
                }
            };
            if change.is_err() {
                // No connection any more: requests say so.
                std::future::pending::<()>().await;
            }
        }
    }
}
