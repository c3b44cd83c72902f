//! Why a component is not taken: with a code for programs, and for people what
//! is wrong and what to do.

use serde::{Deserialize, Serialize};
use skep_protocol::{ErrorCode, ErrorDetails, LimitName, WireError};

/// How much of a text that a guest's author wrote is repeated.
const MAX_TEXT: usize = 512;

/// How many missing imports are named.
const MAX_NAMES: usize = 100;

/// Why a component is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// `missing_import`: the full names that nothing provides.
    pub imports: Vec<String>,
    /// `unsupported_world`: the world that it asks for.
    pub world: Option<Box<str>>,
    /// `unsupported_feature`: what this host cannot do.
    pub feature: Option<Box<str>>,
    /// `compile_limit`: which of the host's bounds on compiling.
    pub bound: Option<Box<str>>,
    /// `limit_too_small`, `limit_exceeds_ceiling`: which limit, what it is, and the
    /// least or the most that would do.
    /// Only [`Facts::admits`](super::Facts::admits) refuses with it, on the host.
    #[serde(skip)]
    pub limit: Option<Box<(LimitName, u64, u64)>>,
}

impl Refusal {
    /// The refusal as the wire carries it.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let bound = self.limit.as_ref().map(|limit| limit.2);
        let (needed, ceiling) = match self.code {
            ErrorCode::LimitExceedsCeiling => (None, bound),
            _ => (bound, None),
        };
        let details = ErrorDetails {
            imports: (!self.imports.is_empty()).then(|| self.imports.clone()),
            world: self.world.as_deref().map(str::to_owned),
            feature: self.feature.as_deref().map(str::to_owned),
            limit: match &self.limit {
                Some(limit) => Some(limit.0.as_str().to_owned()),
                None => self.bound.as_deref().map(str::to_owned),
            },
            asked: self.limit.as_ref().map(|limit| limit.1),
            needed,
            ceiling,
            ..ErrorDetails::default()
        };
        WireError {
            details,
            ..WireError::new(self.code, &self.message)
        }
    }

    pub(super) fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        cut(&mut message, MAX_TEXT);
        Self {
            code,
            message,
            imports: Vec::new(),
            world: None,
            feature: None,
            bound: None,
            limit: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::of(ErrorCode::InvalidComponent, message)
    }

    pub(super) fn compiling(bound: &str, message: impl Into<String>) -> Self {
        Self {
            bound: Some(bound.into()),
            ..Self::of(ErrorCode::CompileLimit, message)
        }
    }

    pub(super) fn malformed(error: &wasmparser::BinaryReaderError) -> Self {
        Self::invalid(format!("this is not valid WebAssembly: {error}"))
    }

    pub(super) fn missing(mut imports: Vec<String>) -> Self {
        for name in &mut imports {
            cut(name, MAX_TEXT);
        }
        imports.truncate(MAX_NAMES);
        let first = imports.first().map(String::as_str).unwrap_or_default();
        let others = match imports.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let message = format!("it imports {first}{others}, which this host does not provide");
        Self {
            imports,
            ..Self::of(ErrorCode::MissingImport, message)
        }
    }

    pub(super) fn world(world: String) -> Self {
        let message = format!(
            "it is made for {world}, and this host runs WASI 0.2 (wasi:cli/command): \
             build it for wasm32-wasip2"
        );
        Self {
            world: Some(world.into()),
            ..Self::of(ErrorCode::UnsupportedWorld, message)
        }
    }

    pub(super) fn feature(feature: &str, reason: &str) -> Self {
        let message = format!("it needs {feature}, which this host does not run: {reason}");
        Self {
            feature: Some(feature.into()),
            ..Self::of(ErrorCode::UnsupportedFeature, message)
        }
    }

    pub(super) fn too_small(limit: LimitName, asked: u64, needed: u64) -> Self {
        let message = format!(
            "its limit {} is {asked}, and to start it needs {needed}",
            limit.as_str()
        );
        Self {
            limit: Some(Box::new((limit, asked, needed))),
            ..Self::of(ErrorCode::LimitTooSmall, message)
        }
    }

    /// `of` says for what a limit is bounded below the operator's ceiling.
    pub(super) fn too_large(limit: LimitName, asked: u64, most: u64, of: &str) -> Self {
        let message = format!(
            "its limit {} is {asked}, and {of} may have {most} at most: ask for no more",
            limit.as_str()
        );
        Self {
            limit: Some(Box::new((limit, asked, most))),
            ..Self::of(ErrorCode::LimitExceedsCeiling, message)
        }
    }
}

/// Shortens a text to so many bytes.
pub(super) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}
