//! What uploads take of the room for components once they are whole. Hashing
//! and checking them takes seconds where many wait for it: were they counted by
//! nobody meanwhile, clients could fill the host's memory with them.

use std::sync::{Arc, Mutex};

use skep_protocol::Digest;
use tokio_util::sync::CancellationToken;

use super::held::State;
use super::lock;

/// Bytes that count among those held; given back when dropped.
#[derive(Debug)]
pub struct Room {
    state: Arc<Mutex<State>>,
    digest: Digest,
    bytes: u64,
    /// For whoever brings the same bytes meanwhile: cancelled once it is clear
    /// what became of these.
    decided: Arc<CancellationToken>,
}

impl Room {
    /// Of bytes that count already. There is no other of this digest.
    pub(super) fn new(
        this: &Arc<Mutex<State>>,
        state: &mut State,
        digest: Digest,
        bytes: u64,
    ) -> Self {
        let decided = Arc::new(CancellationToken::new());
        state.checked.insert(digest, Arc::clone(&decided));
        Self {
            state: Arc::clone(this),
            digest,
            bytes,
            decided,
        }
    }

    /// Gives it back to the state that the caller holds.
    pub(super) fn give_back(self, state: &mut State) {
        state.bytes -= self.bytes;
        state.checked.remove(&self.digest);
        self.decided.cancel();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // One that was given back is dropped while the state is held.
        if self.decided.is_cancelled() {
            return;
        }
        let mut state = lock(&self.state);
        state.bytes -= self.bytes;
        state.checked.remove(&self.digest);
        drop(state);
        self.decided.cancel();
    }
}
