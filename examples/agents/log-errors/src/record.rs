//! What a line of a log says.

use serde::Serialize;

/// The kinds of lines that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `Nov 21 04:47:50 host tag[pid]: message`, as in RFC 3164.
    Syslog,
    /// nginx's combined format, which is also that of Apache.
    NginxAccess,
    /// nginx's error log.
    NginxError,
    /// One JSON object a line.
    Json,
    /// Python's `logging`, and others with a time and a level in front.
    Python,
    /// A traceback that no record announced.
    Traceback,
}

impl Format {
    /// As it is told to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syslog => "syslog",
            Self::NginxAccess => "nginx access",
            Self::NginxError => "nginx error",
            Self::Json => "json",
            Self::Python => "python",
            Self::Traceback => "traceback",
        }
    }
}

/// Whether a record tells of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Anything below an error, warnings included.
    Fine,
    /// An error, or worse.
    Error,
}

/// What one line of a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How it was written.
    pub format: Format,
    /// When, as `2026-11-21 04:47:50` where the line says as much.
    pub time: Option<String>,
    /// Whether it tells of an error.
    pub level: Level,
    /// What it tells.
    pub message: String,
}

impl Level {
    /// Reads the level's name, of any of the usual systems.
    pub fn named(name: &str) -> Option<Self> {
        const FINE: [&str; 8] = [
            "trace",
            "debug",
            "info",
            "notice",
            "warn",
            "warning",
            "information",
            "verbose",
        ];
        const ERROR: [&str; 9] = [
            "error", "err", "critical", "crit", "fatal", "alert", "emerg", "panic", "severe",
        ];
        let is = |level: &&str| level.eq_ignore_ascii_case(name);
        if FINE.iter().any(is) {
            Some(Self::Fine)
        } else if ERROR.iter().any(is) {
            Some(Self::Error)
        } else {
            None
        }
    }
}
