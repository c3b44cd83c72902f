//! Why a call did not succeed.

use std::time::Duration;

use skep_protocol::codec::DecodeError;
use skep_protocol::{ErrorCode, WireError};
use skep_transport::RequestError;

/// Why a call did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The host refused. Its code says who can mend it.
    #[error(transparent)]
    Refused(Box<WireError>),
    /// Nothing came in time. What was asked for may have been done all the same.
    #[error("{what} within {after:?}")]
    Timeout {
        /// What did not happen.
        what: &'static str,
        /// How long was waited for it, in all.
        after: Duration,
    },
    /// There is no connection, or it does not take the request.
    #[error(transparent)]
    Connection(#[from] RequestError),
    /// The host's answer is not of this protocol: a bug, or another version.
    #[error("the host's answer makes no sense: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            _ => None,
        }
    }
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}
