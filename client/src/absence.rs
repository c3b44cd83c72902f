//! How long one that follows waits for a host that is gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::{ClientError, Result};

/// As long as a restart with many agents may take, and a person to begin it.
/// After it the caller is told, and may go on waiting by calling again.
pub(crate) const HOST_AWAY: Duration = Duration::from_secs(300);

/// Tells a host that will be back from one that will not.
#[derive(Debug)]
pub(crate) struct Absence {
    since: Option<Instant>,
    most: Duration,
}

impl Absence {
    pub(crate) fn new(most: Duration) -> Self {
        Self { since: None, most }
    }

    /// `None` where the host did not answer and has time left to come back.
    pub(crate) fn forgive<T>(&mut self, answer: Result<T>) -> Result<Option<T>> {
        if let Err(ClientError::Timeout { .. }) = &answer {
            let since = *self.since.get_or_insert_with(Instant::now);
            if since.elapsed() < self.most {
                return Ok(None);
            }
        }
        self.since = None;
        answer.map(Some)
    }
}
