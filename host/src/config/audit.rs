//! `[audit]`: how much is kept of the record of requests.

use super::{ConfigError, MIB, RawAudit, RawSize};

/// The longest of lines is as long.
const LEAST_BYTES: u64 = 64 * 1024;
const MOST_FILES: u64 = 10_000;

/// How much of the record of requests is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Bytes of one file; then the next begins.
    pub max_bytes: u64,
    /// Files, the one that is written included; then the oldest goes.
    pub files: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            max_bytes: 64 * MIB,
            files: 8,
        }
    }
}

pub(super) fn audit(raw: RawAudit) -> Result<Option<Audit>, ConfigError> {
    let default = Audit::default();
    let max_bytes = match raw.max_bytes {
        None => default.max_bytes,
        Some(RawSize(bytes)) if bytes < LEAST_BYTES => {
            let problem = format!("must be at least {LEAST_BYTES}");
            return Err(ConfigError::new("audit.max_bytes", problem));
        }
        Some(RawSize(bytes)) => super::positive("audit.max_bytes", bytes)?,
    };
    let files = match raw.files {
        None => default.files,
        Some(files) => match u32::try_from(files) {
            Ok(few) if (1..=MOST_FILES).contains(&files) => few,
            _ => {
                let problem = format!("must be within 1 and {MOST_FILES}");
                return Err(ConfigError::new("audit.files", problem));
            }
        },
    };
    let enabled = raw.enabled.unwrap_or(true);
    Ok(enabled.then_some(Audit { max_bytes, files }))
}
