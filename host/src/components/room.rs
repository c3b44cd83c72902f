//! What uploads take of the room for components once they are whole. Hashing
//! and checking them takes seconds where many wait for it: were they counted by
//! nobody meanwhile, clients could fill the host's memory with them.

use std::sync::{Arc, Mutex};

use super::held::State;
use super::lock;

/// Bytes that count among those held; given back when dropped.
#[derive(Debug)]
pub struct Room {
    state: Arc<Mutex<State>>,
    bytes: u64,
}

impl Room {
    /// Of bytes that count already.
    pub(super) fn new(state: &Arc<Mutex<State>>, bytes: u64) -> Self {
        Self {
            state: Arc::clone(state),
            bytes,
        }
    }

    /// How many bytes are to count no more: the caller, who holds the state, sees
    /// to that.
    pub(super) fn surrender(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // One that was surrendered is dropped while the state is held.
        if self.bytes > 0 {
            lock(&self.state).bytes -= self.bytes;
        }
    }
}
