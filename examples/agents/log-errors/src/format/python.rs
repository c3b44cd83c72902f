//! Python's `logging` in its usual layouts, and the end of a traceback.

use crate::record::{Format, Level, Record};
use crate::text::leading_time;

/// How many words after the time may come before the level.
const WORDS_BEFORE_LEVEL: usize = 4;

/// `2026-11-21 04:47:50,814 ERROR app.orders: message`,
/// `2026-11-21 04:47:50,814 - app.orders - ERROR - message`,
/// `[2026-11-21 04:47:50] [ERROR] message`, or `ERROR:app.orders:message`.
pub(super) fn parse(line: &str) -> Option<Record> {
    match leading_time(line.trim_start_matches('[')) {
        Some((time, rest)) => with_time(time, rest),
        None => without_time(line),
    }
}

fn with_time(time: String, rest: &str) -> Option<Record> {
    let mut before = Vec::new();
    let mut left = rest;
    for _ in 0..WORDS_BEFORE_LEVEL {
        left = left.trim_start_matches(is_separator);
        let end = left.find(is_separator).unwrap_or(left.len());
        let (word, after) = left.split_at_checked(end)?;
        if let Some(level) = Level::named(word) {
            before.push(after.trim_start_matches(is_separator));
            return Some(Record {
                format: Format::Python,
                time: Some(time),
                level,
                message: before.join(": "),
            });
        }
        before.push(word);
        left = after;
    }
    None
}

fn without_time(line: &str) -> Option<Record> {
    let (level, rest) = line.split_once(':')?;
    let (logger, message) = rest.split_once(':')?;
    // In capitals only: `error:` begins many a line that is no record.
    if level.bytes().any(|byte| !byte.is_ascii_uppercase()) || logger.contains(' ') {
        return None;
    }
    Some(Record {
        format: Format::Python,
        time: None,
        level: Level::named(level)?,
        message: format!("{logger}: {message}"),
    })
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '[' | ']' | ':' | '|')
}

/// The line that ends a traceback, `package.SomeError: message`, if this is one.
pub(crate) fn exception(line: &str) -> Option<&str> {
    let name = line.split(": ").next()?.trim_end_matches(':');
    let is_path = |name: &str| {
        name.split('.').all(|part| {
            let mut characters = part.chars();
            characters
                .next()
                .is_some_and(|c| c.is_alphabetic() || c == '_')
                && characters.all(|c| c.is_alphanumeric() || c == '_')
        })
    };
    is_path(name).then(|| line.trim_end())
}
