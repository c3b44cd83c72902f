//! How many connections a socket has. zeromq accepts whoever comes, tells of nobody
//! who has not shaken hands, and where the process has no descriptor left it tries
//! again at once, for ever. What can be seen of that from outside is the number of
//! its tasks: one at least for each connection.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;

/// How often it is looked at: for so long a processor may be lost to accepting
/// without descriptors.
const LOOK: Duration = Duration::from_millis(100);

/// Of the descriptors that the process may open, connections of one socket have a
/// fifth: guests have half of them, and logs need some.
const SHARE: u64 = 5;

/// A process of few descriptors serves a few clients all the same.
const FEW: usize = 32;

/// Returns when the runtime that it runs in has more tasks than connections may have.
pub(crate) async fn crowded(max: usize) {
    let metrics = Handle::current().metrics();
    loop {
        tokio::time::sleep(LOOK).await;
        if metrics.num_alive_tasks() > max.min(share()) {
            return;
        }
    }
}

fn share() -> usize {
    // As of now: the host may ask for more when it has started.
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / SHARE)
        .unwrap_or(usize::MAX)
        .max(FEW)
}
