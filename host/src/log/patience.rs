//! How long the output of a run waits for the disk.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A disk that does not take a batch within this time is waited for no longer: the
/// agent goes on, in memory. Nor does the end of a last run wait any longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Within this time a disk that answers at all has written a few bytes.
const MOMENT: Duration = Duration::from_millis(100);

/// The patience of a run: without end while it lasts. An agent that may run again
/// has it without end anyway: the numbers of records that it alone knows of could
/// be given to others by the next host. Its guest is gone then all the same, and
/// its end is told when the disk takes a few bytes.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Set once the guest has ended or is being killed.
    ended: CancellationToken,
    until: OnceLock<Instant>,
}

impl Patience {
    /// Of the last run of an agent.
    pub(super) fn until_ended(ended: CancellationToken) -> Self {
        Self {
            ended,
            until: OnceLock::new(),
        }
    }

    /// Returns when nothing may be waited for any more: [`PATIENCE`] after the end
    /// of the run was first noticed, and a moment after it was asked.
    pub(super) async fn is_over(&self) {
        let moment = Instant::now() + MOMENT;
        self.ended.cancelled().await;
        let until = *self.until.get_or_init(|| Instant::now() + PATIENCE);
        sleep_until(until.max(moment)).await;
    }
}
