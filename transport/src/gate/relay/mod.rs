//! One connection: from the peer to zeromq and back, and events to the peer.

mod inwards;
mod outwards;
#[cfg(test)]
mod played;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use self::inwards::Inspector;
use super::scan::Scanner;
use super::stream::Stream;
use super::table::Place;
use super::{Kind, Refused, Shared};
use crate::listener::USER_TIMEOUT;

/// How long a peer may take to shake hands, and for each message, without the time in
/// which the host takes nothing of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a peer may take nothing while something waits for it: as long as the kernel
/// bears it of a tcp peer. What a peer takes is seen when the kernel has room again, a
/// quarter to a third of its buffer: below some 10 kB a second that may be too late.
const DEAF: Duration = USER_TIMEOUT;

#[derive(Debug)]
pub(super) struct Relay {
    peer: Stream,
    place: Place,
    shared: Arc<Shared>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it is closed")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("it took longer than {PATIENCE:?} to send its greeting, or a message")]
    Slow,
    #[error("it took nothing for {DEAF:?}")]
    Deaf,
    #[error("there are too many")]
    GaveWay,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.table.leave(&self.place);
    }
}

impl Relay {
    pub(super) fn new(peer: Stream, place: Place, shared: Arc<Shared>) -> Self {
        Self {
            peer,
            place,
            shared,
        }
    }

    pub(super) async fn run(self) {
        let Some(zeromq) = self.open().await else {
            return;
        };
        let mut scanner = Scanner::new();
        let end = tokio::select! {
            end = self.pass(&zeromq, &mut scanner) => end,
            () = self.place.end.cancelled() => End::GaveWay,
        };
        if matches!(end, End::Deaf) {
            self.shared.counters.peers_cut.one();
        }
        tracing::debug!(%end, "a connection ended");
        let shared = Arc::clone(&self.shared);
        drop(self);
        // Of events zeromq has none.
        if matches!(shared.kind, Kind::Events(_)) {
            return;
        }
        // Where too many do, what zeromq has for it is dropped at once.
        let Some(_leaving) = shared.table.linger() else {
            return;
        };
        outwards::leave(&zeromq, &mut scanner, &shared).await;
    }

    async fn open(&self) -> Option<Stream> {
        let opened = tokio::select! {
            opened = timeout(PATIENCE, self.shared.door.open()) => opened,
            () = self.place.end.cancelled() => return None,
        };
        match opened {
            Ok(Ok(stream)) => return Some(Stream::Unix(stream)),
            Ok(Err(error)) => {
                tracing::error!(%error, "a connection found no way to its socket");
            }
            Err(_elapsed) => tracing::debug!("a connection waited in vain for its socket"),
        }
        None
    }

    /// With a scanner for what comes from zeromq.
    async fn pass(&self, zeromq: &Stream, scanner: &mut Scanner) -> End {
        let (inspector, arrivals) = Inspector::of(&self.shared.kind);
        let outwards = async {
            match arrivals {
                None => self.replies(zeromq, scanner).await,
                Some(arrivals) => self.events(zeromq, arrivals).await,
            }
        };
        let end = tokio::select! {
            end = self.inwards(zeromq, inspector) => end.map(|never| match never {}),
            end = outwards => end.map(|never| match never {}),
        };
        end.unwrap_or_else(|end| end)
    }
}
