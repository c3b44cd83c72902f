//! `component.put`, `component.stat`, `component.list`, `component.remove`.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::op::{
    ComponentInfo, ComponentList, ComponentPage, ComponentPut, ComponentSummary, Done, PutReply,
};
use skep_protocol::{Digest, ErrorCode};

use super::Error;
use super::agents::page_size;
use crate::clock;
use crate::components::{Component, Gone, Put, Room, StoreError};
use crate::core::Core;
use crate::runner::wasm::{Facts, Failure};
use crate::store::{Change, KeptComponent};

/// Of so many that are gone the store is told at once, while nobody else changes
/// what it has.
const TOLD_AT_ONCE: usize = 256;

/// What to do with bytes that could not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifeless {
    /// Say why.
    Refuse,
    /// Take them: they can be an input.
    Take,
}

/// Takes bytes into the store, once it is clear what they are. Putting them
/// together and hashing them takes milliseconds a megabyte, so it is done aside;
/// reading them is done in another process. What is there already is not read
/// again, however often it comes with a spawn.
pub(super) async fn admit(
    core: &Core,
    bytes: impl FnOnce() -> Bytes + Send + 'static,
    room: Option<Room>,
    expected: Option<Digest>,
    lifeless: Lifeless,
) -> Result<Arc<Component>, Error> {
    let hash = move || {
        let bytes = bytes();
        (Digest::of(&bytes), bytes)
    };
    let (digest, bytes) = tokio::task::spawn_blocking(hash)
        .await
        .map_err(|_| Error::Internal("the digest of a component cannot be computed"))?;
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(Error::Store(StoreError::DigestMismatch(expected)));
    }
    if let Some(known) = core.components.get(&digest)
        && (known.is_known() || lifeless == Lifeless::Take)
    {
        see_to_bytes(core, &known, bytes).await;
        return Ok(known);
    }
    let checked = tokio::select! {
        checked = core.wasm.check(digest, bytes.clone()) => checked,
        () = core.shutdown.cancelled() => return Err(Error::ShuttingDown),
    };
    let facts = match checked {
        Ok(facts) => facts,
        Err(Failure::Refused(refusal))
            if lifeless == Lifeless::Take && could_never_run(refusal.code) =>
        {
            Facts::of_blob()
        }
        Err(failure) => return Err(failure.into()),
    };
    let kept = KeptComponent {
        digest,
        size: bytes.len() as u64,
        facts: facts.clone(),
        deleted: false,
        used_ms: clock::now_ms(),
    };
    let in_store = core.components.in_store.lock().await;
    core.store.keep_component(kept, bytes.clone()).await?;
    let component = Component::new(digest, bytes, facts);
    let component = core.components.insert(component, room);
    if component.is_err() {
        core.components.not_held(digest);
    }
    drop(in_store);
    settle(core).await;
    Ok(component?)
}

/// Uses the bytes at hand of a component that a host before has kept: its file
/// may be gone or damaged, which nobody has looked for yet.
async fn see_to_bytes(core: &Core, known: &Component, bytes: Bytes) {
    if known.bytes.initialized() {
        return;
    }
    let bytes = known.bytes.get_or_init(|| async { bytes }).await.clone();
    let _in_store = core.components.in_store.lock().await;
    let mended = core.store.mend_component(known.digest, bytes).await;
    if let Err(error) = mended {
        tracing::warn!(%error, digest = %known.digest, "the file of a component cannot be seen to");
    }
}

/// The bytes of a component, from the store if need be. However many ask, its
/// file is read once.
pub(super) async fn bytes_of(core: &Core, component: &Component) -> Result<Bytes, Error> {
    let digest = component.digest;
    let load = || async {
        let loaded = core.store.load_component(digest).await?;
        loaded.ok_or(Error::NoComponent(digest))
    };
    let loaded = component.bytes.get_or_try_init(load).await;
    // Somebody may have come with them meanwhile.
    if matches!(loaded, Err(Error::NoComponent(_))) && !component.bytes.initialized() {
        tracing::warn!(%digest, "the file of a component is gone or damaged: it is forgotten");
        core.components.remove(&digest);
        settle(core).await;
    }
    loaded.cloned()
}

/// Tells the store what is not held any more. Where the caller is interrupted,
/// the next one tells the rest.
pub(super) async fn settle(core: &Core) {
    while core.components.owes() {
        let _in_store = core.components.in_store.lock().await;
        let owed = core.components.owed(TOLD_AT_ONCE);
        let count = owed.len();
        forget(core, owed).await;
        core.components.told(count);
    }
}

async fn forget_upload(core: &Core, digest: Digest) {
    let _in_store = core.components.in_store.lock().await;
    forget(core, vec![Gone::Upload(digest)]).await;
}

/// For who holds [`in_store`](crate::components::Components::in_store).
async fn forget(core: &Core, gone: Vec<Gone>) {
    let (mut components, mut uploads) = (Vec::new(), Vec::new());
    for gone in core.components.still_gone(gone) {
        match gone {
            Gone::Component(digest) => components.push(digest),
            Gone::Deleted(digest) => core.store.note(Change::ComponentDeleted(digest)).await,
            Gone::Upload(digest) => uploads.push(digest),
        }
    }
    core.store.forget_components(components).await;
    core.store.forget_uploads(uploads).await;
}

/// Whether it is the bytes that are at fault: not that the host had no room or
/// time to look at them, which may be otherwise the next time.
fn could_never_run(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidComponent
            | ErrorCode::UnsupportedWorld
            | ErrorCode::MissingImport
            | ErrorCode::UnsupportedFeature
    )
}

pub async fn put(core: &Core, body: ComponentPut) -> Result<PutReply, Error> {
    let ceiling = core.rules.ceilings.component_bytes;
    if body.size > ceiling {
        return Err(Error::ComponentTooLarge {
            asked: body.size,
            ceiling,
        });
    }
    loop {
        let put = (core.components).put(body.digest, body.size, body.offset, &body.data);
        settle(core).await;
        let (received, complete) = match put? {
            // A client that has waited for the answer for too long repeats its last
            // chunk: it is not to bring all others again.
            Put::Checked(decided) => {
                decided.cancelled().await;
                continue;
            }
            Put::Whole { size } => (size, true),
            Put::Partial { received } => {
                if !body.data.is_empty() {
                    keep_part(core, body).await?;
                }
                (received, false)
            }
            Put::Assembled(upload, room) => {
                let assemble = move || Bytes::from(upload.assemble());
                let expected = Some(body.digest);
                let admitted = admit(core, assemble, Some(room), expected, Lifeless::Take).await;
                if admitted.is_err() {
                    forget_upload(core, body.digest).await;
                }
                (admitted?.size, true)
            }
        };
        return Ok(PutReply {
            received: received as u64,
            complete,
        });
    }
}

/// Writes a chunk down, so that the upload goes on with it under another host.
async fn keep_part(core: &Core, body: ComponentPut) -> Result<(), Error> {
    let ComponentPut {
        digest,
        offset,
        data,
        ..
    } = body;
    let data = Bytes::from(data.into_vec());
    let bytes = data.len();
    let written = core.store.write_part(digest, offset, data).await;
    let in_store = core.components.in_store.lock().await;
    if written.is_ok()
        && let Some(upload) = core.components.note_written(digest, offset, bytes)
    {
        return Ok(core.store.write(Change::UploadGrew(upload)).await?);
    }
    drop(in_store);
    // Another request may have finished or deleted it meanwhile, and removed its
    // file before this made it again.
    forget_upload(core, digest).await;
    Ok(written?)
}

pub fn stat(core: &Core, digest: Digest) -> Result<ComponentInfo, Error> {
    let component = core
        .components
        .get(&digest)
        .ok_or(Error::NoComponent(digest))?;
    Ok(ComponentInfo {
        digest,
        size: component.size as u64,
        compiled: core.wasm.is_compiled(&digest),
        kind: component.facts.kind.as_str().to_owned(),
        imports: component.facts.imports.clone(),
        missing: component.facts.missing.clone(),
    })
}

pub fn list(core: &Core, body: &ComponentList) -> Result<ComponentPage, Error> {
    let limit = page_size(body.limit)?;
    let mut page = core.components.page(body.after, limit + 1);
    let more = page.len() > limit;
    page.truncate(limit);
    Ok(ComponentPage {
        next: page
            .last()
            .filter(|_| more)
            .map(|component| component.digest),
        components: page
            .iter()
            .map(|component| ComponentSummary {
                digest: component.digest,
                size: component.size as u64,
                compiled: core.wasm.is_compiled(&component.digest),
            })
            .collect(),
    })
}

pub async fn remove(core: &Core, digest: Digest) -> Result<Done, Error> {
    let found = core.components.remove(&digest);
    settle(core).await;
    if found {
        Ok(Done {})
    } else {
        Err(Error::NoComponent(digest))
    }
}
