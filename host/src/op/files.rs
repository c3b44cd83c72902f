//! `agent.files`, `agent.file`: what lies in an agent's scratch, while it runs
//! and for as long as it is kept.

use std::path::PathBuf;
use std::sync::Arc;

use skep_protocol::op::{AgentFile, AgentFiles, FileChunk, FilesPage};
use skep_protocol::path::is_plain;
use skep_protocol::{AgentId, MAX_CHUNK};
use tokio::sync::Semaphore;

use super::Error;
use super::agents::{find, page_size};
use crate::below::{self, LookError};
use crate::core::Core;

const BYTES: u64 = 256 * 1024;

pub async fn files(core: &Core, body: AgentFiles) -> Result<FilesPage, Error> {
    let limit = page_size(body.limit)?;
    if let Some(path) = &body.path {
        plain(path)?;
    }
    let root = root(core, body.agent).await?;
    let AgentFiles { path, after, .. } = body;
    look(&core.kept.looks, move || {
        below::list(&root, path.as_deref(), after.as_deref(), limit)
    })
    .await
}

pub async fn file(core: &Core, body: AgentFile) -> Result<FileChunk, Error> {
    plain(&body.path)?;
    let max_bytes = match usize::try_from(body.max_bytes.unwrap_or(BYTES)) {
        Ok(bytes @ 1..=MAX_CHUNK) => bytes,
        _ => {
            return Err(Error::Invalid {
                field: "max_bytes",
                message: format!("is not within 1 to {MAX_CHUNK}"),
            });
        }
    };
    let root = root(core, body.agent).await?;
    look(&core.kept.looks, move || {
        below::read(&root, &body.path, body.offset, max_bytes)
    })
    .await
}

fn plain(path: &str) -> Result<(), Error> {
    if is_plain(path) {
        return Ok(());
    }
    Err(Error::Invalid {
        field: "path",
        message: "must be relative, without `.`, `..` or a double slash, and not longer than a \
                  kernel takes"
            .to_owned(),
    })
}

/// Where the agent's files lie.
async fn root(core: &Core, agent: AgentId) -> Result<PathBuf, Error> {
    let handle = find(core, agent).await?;
    if !handle.spec.grants.scratch {
        return Err(Error::NoFiles("it was given no scratch directory"));
    }
    Ok(core.scratch_root.path().join(agent.to_string()))
}

/// Looks on a thread that may wait for the disk. Those that do are few.
async fn look<T: Send + 'static>(
    looks: &Arc<Semaphore>,
    look: impl FnOnce() -> Result<T, LookError> + Send + 'static,
) -> Result<T, Error> {
    const LOST: Error = Error::Internal("a look into an agent's files panicked");
    let turn = Arc::clone(looks).acquire_owned().await.map_err(|_| LOST)?;
    let looked = tokio::task::spawn_blocking(move || {
        let looked = look();
        // Whoever asked may not wait for it any more: the thread is taken until now.
        drop(turn);
        looked
    });
    let looked = looked.await.map_err(|_| LOST)?;
    looked.map_err(|error| match error {
        LookError::Io(error) => {
            tracing::error!(%error, "an agent's files cannot be looked into");
            Error::Files(error)
        }
        LookError::NoRoot => Error::NoFiles(
            "it left none, or more than the host keeps of all (capacity.kept_files_bytes)",
        ),
        LookError::NotThere => Error::NoPath {
            message: error.to_string(),
        },
        LookError::Not(_) | LookError::TooMany => Error::Invalid {
            field: "path",
            message: error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;
    use crate::kept::Kept;

    #[tokio::test]
    async fn only_so_many_look_at_once() {
        let kept = Kept::new(0);
        let mut others: Vec<_> = std::iter::from_fn(|| kept.looks.try_acquire().ok()).collect();
        assert_eq!(others.len(), 4);
        let mut waits = pin!(look(&kept.looks, || Ok(7)));
        assert!(waits.as_mut().now_or_never().is_none());
        // The next place is for the one that waits.
        others.pop();
        assert!(kept.looks.try_acquire().is_err());
        assert!(matches!(waits.await, Ok(7)));
        assert!(kept.looks.try_acquire().is_ok());
    }
}
