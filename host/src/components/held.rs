//! What is held of components, and what goes where room is needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skep_protocol::Digest;
use tokio::time::Instant;

use super::upload::Upload;
use super::{Component, MAX_COMPONENTS, StoreError};

/// An upload that nobody went on with for this long makes room for others.
const UPLOAD_IDLE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) component: Arc<Component>,
    pub(super) used: u64,
}

/// Whether no agent is made of it, or waits to be. Nobody begins to use it
/// while the state is held.
pub(super) fn is_unused(component: &Arc<Component>) -> bool {
    Arc::strong_count(component) == 1
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) whole: HashMap<Digest, Held>,
    pub(super) uploads: HashMap<Digest, Upload>,
    /// Deleted, but agents are made of them or wait to be: they count until the
    /// last is gone, or a client could fill the host with what it puts, spawns
    /// and deletes.
    pub(super) deleted: Vec<Arc<Component>>,
    /// Bytes of all of these, and of the chunks of uploads.
    pub(super) bytes: u64,
    pub(super) uses: u64,
    /// What the store does not know yet: as many as were held, at most.
    pub(super) gone: Vec<Gone>,
}

/// What is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Component(Digest),
    /// Deleted, but agents are made of it.
    Deleted(Digest),
    Upload(Digest),
}

impl State {
    /// All that count, those that were deleted too.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Component>> {
        let whole = self.whole.values().map(|held| &held.component);
        whole.chain(&self.deleted)
    }

    pub(super) fn drop_deleted(&mut self) {
        let (bytes, gone) = (&mut self.bytes, &mut self.gone);
        self.deleted.retain(|component| {
            let stays = !is_unused(component);
            if !stays {
                *bytes -= component.size as u64;
                gone.push(Gone::Component(component.digest));
            }
            stays
        });
    }

    pub(super) fn drop_idle_uploads(&mut self) {
        let now = Instant::now();
        let (bytes, gone) = (&mut self.bytes, &mut self.gone);
        self.uploads.retain(|digest, upload| {
            let stays = now.duration_since(upload.touched) < UPLOAD_IDLE;
            if !stays {
                *bytes -= upload.held as u64;
                gone.push(Gone::Upload(*digest));
            }
            stays
        });
    }

    /// Lets go of what no agent uses, least recently used first, until so many
    /// bytes fit.
    pub(super) fn make_room(&mut self, asked: u64, bound: u64) -> Result<(), StoreError> {
        if self.bytes.saturating_add(asked) > bound {
            self.drop_deleted();
            self.drop_idle_uploads();
        }
        while self.bytes.saturating_add(asked) > bound {
            let Some(oldest) = self.oldest_unused() else {
                return Err(StoreError::Full {
                    held: self.bytes,
                    asked,
                    bound,
                });
            };
            self.let_go(&oldest);
        }
        Ok(())
    }

    /// Lets go of what no agent uses and was used longest ago, where there are as
    /// many as may be.
    pub(super) fn make_place(&mut self) -> Result<(), StoreError> {
        let is_full = |state: &Self| state.whole.len() + state.deleted.len() >= MAX_COMPONENTS;
        if is_full(self) {
            self.drop_deleted();
        }
        if is_full(self) {
            let oldest = self.oldest_unused().ok_or(StoreError::TooMany)?;
            self.let_go(&oldest);
        }
        Ok(())
    }

    fn oldest_unused(&self) -> Option<Digest> {
        self.whole
            .values()
            .filter(|held| is_unused(&held.component))
            .min_by_key(|held| held.used)
            .map(|held| held.component.digest)
    }

    pub(super) fn drop_unused(&mut self) {
        let (bytes, gone) = (&mut self.bytes, &mut self.gone);
        self.whole.retain(|digest, held| {
            let stays = !is_unused(&held.component);
            if !stays {
                *bytes -= held.component.size as u64;
                gone.push(Gone::Component(*digest));
            }
            stays
        });
    }

    fn let_go(&mut self, digest: &Digest) {
        if let Some(held) = self.whole.remove(digest) {
            self.bytes -= held.component.size as u64;
            self.gone.push(Gone::Component(*digest));
        }
    }
}
