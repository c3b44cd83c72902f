//! `Nov 21 04:47:50 host tag[pid]: message`, as in RFC 3164, with or without
//! the priority in front, or the same with a time in ISO 8601.

use crate::record::{Format, Level, Record};
use crate::text::{after, leading_time, month};

/// Severities up to this one are `err`, `crit`, `alert` and `emerg`.
const SEVERITY_ERROR: u16 = 3;

/// What tells an error in files, where the priority isn't kept.
const WORDS: [&str; 9] = [
    "error", "errors", "failed", "failure", "fatal", "panic", "critical", "segfault", "denied",
];

pub(super) fn parse(line: &str) -> Option<Record> {
    let (severity, rest) = priority(line);
    let (time, rest) = old_time(rest).or_else(|| iso_time(rest))?;
    let (_host, content) = rest.split_once(' ')?;
    let message = match content.split_once(": ") {
        Some((tag, message)) if !tag.contains(' ') => {
            let program = tag.split('[').next().unwrap_or(tag);
            format!("{program}: {message}")
        }
        _ => content.to_owned(),
    };
    let is_error = match severity {
        Some(severity) => severity <= SEVERITY_ERROR,
        None => tells_an_error(&message),
    };
    Some(Record {
        format: Format::Syslog,
        time: Some(time),
        level: if is_error { Level::Error } else { Level::Fine },
        message,
    })
}

fn old_time(line: &str) -> Option<(String, &str)> {
    month(line.get(..3)?)?;
    // A day of one digit is padded with a space.
    let rest = [" 99 99:99:99 ", "  9 99:99:99 "]
        .iter()
        .find_map(|pattern| after(line.get(3..)?, pattern))?;
    let time = line.get(..line.len() - rest.len())?.trim_end();
    Some((time.to_owned(), rest))
}

/// Newer daemons write ISO 8601. So do many programs for themselves: a host and
/// a tag with a process in brackets tell the difference.
fn iso_time(line: &str) -> Option<(String, &str)> {
    after(line, "9999-99-99T")?;
    let (time, rest) = leading_time(line)?;
    let rest = rest.strip_prefix(' ')?;
    let (_host, content) = rest.split_once(' ')?;
    let (tag, _) = content.split_once(": ")?;
    let is_tag = !tag.contains(' ') && (tag.ends_with(']') || tag == "kernel");
    (is_tag && !tag.starts_with('[')).then_some((time, rest))
}

/// The severity of a leading `<34>`, and what comes after it.
fn priority(line: &str) -> (Option<u16>, &str) {
    let parts = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match parts.map(|(number, rest)| (number.parse::<u16>(), rest)) {
        Some((Ok(number), rest)) => (Some(number % 8), rest),
        _ => (None, line),
    }
}

fn tells_an_error(message: &str) -> bool {
    message
        .split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)))
}
