//! `component.put`, `component.stat`, `component.list`, `component.remove`.

use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::Digest;
use skep_protocol::op::{
    ComponentInfo, ComponentList, ComponentPage, ComponentPut, ComponentSummary, Done, PutReply,
};

use super::Error;
use super::agents::page_size;
use crate::components::{Component, Put, StoreError};
use crate::core::Core;
use crate::runner::wasm::Failure;

/// Takes bytes into the store, once it is clear what they are. Hashing them
/// takes milliseconds a megabyte, so it is done aside; reading them is done in
/// another process. What is there already is not read again, however often it
/// comes with a spawn.
pub(super) async fn admit(
    core: &Core,
    bytes: Bytes,
    expected: Option<Digest>,
) -> Result<Arc<Component>, Error> {
    let hashed = bytes.clone();
    let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed))
        .await
        .map_err(|_| Error::Internal("the digest of a component cannot be computed"))?;
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(Error::Store(StoreError::DigestMismatch(expected)));
    }
    if let Some(known) = core.components.get(&digest) {
        return Ok(known);
    }
    let facts = core
        .wasm
        .check(digest, bytes.clone())
        .await
        .map_err(|failure| match failure {
            Failure::Refused(refusal) => Error::from(refusal),
            Failure::Fault { .. } => {
                Error::Internal("a component could not be checked; the host's log says why")
            }
            Failure::Unwanted => Error::ShuttingDown,
        })?;
    let component = Component {
        digest,
        bytes,
        facts,
    };
    Ok(core.components.insert(component)?)
}

pub async fn put(core: &Core, body: ComponentPut) -> Result<PutReply, Error> {
    let ceiling = core.rules.ceilings.component_bytes;
    if body.size > ceiling {
        return Err(Error::ComponentTooLarge {
            asked: body.size,
            ceiling,
        });
    }
    match core
        .components
        .put(body.digest, body.size, body.offset, &body.data)?
    {
        Put::Whole { size } => Ok(PutReply {
            received: size as u64,
            complete: true,
        }),
        Put::Partial { received } => Ok(PutReply {
            received: received as u64,
            complete: false,
        }),
        Put::Assembled(data) => {
            let component = admit(core, Bytes::from(data), Some(body.digest)).await?;
            Ok(PutReply {
                received: component.bytes.len() as u64,
                complete: true,
            })
        }
    }
}

pub fn stat(core: &Core, digest: Digest) -> Result<ComponentInfo, Error> {
    let component = core
        .components
        .get(&digest)
        .ok_or(Error::NoComponent(digest))?;
    Ok(ComponentInfo {
        digest,
        size: component.bytes.len() as u64,
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
                size: component.bytes.len() as u64,
                compiled: core.wasm.is_compiled(&component.digest),
            })
            .collect(),
    })
}

pub fn remove(core: &Core, digest: Digest) -> Result<Done, Error> {
    if core.components.remove(&digest) {
        Ok(Done {})
    } else {
        Err(Error::NoComponent(digest))
    }
}
