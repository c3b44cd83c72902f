//! Recognises a line. Each format says for itself whether a line is its own;
//! the stricter ones are asked first.

mod json;
mod nginx;
mod python;
mod syslog;

use crate::record::Record;

pub(crate) use python::exception;

/// What a line says, if it begins a record in a format that is known.
pub fn parse(line: &str) -> Option<Record> {
    json::parse(line)
        .or_else(|| nginx::parse_error(line))
        .or_else(|| nginx::parse_access(line))
        .or_else(|| syslog::parse(line))
        .or_else(|| python::parse(line))
}
