//! What an agent finds below `/inputs`: copies of bytes that were put, in a
//! directory of the agent's own to which nobody writes. They are copies since a
//! file that several names lead to can be changed under any of them.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use skep_protocol::{AgentId, Digest, ErrorCode, Outcome};
use tokio_util::sync::CancellationToken;

use crate::components::Component;
use crate::scratch::Scratch;

/// Where a guest finds them.
pub const GUEST_DIR: &str = "/inputs";

/// Tells a guest where they are, by its own paths.
pub const VARIABLE: &str = "SKEP_INPUTS";

/// As much is written before it is looked whether the agent is still wanted.
const PIECE: usize = 1024 * 1024;

/// One of them. The store keeps the bytes for as long as this is held.
#[derive(Debug, Clone)]
pub struct Input {
    /// Plain, see [`skep_protocol::path::is_plain`].
    pub path: String,
    pub bytes: Bytes,
    pub content: Arc<Component>,
}

/// Why they are not there.
#[derive(Debug, thiserror::Error)]
pub enum LayError {
    #[error("the input `{0}` no longer has its digest in the host's store: put it again")]
    Changed(String),
    #[error("the agent is not wanted any more")]
    Unwanted,
    #[error("the host cannot write the agent's inputs to its disk; its log says why")]
    Io(#[from] io::Error),
}

impl LayError {
    /// How an agent ended that was to have them.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::StartFailed {
            code: match self {
                Self::Changed(_) => ErrorCode::DigestMismatch,
                Self::Unwanted | Self::Io(_) => ErrorCode::StorageUnavailable,
            },
            message: self.to_string(),
        }
    }
}

/// Writes the inputs of an agent into a directory of its own, which goes when
/// what is returned does. Blocks.
///
/// # Errors
/// [`LayError`], and nothing is left.
pub fn lay(
    root: &Path,
    agent: AgentId,
    inputs: &[Input],
    unwanted: &CancellationToken,
) -> Result<Scratch, LayError> {
    let dir = Scratch::make(root, agent)?;
    for Input {
        path,
        bytes,
        content,
    } in inputs
    {
        // Hashed once more: from here on nobody looks again.
        if Digest::of(bytes) != content.digest {
            return Err(LayError::Changed(path.clone()));
        }
        let path = dir.path().join(path);
        if let Some(parent) = path.parent() {
            make_dirs(dir.path(), parent)?;
        }
        // Readable for all, since native agents may be another user; by whatever
        // the host's umask says. Nobody else comes through the directory of all
        // inputs.
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        for piece in bytes.chunks(PIECE) {
            if unwanted.is_cancelled() {
                return Err(LayError::Unwanted);
            }
            file.write_all(piece)?;
        }
    }
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Makes the directories from `top`, which is there, down to this one.
fn make_dirs(top: &Path, dir: &Path) -> io::Result<()> {
    if dir == top || dir.exists() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(top, parent)?;
    }
    DirBuilder::new().create(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::wasm::Facts;

    fn input(path: &str, bytes: &[u8], digest: Digest) -> Input {
        Input {
            path: path.to_owned(),
            bytes: Bytes::copy_from_slice(bytes),
            content: Arc::new(Component::new(
                digest,
                Bytes::copy_from_slice(bytes),
                Facts::of_blob(),
            )),
        }
    }

    #[test]
    fn they_are_laid_out_and_go_together() {
        let root = tempfile::tempdir().unwrap();
        let agent = AgentId::random();
        let inputs = [
            input("a", b"1", Digest::of(b"1")),
            input("d/e/b", b"", Digest::of(b"")),
        ];
        let dir = lay(root.path(), agent, &inputs, &CancellationToken::new()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"1");
        let file = dir.path().join("d/e/b").metadata().unwrap();
        assert_eq!((file.len(), file.permissions().mode() & 0o777), (0, 0o444));
        drop(dir);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_left_of_what_failed() {
        let root = tempfile::tempdir().unwrap();
        let good = input("a", b"1", Digest::of(b"1"));
        let wrong = input("b", b"1", Digest::of(b"2"));
        let unwanted = CancellationToken::new();
        let error = lay(
            root.path(),
            AgentId::random(),
            &[good.clone(), wrong],
            &unwanted,
        );
        assert!(matches!(error, Err(LayError::Changed(path)) if path == "b"));
        unwanted.cancel();
        let error = lay(root.path(), AgentId::random(), &[good], &unwanted);
        assert!(matches!(error, Err(LayError::Unwanted)));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
