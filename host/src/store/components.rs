//! Components and uploads as they outlive the host: rows in the file, and bytes
//! in files beside it. Whoever changes both sees to it that nobody else does.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::Digest;
use tokio::sync::Semaphore;

use super::blobs::Blobs;
use super::{Change, KeptComponent, KeptUpload, Store, Unavailable};

/// So many threads wait at once for the disk with such bytes. More requests wait
/// for one of them.
const AT_ONCE: usize = 4;

/// The files, and who may be at them.
#[derive(Debug)]
pub(super) struct Files {
    blobs: Arc<Blobs>,
    threads: Arc<Semaphore>,
}

impl Files {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self {
            blobs: Arc::new(blobs),
            threads: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Store {
    /// Does something with the files, on another thread.
    async fn with_files<T: Send + 'static>(
        &self,
        absent: T,
        work: impl FnOnce(&Blobs) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let Some(Files { blobs, threads }) = self.0.as_ref().map(|kept| &kept.files) else {
            return Ok(absent);
        };
        let threads = Arc::clone(threads);
        let turn = (threads.acquire_owned().await).map_err(|error| Unavailable::of(&error))?;
        let blobs = Arc::clone(blobs);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&blobs);
            drop(turn);
            done
        });
        let done = done.await.map_err(|error| Unavailable::of(&error))?;
        done.map_err(|error| Unavailable::of(&error))
    }

    /// Writes down a component, its bytes first.
    ///
    /// # Errors
    /// If it cannot be written now.
    pub async fn keep_component(
        &self,
        component: KeptComponent,
        bytes: Bytes,
    ) -> Result<(), Unavailable> {
        let digest = component.digest;
        let is_new = self
            .with_files(false, move |blobs| blobs.keep(&digest, &bytes))
            .await?;
        let written = self.write(Change::ComponentKept(Box::new(component))).await;
        if written.is_err() && is_new {
            // Or each that is refused would leave a file that nothing tells of.
            self.remove_files(vec![digest]).await;
        }
        written
    }

    /// Writes the bytes of a component again, where its file is gone or damaged.
    ///
    /// # Errors
    /// If it cannot be written now.
    pub async fn mend_component(&self, digest: Digest, bytes: Bytes) -> Result<(), Unavailable> {
        let mend = move |blobs: &Blobs| {
            if blobs.load(&digest)?.is_none() {
                blobs.keep(&digest, &bytes)?;
            }
            Ok(())
        };
        self.with_files((), mend).await
    }

    /// The bytes of a component that a host before has kept; none if they are
    /// gone or damaged.
    ///
    /// # Errors
    /// If they cannot be read now.
    pub async fn load_component(&self, digest: Digest) -> Result<Option<Bytes>, Unavailable> {
        self.with_files(None, move |blobs| Ok(blobs.load(&digest)?.map(Bytes::from)))
            .await
    }

    /// Forgets components, their bytes last.
    pub async fn forget_components(&self, digests: Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        // What could not be written is owed. Until it is, nobody finds the
        // components' bytes, and takes them for gone.
        let _ = self.write(Change::ComponentsGone(digests.clone())).await;
        self.remove_files(digests).await;
    }

    async fn remove_files(&self, digests: Vec<Digest>) {
        let remove = move |blobs: &Blobs| {
            digests.iter().for_each(|digest| blobs.remove(digest));
            Ok(())
        };
        // What could not be removed is told where that is tried.
        let _ = self.with_files((), remove).await;
    }

    /// Writes a part of an upload to its file.
    ///
    /// # Errors
    /// If it cannot be written now.
    pub async fn write_part(
        &self,
        digest: Digest,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), Unavailable> {
        self.with_files((), move |blobs| blobs.write_part(&digest, offset, &bytes))
            .await
    }

    /// The parts of an upload, as a host before has left them; none if they are
    /// not there any more. Reads its file: for the start of a host.
    #[must_use]
    pub fn read_parts(&self, upload: &KeptUpload) -> Option<Vec<Vec<u8>>> {
        let files = &self.0.as_ref()?.files;
        match files.blobs.read_parts(&upload.digest, &upload.parts) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%error, digest = %upload.digest, "an upload cannot be gone on with");
                None
            }
        }
    }

    /// Forgets uploads. Where that cannot be written now it is not owed: the next
    /// host does not find their files, and forgets them.
    pub async fn forget_uploads(&self, digests: Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        let _ = self.write(Change::UploadsGone(digests.clone())).await;
        let remove = move |blobs: &Blobs| {
            digests.iter().for_each(|digest| blobs.remove_part(digest));
            Ok(())
        };
        let _ = self.with_files((), remove).await;
    }
}
