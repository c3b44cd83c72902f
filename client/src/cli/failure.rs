//! Why a command did not succeed, as it is told to the person:
//! `skep: what happened: what to do (code)`.

use std::io;
use std::path::Path;

use skep_client::ClientError;
use skep_client::protocol::{ErrorCode, WireError};

use super::{Outcome, exit, print, text};

#[derive(Debug)]
pub(super) struct Failure {
    exit: u8,
    /// Whether it is the host that does not answer, whatever it is asked.
    of_host: bool,
    /// Absent where there is nothing to say.
    message: Option<String>,
    code: Option<&'static str>,
}

impl Failure {
    /// A failure of Skep: no host, a bad flag.
    pub(super) fn of_skep(message: impl Into<String>) -> Self {
        Self {
            exit: exit::SKEP_FAILED,
            of_host: false,
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
            of_host: false,
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
                exit::SKEP_FAILED,
                format!("{path} is a directory, and a file is wanted: name one"),
            ),
            io::ErrorKind::PermissionDenied => (
                exit::SKEP_FAILED,
                format!("{path} may not be read: check its permissions"),
            ),
            _ => (exit::SKEP_FAILED, format!("{path} cannot be read: {error}")),
        };
        Self {
            exit,
            of_host: false,
            message: Some(message),
            code: None,
        }
    }

    /// The same, of a component or a program.
    pub(super) fn of_program(path: &Path, error: &io::Error) -> Self {
        let mut failure = Self::of_file(path, error);
        if failure.exit != exit::NO_SUCH_FILE {
            failure.exit = exit::CANNOT_RUN;
        }
        if error.kind() == io::ErrorKind::IsADirectory {
            let path = path.display();
            let message =
                format!("{path} is a directory: `skep build` makes components of packages");
            failure.message = Some(message);
        }
        failure
    }

    /// A directory that is not there.
    pub(super) fn of_dir(path: &Path) -> Self {
        Self::of_skep(format!(
            "there is no directory {}: check the path",
            path.display()
        ))
    }

    /// Says it, and gives the exit code.
    pub(super) fn tell(&self) -> u8 {
        if let Some(message) = &self.message {
            let code = self
                .code
                .map(|code| format!(" ({code})"))
                .unwrap_or_default();
            print::tell(&format!("{message}{code}"));
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
                let message = match advice(refusal) {
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
            of_host: matches!(
                error,
                ClientError::Timeout { .. } | ClientError::Connection(_)
            ),
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

/// What failed of several, where the others are seen to all the same.
#[derive(Debug, Default)]
pub(super) struct Failed {
    code: u8,
}

impl Failed {
    /// Says why one failed, if it did. Where the host does not answer, the others
    /// would fail too: that is an error.
    pub(super) fn note(&mut self, done: Outcome) -> Result<(), Failure> {
        let Err(failure) = done else { return Ok(()) };
        if failure.of_host {
            return Err(failure);
        }
        let code = failure.tell();
        if self.code == 0 {
            self.code = code;
        }
        Ok(())
    }

    /// The exit code of the first.
    pub(super) fn code(&self) -> u8 {
        self.code
    }
}

/// What a host's messages don't say themselves, since they know of no flags.
pub(super) fn advice(refusal: &WireError) -> Option<&'static str> {
    match refusal.code {
        // It is told which field names what is not there.
        ErrorCode::NotFound if refusal.details.field.is_some() => None,
        ErrorCode::NotFound => Some("`skep ps -a` and `skep components` list what there is"),
        ErrorCode::InvalidComponent => {
            Some("give a component or a WASI core module; `skep build` makes them")
        }
        ErrorCode::LimitTooSmall => Some("give it more with --memory or --limit"),
        _ => None,
    }
}
