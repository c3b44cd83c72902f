//! Why a command did not succeed, as it is told to the person:
//! `skep: what happened: what to do (code)`.

use std::io;
use std::path::Path;

use skep_client::ClientError;
use skep_client::protocol::ErrorCode;

use super::{exit, text};

#[derive(Debug)]
pub(super) struct Failure {
    exit: u8,
    /// Absent where there is nothing to say.
    message: Option<String>,
    code: Option<&'static str>,
}

impl Failure {
    /// A failure of Skep: no host, a bad flag.
    pub(super) fn of_skep(message: impl Into<String>) -> Self {
        Self {
            exit: exit::SKEP_FAILED,
            message: Some(message.into()),
            code: None,
        }
    }

    /// The same, of one of several.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.message = self.message.map(|message| format!("{what}: {message}"));
        self
    }

    /// The same, with a code of the protocol or of the client library.
    pub(super) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Whether it is of this code.
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        self.code == Some(code.as_str())
    }

    /// Nobody reads what is printed. That is no error, and nothing more is said.
    pub(super) fn quiet(exit: u8) -> Self {
        Self {
            exit,
            message: None,
            code: None,
        }
    }

    /// A file that cannot be read.
    pub(super) fn of_file(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        let (exit, message) = match error.kind() {
            io::ErrorKind::NotFound => (
                exit::NO_SUCH_FILE,
                format!("there is no file {path}: check the path"),
            ),
            io::ErrorKind::IsADirectory => (
                exit::CANNOT_RUN,
                format!("{path} is a directory: `skep build` makes components of packages"),
            ),
            io::ErrorKind::PermissionDenied => (
                exit::CANNOT_RUN,
                format!("{path} may not be read: check its permissions"),
            ),
            _ => (exit::CANNOT_RUN, format!("{path} cannot be read: {error}")),
        };
        Self {
            exit,
            message: Some(message),
            code: None,
        }
    }

    /// Says it, and gives the exit code.
    pub(super) fn tell(&self) -> u8 {
        if let Some(message) = &self.message {
            let code = self
                .code
                .map(|code| format!(" ({code})"))
                .unwrap_or_default();
            eprintln!("skep: {message}{code}");
        }
        self.exit
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = exit::of_error(&error);
        let (message, code) = match &error {
            ClientError::Refused(refusal) => {
                let told = text::clean(&refusal.message);
                let message = match advice(refusal.code) {
                    Some(advice) => format!("{told}: {advice}"),
                    None => told,
                };
                (message, Some(refusal.code.as_str()))
            }
            ClientError::Timeout { .. } => (
                format!("{error}: try again, or look whether the host is well"),
                Some("timeout"),
            ),
            ClientError::Connection(_) => (format!("{error}: look whether the host is up"), None),
            _ => (
                format!("{error}: are client and host of one version?"),
                None,
            ),
        };
        Self {
            exit,
            message: Some(message),
            code,
        }
    }
}

impl From<io::Error> for Failure {
    /// An error of writing to stdout.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::quiet(0)
        } else {
            Self::of_skep(format!("stdout cannot be written to: {error}"))
        }
    }
}

/// What a host's messages don't say themselves, since they know of no flags.
pub(super) fn advice(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::NotFound => Some("`skep ps -a` and `skep components` list what there is"),
        ErrorCode::InvalidComponent => {
            Some("give a component or a WASI core module; `skep build` makes them")
        }
        ErrorCode::LimitTooSmall => Some("give it more with --memory or --limit"),
        ErrorCode::Capacity => Some("wait until an agent ends, or stop one"),
        ErrorCode::ShuttingDown => Some("wait until the host is up again"),
        _ => None,
    }
}
