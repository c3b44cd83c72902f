//! How long one that follows waits for a host that is gone, or cannot read what it
//! is asked for.

use std::time::Duration;

use skep_protocol::ErrorCode;
use tokio::time::Instant;

use crate::{ClientError, Result};

/// As long as a restart with many agents may take, and a person to begin it.
/// After it the caller is told, and may go on waiting by calling again.
pub(crate) const HOST_AWAY: Duration = Duration::from_secs(300);

/// As long as a disk may take to come to itself: a host that could not read all
/// of an agent as it started tries again meanwhile. What stays unreadable is an
/// error after it.
const DISK_AWAY: Duration = Duration::from_secs(60);

/// How long a host that has said so is left alone before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Tells a host that will be back from one that will not: for who reads much, in
/// many requests, and goes on where it was.
#[derive(Debug)]
pub struct Absence {
    host_since: Option<Instant>,
    disk_since: Option<Instant>,
    most: Duration,
}

impl Absence {
    /// Of a host that may give no answer for `most`; that it cannot read what it is
    /// asked for is forgiven for a minute at most.
    #[must_use]
    pub fn new(most: Duration) -> Self {
        Self {
            host_since: None,
            disk_since: None,
            most,
        }
    }

    /// `None` where the host did not answer, or could not read, and has time left
    /// to come back: it is to be asked again. Cancel-safe: it is asked sooner then.
    ///
    /// # Errors
    /// The answer's own, where it is not forgiven.
    pub async fn forgive<T>(&mut self, answer: Result<T>) -> Result<Option<T>> {
        let (since, most, pause) = match &answer {
            Err(ClientError::Timeout { .. }) => (&mut self.host_since, self.most, None),
            Err(error) if error.code() == Some(ErrorCode::StorageUnavailable) => {
                // It is there.
                self.host_since = None;
                let most = DISK_AWAY.min(self.most);
                (&mut self.disk_since, most, Some(PAUSE))
            }
            _ => {
                (self.host_since, self.disk_since) = (None, None);
                return answer.map(Some);
            }
        };
        if since.get_or_insert_with(Instant::now).elapsed() < most {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            return Ok(None);
        }
        *since = None;
        answer.map(Some)
    }
}
