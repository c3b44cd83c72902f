//! The components that a host holds: their bytes by digest, whole or under
//! way. Kept in memory within the operator's bound; where room is needed, what
//! was used longest ago and by no agent goes first. What a host before has kept
//! in the store is read from there when it is first needed.

mod held;
mod room;
mod upload;
mod whole;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use skep_protocol::{Digest, MAX_CHUNK};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::held::Gone;
use self::held::State;
pub use self::room::Room;
pub use self::upload::Upload;
use self::whole::is_unused;
use crate::runner::wasm::{Facts, Kind};
use crate::store::{KeptComponent, KeptUpload};

/// How many may be held, however small they are: each takes a file, a record in the
/// store, and a few hundred bytes of memory.
const MAX_COMPONENTS: usize = 65_536;

/// How many uploads may be under way.
const MAX_UPLOADS: usize = 64;

/// How many requests may wait for the check of the same bytes.
const MAX_CHECKED: usize = 16;

/// In how many pieces an upload may lie: 64 MiB in pieces of 16 KiB.
const MAX_PIECES: usize = 4096;

/// A whole component, or other bytes that were put.
#[derive(Debug)]
pub struct Component {
    pub digest: Digest,
    pub size: usize,
    /// Empty until they are needed, where they are in the store alone.
    pub bytes: OnceCell<Bytes>,
    pub facts: Facts,
}

impl Component {
    /// A component whose bytes are here.
    #[must_use]
    pub fn new(digest: Digest, bytes: Bytes, facts: Facts) -> Self {
        Self {
            digest,
            size: bytes.len(),
            bytes: OnceCell::from(bytes),
            facts,
        }
    }

    /// Whether it was found out, as this host would, what it is and that it can run.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.facts.kind != Kind::Blob && self.facts.is_current()
    }
}

/// Why the store refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("`{field}`: {message}")]
    Chunk {
        field: &'static str,
        message: String,
    },
    #[error("the bytes do not have the digest {0}: send them again from offset 0")]
    DigestMismatch(Digest),
    #[error(
        "the host holds {held} bytes of components, {asked} more do not fit into {bound}: remove some, or ask its operator for more"
    )]
    Full { held: u64, asked: u64, bound: u64 },
    #[error(
        "the host holds {MAX_COMPONENTS} components, all of which agents use: try again when some have ended"
    )]
    TooMany,
    #[error("{MAX_UPLOADS} uploads are under way: try again when one is done")]
    TooManyUploads,
    #[error("{0} is being checked, and {MAX_CHECKED} requests wait for that: ask again")]
    BeingChecked(Digest),
}

/// How much is held of components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub components: u64,
    /// Those that agents use.
    pub used: u64,
    /// With those of uploads under way, and of those that are being checked.
    pub bytes: u64,
    pub bytes_used: u64,
    /// How many bytes may be held.
    pub bound: u64,
}

/// All components of a host.
#[derive(Debug)]
pub struct Components {
    state: Arc<Mutex<State>>,
    bound: u64,
    /// Held by who changes what the store has of components, so that one which
    /// is deleted and put again is there in the end, and what is owed to the store
    /// is told by one at a time.
    pub in_store: tokio::sync::Mutex<()>,
}

/// What became of a chunk.
#[derive(Debug)]
pub enum Put {
    /// The component is there already, or was before.
    Whole { size: usize },
    /// More is to come; so much is there without a hole.
    Partial { received: usize },
    /// All bytes are there: they are to be checked and then given to
    /// [`Components::insert`], with the room that they have until then.
    Assembled(Upload, Room),
    /// The same bytes are being checked: this is cancelled when it is clear what
    /// becomes of them, and then the chunk is to be put again.
    Checked(Arc<CancellationToken>),
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Components {
    #[must_use]
    pub fn new(bound: u64) -> Self {
        Self {
            state: Arc::default(),
            bound,
            in_store: tokio::sync::Mutex::default(),
        }
    }

    /// Takes up what a host before has kept, least recently used first. More than the bound
    /// goes when room is needed.
    pub fn take_up(&self, kept: Vec<KeptComponent>) {
        let mut state = self.state();
        for KeptComponent {
            digest,
            size,
            facts,
            ..
        } in kept
        {
            state.bytes += size;
            state.whole.insert(Arc::new(Component {
                digest,
                size: usize::try_from(size).unwrap_or(usize::MAX),
                bytes: OnceCell::new(),
                facts,
            }));
        }
    }

    /// Takes up an upload that a host before has begun.
    pub fn take_up_upload(&self, kept: &KeptUpload, parts: Vec<Vec<u8>>) {
        let mut upload = Upload::new(usize::try_from(kept.size).unwrap_or(usize::MAX));
        for (&(offset, _), part) in kept.parts.iter().zip(parts) {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            upload.add(offset, &part);
            upload.note_written(offset, offset + part.len());
        }
        let mut state = self.state();
        state.bytes += upload.held as u64;
        state.uploads.insert(kept.digest, upload);
    }

    /// Notes which bytes of an upload are in the store, and tells all that are;
    /// none if it is under way no more.
    pub fn note_written(&self, digest: Digest, offset: u64, bytes: usize) -> Option<KeptUpload> {
        let mut state = self.state();
        let upload = state.uploads.get_mut(&digest)?;
        let start = usize::try_from(offset).ok()?;
        upload.note_written(start, start + bytes);
        let parts = upload.written.iter();
        Some(KeptUpload {
            digest,
            size: upload.size as u64,
            parts: parts
                .map(|(&start, &end)| (start as u64, (end - start) as u64))
                .collect(),
        })
    }

    /// Notes that a component is in the store for which there was no room here.
    pub fn not_held(&self, digest: Digest) {
        self.state().gone.push_back(Gone::Component(digest));
    }

    /// Whether the store is to be told of what is not held any more.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.state().gone.is_empty()
    }

    /// What the store is to be told of first. It stays owed until it is
    /// [told](Self::told), so that nothing is lost where the one who tells is
    /// interrupted.
    #[must_use]
    pub fn owed(&self, most: usize) -> Vec<Gone> {
        self.state().gone.iter().take(most).copied().collect()
    }

    /// Notes that the store was told of so many, which were owed first.
    pub fn told(&self, count: usize) {
        let mut state = self.state();
        let count = count.min(state.gone.len());
        state.gone.drain(..count);
    }

    /// What is to be told of what was owed: some may have been put again, or are
    /// gone as components and agents are still made of them.
    #[must_use]
    pub fn still_gone(&self, owed: Vec<Gone>) -> Vec<Gone> {
        let state = self.state();
        let of_agents: HashSet<_> = state.deleted.iter().map(|it| it.digest).collect();
        let still_gone = |gone| match gone {
            Gone::Component(digest) | Gone::Deleted(digest) if state.whole.contains(&digest) => {
                None
            }
            // The next host needs it for them. It goes with the last of them.
            Gone::Component(digest) if of_agents.contains(&digest) => Some(Gone::Deleted(digest)),
            Gone::Upload(digest) if state.uploads.contains_key(&digest) => None,
            gone => Some(gone),
        };
        owed.into_iter().filter_map(still_gone).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The component of this digest, noted as used.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Arc<Component>> {
        self.state().whole.used(digest).map(Arc::clone)
    }

    /// Takes a chunk of an upload.
    ///
    /// # Errors
    /// [`StoreError`], and the upload stays as it was.
    pub fn put(
        &self,
        digest: Digest,
        size: u64,
        offset: u64,
        chunk: &[u8],
    ) -> Result<Put, StoreError> {
        let invalid = |field, message: String| Err(StoreError::Chunk { field, message });
        if chunk.len() > MAX_CHUNK {
            return invalid(
                "data",
                format!("{} bytes, a chunk has {MAX_CHUNK} at most", chunk.len()),
            );
        }
        let end = offset
            .checked_add(chunk.len() as u64)
            .filter(|end| *end <= size);
        let (Some(_), Ok(size), Ok(start)) = (end, usize::try_from(size), usize::try_from(offset))
        else {
            return invalid(
                "offset",
                format!("the chunk does not lie within the size {size}"),
            );
        };
        let mut state = self.state();
        if let Some(component) = state.whole.used(&digest) {
            return Ok(Put::Whole {
                size: component.size,
            });
        }
        if let Some(decided) = state.checked.get(&digest) {
            // One is the room's, and one the table's.
            if Arc::strong_count(decided) >= MAX_CHECKED + 2 {
                return Err(StoreError::BeingChecked(digest));
            }
            return Ok(Put::Checked(Arc::clone(decided)));
        }
        match state.uploads.get(&digest) {
            Some(upload) if upload.size != size => {
                return invalid(
                    "size",
                    format!("the upload under way has the size {}", upload.size),
                );
            }
            Some(upload) if upload.chunks.len() >= MAX_PIECES => {
                return invalid(
                    "offset",
                    format!("the upload is in {MAX_PIECES} pieces: send larger chunks"),
                );
            }
            // Whoever only asks has nothing to be held.
            None if chunk.is_empty() && size > 0 => return Ok(Put::Partial { received: 0 }),
            None if state.uploads.len() >= MAX_UPLOADS => {
                state.drop_idle_uploads();
                if state.uploads.len() >= MAX_UPLOADS {
                    return Err(StoreError::TooManyUploads);
                }
            }
            Some(_) | None => {}
        }
        state.make_room(chunk.len() as u64, self.bound)?;
        let upload = (state.uploads.entry(digest)).or_insert_with(|| Upload::new(size));
        upload.touched = Instant::now();
        let before = upload.held;
        upload.add(start, chunk);
        let (added, received) = (upload.held - before, upload.received);
        state.bytes += added as u64;
        if received < size {
            return Ok(Put::Partial { received });
        }
        let Some(upload) = state.uploads.remove(&digest) else {
            return Ok(Put::Partial { received });
        };
        let room = Room::new(&self.state, &mut state, digest, upload.held as u64);
        Ok(Put::Assembled(upload, room))
    }

    /// Holds a component whose digest and bytes were checked, in the room that
    /// they have, if they have any. Two that insert the same hold it once.
    ///
    /// # Errors
    /// [`StoreError::Full`]
    pub fn insert(
        &self,
        component: Component,
        room: Option<Room>,
    ) -> Result<Arc<Component>, StoreError> {
        let mut state = self.state();
        if let Some(room) = room {
            room.give_back(&mut state);
        }
        if let Some(known) = state.whole.used(&component.digest) {
            // What could run nowhere can, or is known otherwise, since this host was
            // built or set up otherwise. The bytes are the same, and there once.
            if known.is_known() || component.facts.kind == Kind::Blob {
                return Ok(Arc::clone(known));
            }
            let replaced = Arc::clone(known);
            let component = Arc::clone(state.whole.insert(Arc::new(component)));
            if !is_unused(&replaced) {
                // Agents have it as an input, and need it under the next host too.
                state.bytes += replaced.size as u64;
                state.deleted.push(replaced);
            }
            return Ok(component);
        }
        let size = component.size as u64;
        state.make_place()?;
        state.make_room(size, self.bound)?;
        state.bytes += size;
        Ok(Arc::clone(state.whole.insert(Arc::new(component))))
    }

    /// Deletes a component or an upload, and says whether there was one. The
    /// agents that were started from it go on.
    pub fn remove(&self, digest: &Digest) -> bool {
        let mut state = self.state();
        let whole = state.whole.remove(digest);
        let upload = state.uploads.remove(digest);
        let found = whole.is_some() || upload.is_some();
        if let Some(upload) = upload {
            state.bytes -= upload.held as u64;
            state.gone.push_back(Gone::Upload(*digest));
        }
        if let Some(component) = whole {
            if !is_unused(&component) {
                state.gone.push_back(Gone::Deleted(*digest));
            }
            state.deleted.push(component);
        }
        state.drop_deleted();
        found
    }

    /// Lets go of all components that no agent uses, and says how many there are
    /// and how many bytes they have. They stay if it is only asked.
    pub fn remove_unused(&self, only_ask: bool) -> (u64, u64) {
        let mut state = self.state();
        let unused = count(state.all().filter(|component| is_unused(component)));
        if !only_ask {
            state.drop_deleted();
            state.drop_unused(|_| false);
        }
        unused
    }

    /// How much is held.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let state = self.state();
        let (used, bytes_used) = count(state.all().filter(|component| !is_unused(component)));
        Totals {
            components: (state.whole.len() + state.deleted.len()) as u64,
            used,
            bytes: state.bytes,
            bytes_used,
            bound: self.bound,
        }
    }

    /// Up to `limit` components after a digest, by digest.
    #[must_use]
    pub fn page(&self, after: Option<Digest>, limit: usize) -> Vec<Arc<Component>> {
        let state = self.state();
        state.whole.after(after).take(limit).cloned().collect()
    }
}

/// How many there are, and how many bytes they have.
fn count<'a>(components: impl Iterator<Item = &'a Arc<Component>>) -> (u64, u64) {
    components.fold((0, 0), |(count, bytes), component| {
        (count + 1, bytes + component.size as u64)
    })
}

#[cfg(test)]
mod tests;
