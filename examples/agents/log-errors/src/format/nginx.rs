//! nginx's access and error logs.

use crate::record::{Format, Level, Record};
use crate::text::{after, leading_time, month};

/// `2026/11/21 04:47:52 [error] 15032#15032: *4 message, client: 127.0.0.1, …`
pub(super) fn parse_error(line: &str) -> Option<Record> {
    after(line, "9999/99/99 ")?;
    let (time, rest) = leading_time(line)?;
    let (level, rest) = rest.strip_prefix(" [")?.split_once("] ")?;
    let level = Level::named(level)?;
    let (process, message) = rest.split_once(": ")?;
    if !process
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'#')
    {
        return None;
    }
    // Who asked for what is another thing in each line.
    let message = message.split(", client: ").next().unwrap_or(message);
    Some(Record {
        format: Format::NginxError,
        time: Some(time),
        level,
        message: without_connection(message).to_owned(),
    })
}

fn without_connection(message: &str) -> &str {
    match message
        .strip_prefix('*')
        .and_then(|rest| rest.split_once(' '))
    {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => message,
    }
}

/// `127.0.0.1 - - [21/Nov/2026:04:47:51 +0000] "GET /path HTTP/1.1" 200 30 …`
///
/// A status of 500 or more is an error. One of 400 or more is the client's.
pub(super) fn parse_access(line: &str) -> Option<Record> {
    let (who, rest) = line.split_once(" [")?;
    if who.split(' ').count() != 3 {
        return None;
    }
    let (time, rest) = rest.split_once("] \"")?;
    let time = access_time(time)?;
    let (request, rest) = rest.split_once("\" ")?;
    let status = rest.get(..3)?;
    after(status, "999")?;
    let level = if status >= "500" {
        Level::Error
    } else {
        Level::Fine
    };
    Some(Record {
        format: Format::NginxAccess,
        time: Some(time),
        level,
        message: format!("{status} {}", without_query(request))
            .trim_end()
            .to_owned(),
    })
}

fn access_time(time: &str) -> Option<String> {
    let rest = after(time, "99/")?;
    let (day, name) = (time.get(..2)?, rest.get(..3)?);
    let rest = after(rest.get(3..)?, "/9999:99:99:99")?;
    let year_and_clock = time.get(7..time.len() - rest.len())?;
    let (year, clock) = year_and_clock.split_once(':')?;
    Some(format!("{year}-{:02}-{day} {clock}", month(name)?))
}

/// `GET /path` of `GET /path?query HTTP/1.1`.
fn without_query(request: &str) -> String {
    let mut words = request.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    format!("{method} {path}")
}
