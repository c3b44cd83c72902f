//! The descriptors of the process that guests may take, all of them together:
//! an agent's own limit is not enough, since a thousand agents within it could
//! take what the host needs to answer its clients.

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than this the kernel's default does not give to any process. Some
/// containers promise a thousand times as many, and programs that close all
/// they might have inherited would take minutes.
const MOST: usize = 1 << 20;

/// What is left of the descriptors for guests.
#[derive(Debug, Clone)]
pub(in crate::runner::wasm) struct Descriptors(Arc<Semaphore>);

/// Some of them, until it is dropped.
pub(super) type Taken = OwnedSemaphorePermit;

impl Descriptors {
    /// Half of what the process may have open.
    pub(in crate::runner::wasm) fn of_process() -> Self {
        // Where the system does not say, what POSIX promises.
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((20, 20));
        let soft = usize::try_from(soft).unwrap_or(MOST).min(MOST);
        Self::new(soft / 2)
    }

    /// As many as the process may ask for, instead of the few that shells give.
    pub(in crate::runner::wasm) fn raise() {
        let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
            let most = soft.max(hard.min(MOST as u64));
            setrlimit(Resource::RLIMIT_NOFILE, most, hard)
        });
        if let Err(error) = raised {
            tracing::warn!(%error, "the limit of open files stays as low as it is");
        }
    }

    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// So many of them, or `None` if there are not that many left.
    pub(super) fn take(&self, count: usize) -> Option<Taken> {
        let count = u32::try_from(count).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(count).ok()
    }
}
