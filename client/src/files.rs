//! What lies in an agent's scratch directory: listing and reading it.

use std::io;

use skep_protocol::op::{AgentFile, AgentFiles, FileChunk, FileInfo, FilesPage};
use skep_protocol::{AgentId, MAX_CHUNK};

use crate::client::PAGE;
use crate::{Client, ClientError, Result};

impl Client {
    /// A page of a directory in an agent's scratch, after a path; without a
    /// path, of the scratch directory itself.
    ///
    /// # Errors
    /// Refused with `not_found` if there is no such directory, the agent was
    /// given no scratch, or the host no longer keeps it.
    pub async fn files(
        &self,
        agent: AgentId,
        path: Option<&str>,
        after: Option<&str>,
    ) -> Result<FilesPage> {
        self.call(&AgentFiles {
            agent,
            path: path.map(str::to_owned),
            after: after.map(str::to_owned),
            limit: Some(PAGE),
        })
        .await
    }

    /// All entries of a directory in an agent's scratch, page by page.
    ///
    /// # Errors
    /// As [`files`](Self::files).
    pub async fn all_files(&self, agent: AgentId, path: Option<&str>) -> Result<Vec<FileInfo>> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.files(agent, path, after.as_deref()).await?;
            all.extend(page.files);
            match page.next {
                // A next page that does not lie behind this one would never end.
                Some(next) if after.as_ref().is_none_or(|after| *after < next) => {
                    after = Some(next);
                }
                _ => return Ok(all),
            }
        }
    }

    /// A piece of a file in an agent's scratch, of at most 1 MiB.
    ///
    /// # Errors
    /// Refused with `not_found` as [`files`](Self::files), or with
    /// `invalid_argument` if it is no file.
    pub async fn file(&self, agent: AgentId, path: &str, offset: u64) -> Result<FileChunk> {
        self.call(&AgentFile {
            agent,
            path: path.to_owned(),
            offset,
            max_bytes: Some(MAX_CHUNK as u64),
        })
        .await
    }

    /// Reads a file in an agent's scratch to its end, or to where that was when
    /// this began: a file that grows for ever is not followed. `take` is given
    /// each piece, and the size of the whole. What it fails with ends the read.
    ///
    /// # Errors
    /// As [`file`](Self::file); the inner error is that of `take`.
    pub async fn read_file(
        &self,
        agent: AgentId,
        path: &str,
        mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<io::Result<u64>> {
        let mut offset = 0;
        let mut whole = None;
        loop {
            let chunk = self.file(agent, path, offset).await?;
            let size = *whole.get_or_insert(chunk.size);
            if chunk.data.len() > MAX_CHUNK {
                let message = "a piece of a file is larger than was asked for";
                return Err(ClientError::Protocol(message.to_owned()));
            }
            let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
            let piece = chunk.data.get(..left).unwrap_or(&chunk.data);
            if let Err(error) = take(piece, size) {
                return Ok(Err(error));
            }
            offset += piece.len() as u64;
            if chunk.eof || piece.is_empty() || offset == size {
                return Ok(Ok(offset));
            }
        }
    }
}
