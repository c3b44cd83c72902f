//! What is held of components, and what goes where room is needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_protocol::Digest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::upload::Upload;
use super::whole::{Whole, is_unused};
use super::{Component, MAX_COMPONENTS, StoreError};

/// An upload that nobody went on with for this long makes room for others.
const UPLOAD_IDLE: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) whole: Whole,
    pub(super) uploads: HashMap<Digest, Upload>,
    /// Uploads that are whole and are being checked.
    pub(super) checked: HashMap<Digest, Arc<CancellationToken>>,
    /// Deleted, but agents are made of them or wait to be: they count until the
    /// last is gone, or a client could fill the host with what it puts, spawns
    /// and deletes.
    pub(super) deleted: Vec<Arc<Component>>,
    /// Bytes of all of these, and of the chunks of uploads.
    pub(super) bytes: u64,
    /// What the store does not know yet, oldest first: as many as were held, and
    /// as requests are under way, each of which waits until it is told.
    pub(super) gone: VecDeque<Gone>,
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
        self.whole.iter().chain(&self.deleted)
    }

    pub(super) fn drop_deleted(&mut self) {
        let (bytes, gone) = (&mut self.bytes, &mut self.gone);
        self.deleted.retain(|component| {
            let stays = !is_unused(component);
            if !stays {
                *bytes -= component.size as u64;
                gone.push_back(Gone::Component(component.digest));
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
                gone.push_back(Gone::Upload(*digest));
            }
            stays
        });
    }

    /// Lets go of what no agent uses, least recently used first, until so many
    /// bytes fit.
    pub(super) fn make_room(&mut self, asked: u64, bound: u64) -> Result<(), StoreError> {
        let fits = |held: u64| held.saturating_add(asked) <= bound;
        if !fits(self.bytes) {
            self.drop_deleted();
            self.drop_idle_uploads();
            self.drop_unused(fits);
        }
        if fits(self.bytes) {
            return Ok(());
        }
        Err(StoreError::Full {
            held: self.bytes,
            asked,
            bound,
        })
    }

    /// Lets go of what no agent uses and was used longest ago, where there are as
    /// many as may be.
    pub(super) fn make_place(&mut self) -> Result<(), StoreError> {
        let is_full = |state: &Self| state.whole.len() + state.deleted.len() >= MAX_COMPONENTS;
        if is_full(self) {
            self.drop_deleted();
        }
        if is_full(self) {
            let oldest = self.whole.take_unused().next();
            let oldest = oldest.ok_or(StoreError::TooMany)?;
            self.bytes -= oldest.size as u64;
            self.gone.push_back(Gone::Component(oldest.digest));
        }
        Ok(())
    }

    /// Lets go of what no agent uses, least recently used first, until what is
    /// held then is little enough.
    pub(super) fn drop_unused(&mut self, is_enough: impl Fn(u64) -> bool) {
        let mut unused = self.whole.take_unused();
        while !is_enough(self.bytes)
            && let Some(oldest) = unused.next()
        {
            self.bytes -= oldest.size as u64;
            self.gone.push_back(Gone::Component(oldest.digest));
        }
    }
}
