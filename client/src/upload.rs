//! Uploads of whole components, and of bytes that are to be inputs: in chunks, from where
//! the last one broke off.

use std::time::Duration;

use serde_bytes::ByteBuf;
use skep_protocol::op::{ComponentPut, PutReply};
use skep_protocol::{Digest, ErrorCode, MAX_CHUNK};

use tokio::time::Instant;

use crate::{Client, ClientError, Result};

/// For how long a chunk is put again, and how often.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// Makes sure that the host has a component or an input, and returns its
    /// digest. What the host has already is not sent again, be it the whole or
    /// its beginning. Whether a component can run is told by a check or a spawn.
    ///
    /// # Errors
    /// Refused with `too_large`, `compile_limit` or `storage_unavailable`.
    pub async fn upload(&self, component: &[u8]) -> Result<Digest> {
        let digest = Digest::of(component);
        match self.stat_component(digest).await {
            Ok(_known) => return Ok(digest),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => {}
            Err(error) => return Err(error),
        }
        let size = component.len() as u64;
        let put = |offset: usize, data: &[u8]| ComponentPut {
            digest,
            size,
            offset: offset as u64,
            data: ByteBuf::from(data),
        };
        // Asks how much is there.
        let mut reply = self.put_patiently(&put(0, &[])).await?;
        let mut sent_to = None;
        while !reply.complete {
            let offset = usize::try_from(reply.received)
                .ok()
                .filter(|&at| at <= component.len());
            let rest = offset
                .and_then(|at| component.get(at..))
                .unwrap_or_default();
            let (Some(offset), false) = (offset, rest.is_empty() || offset == sent_to) else {
                let received = reply.received;
                return Err(ClientError::Protocol(format!(
                    "an upload of {size} bytes does not go on from {received}"
                )));
            };
            let chunk = rest.get(..MAX_CHUNK).unwrap_or(rest);
            reply = self.put_patiently(&put(offset, chunk)).await?;
            // A host that does not take it would be sent it for ever.
            sent_to = Some(offset);
        }
        Ok(digest)
    }

    /// Puts a chunk, and again where the host asks for that: too many wait for the
    /// check of the same bytes, or of others.
    async fn put_patiently(&self, chunk: &ComponentPut) -> Result<PutReply> {
        let begun = Instant::now();
        loop {
            match self.put_component(chunk).await {
                Err(error) if comes_again(&error) && begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                put => return put,
            }
        }
    }
}

fn comes_again(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::RateLimited | ErrorCode::Capacity)
    )
}
