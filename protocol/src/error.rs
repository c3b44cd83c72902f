//! Refusals: the closed set of error codes and what each one tells besides.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The code says who can mend it; PROTOCOL.md has
/// the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each name is its own explanation, and PROTOCOL.md has the table"
)]
pub enum ErrorCode {
    Malformed,
    UnsupportedVersion,
    UnknownOp,
    InvalidArgument,
    TooLarge,
    NotFound,
    Conflict,
    WrongState,
    Denied,
    MissingGrant,
    LimitExceedsCeiling,
    LimitTooSmall,
    Capacity,
    RateLimited,
    ShuttingDown,
    InvalidComponent,
    UnsupportedWorld,
    MissingImport,
    UnsupportedFeature,
    DigestMismatch,
    CompileLimit,
    StorageUnavailable,
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of PROTOCOL.md.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::UnsupportedVersion,
        Self::UnknownOp,
        Self::InvalidArgument,
        Self::TooLarge,
        Self::NotFound,
        Self::Conflict,
        Self::WrongState,
        Self::Denied,
        Self::MissingGrant,
        Self::LimitExceedsCeiling,
        Self::LimitTooSmall,
        Self::Capacity,
        Self::RateLimited,
        Self::ShuttingDown,
        Self::InvalidComponent,
        Self::UnsupportedWorld,
        Self::MissingImport,
        Self::UnsupportedFeature,
        Self::DigestMismatch,
        Self::CompileLimit,
        Self::StorageUnavailable,
        Self::Internal,
    ];

    /// The code as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownOp => "unknown_op",
            Self::InvalidArgument => "invalid_argument",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::WrongState => "wrong_state",
            Self::Denied => "denied",
            Self::MissingGrant => "missing_grant",
            Self::LimitExceedsCeiling => "limit_exceeds_ceiling",
            Self::LimitTooSmall => "limit_too_small",
            Self::Capacity => "capacity",
            Self::RateLimited => "rate_limited",
            Self::ShuttingDown => "shutting_down",
            Self::InvalidComponent => "invalid_component",
            Self::UnsupportedWorld => "unsupported_world",
            Self::MissingImport => "missing_import",
            Self::UnsupportedFeature => "unsupported_feature",
            Self::DigestMismatch => "digest_mismatch",
            Self::CompileLimit => "compile_limit",
            Self::StorageUnavailable => "storage_unavailable",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal as the wire carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct WireError {
    /// What kind of refusal it is, for programs.
    pub code: ErrorCode,
    /// What happened and what to do, for a person.
    pub message: String,
    /// What a program needs to act on it.
    #[serde(default)]
    pub details: ErrorDetails,
}

impl WireError {
    /// A refusal without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: ErrorDetails::default(),
        }
    }

    /// A refusal of one field of the request's body.
    #[must_use]
    pub fn of_field(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            details: ErrorDetails {
                field: Some(field.into()),
                ..ErrorDetails::default()
            },
            ..Self::new(code, message)
        }
    }
}

macro_rules! details {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// What an error tells besides its code and message. Each code fills
        /// its own few fields; what is absent is left out on the wire.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct ErrorDetails {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}

details! {
    /// `unsupported_version`: the versions that the host speaks.
    supported: Vec<u64>,
    /// The field of the body that is at fault, with dots: `spec.limits.fuel`.
    field: String,
    /// The name of the limit.
    limit: String,
    /// What was asked of the limit.
    asked: u64,
    /// The most that the operator allows.
    ceiling: u64,
    /// The least that would do.
    needed: u64,
    /// `wrong_state`: the state that the agent is in.
    state: String,
    /// `missing_grant`: the import that lacks it.
    import: String,
    /// `missing_grant`: the grant that is lacking.
    grant: String,
    /// `capacity`: how many there are.
    running: u64,
    /// `capacity`: how many there may be.
    max: u64,
    /// `capacity`: how many wait.
    queued: u64,
    /// `rate_limited`: after how many milliseconds to ask again.
    retry_after_ms: u64,
    /// `unsupported_world`: the world that the component asks for.
    world: String,
    /// `missing_import`: the full names that nothing provides.
    imports: Vec<String>,
    /// `unsupported_feature`: what this host cannot do.
    feature: String,
    /// `internal`: under which name the cause stands in the host's log.
    incident: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_as_they_are_written() {
        for code in ErrorCode::ALL {
            assert_eq!(
                serde_json::to_value(code).unwrap(),
                serde_json::Value::from(code.as_str())
            );
        }
    }
}
