//! What a host and its compiling process say to each other. Pure.
//!
//! The host sends a [`Job`] with its length before it, then the component until
//! the pipe ends. The process answers with [`MAGIC`], a [`Reply`] with its
//! length before it, and the compiled code if there is any.

use std::io::Read;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runner::wasm::inspect::Facts;
use crate::runner::wasm::refusal::Refusal;

/// Begins every answer: a binary that is not Skep's says something else.
pub(super) const MAGIC: &[u8; 8] = b"skepjob1";

/// A job's or reply's bytes, without component and code. Facts contain the
/// names of imports, which a component may have in any number and length.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Tell what it is.
    Check,
    /// Tell what it is, and compile it.
    Compile,
}

/// One component's job, and what it may take.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) task: Task,
    /// The process that asks: without it nobody waits.
    pub(super) host: i32,
    /// The engine that the code is for, see
    /// [`Engines::fingerprint`](crate::runner::wasm::engine::Engines::fingerprint).
    pub(super) engine: u64,
    pub(super) cpu_seconds: u64,
    pub(super) memory_bytes: u64,
    /// Threads that compile.
    pub(super) threads: u64,
    /// How much its priority is lowered.
    pub(super) lower: i32,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Checked(Facts),
    /// Code follows.
    Compiled(Facts),
    /// The component's fault.
    Refused(Refusal),
    /// Ours.
    Failed(String),
}

/// The message with its length before it; `None` if it is too long.
pub(in crate::runner::wasm) fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    // With names: what another build calls otherwise must not be mistaken.
    let body = rmp_serde::to_vec_named(message).ok()?;
    let length = u32::try_from(body.len()).ok()?;
    if body.len() > MAX_MESSAGE {
        return None;
    }
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&body);
    Some(framed)
}

/// The message at the start of these bytes, and what follows it.
pub(in crate::runner::wasm) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (body, rest) = rest.split_at_checked(length)?;
    Some((rmp_serde::from_slice(body).ok()?, rest))
}

/// Reads a job and leaves what follows it.
pub(super) fn read_job(from: &mut impl Read) -> std::io::Result<Job> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    rmp_serde::from_slice(&body).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        let refusal = Refusal::missing(vec!["a:b/c@1.0.0".to_owned()]);
        let mut bytes = encode(&Reply::Refused(refusal.clone())).unwrap();
        bytes.extend_from_slice(b"code");
        let (reply, rest) = decode(&bytes).unwrap();
        assert!(matches!(reply, Reply::Refused(same) if same == refusal));
        assert_eq!(rest, b"code");
        for at in 0..bytes.len() - b"code".len() {
            assert!(decode::<Reply>(&bytes[..at]).is_none(), "{at}");
        }
        assert!(decode::<Reply>(&[0xff; 64]).is_none());
        assert!(encode(&"x".repeat(MAX_MESSAGE)).is_none());
    }
}
