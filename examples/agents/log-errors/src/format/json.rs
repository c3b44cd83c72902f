//! One JSON object a line, with the field names of the common libraries.

use serde_json::{Map, Value};

use super::python::exception;
use crate::record::{Format, Level, Record};
use crate::text::leading_time;

type Object = Map<String, Value>;

const TIME: [&str; 5] = ["time", "timestamp", "ts", "@timestamp", "datetime"];
const LEVEL: [&str; 5] = ["level", "severity", "levelname", "lvl", "log.level"];
const MESSAGE: [&str; 4] = ["msg", "message", "event", "error"];
const EXCEPTION: [&str; 5] = ["exc", "exc_info", "exception", "traceback", "stack"];

/// Levels as numbers are those of bunyan and pino: 50 is an error, 60 is fatal.
const NUMERIC_ERROR: f64 = 50.0;

pub(super) fn parse(line: &str) -> Option<Record> {
    if !line.starts_with('{') {
        return None;
    }
    let object: Object = serde_json::from_str(line).ok()?;
    let mut message = text(&object, &MESSAGE)
        .and_then(|message| message.lines().next().map(str::to_owned))
        .unwrap_or_default();
    // Of chained exceptions the last one is what ended the work.
    let last = text(&object, &EXCEPTION)
        .and_then(|trace| trace.lines().rev().find_map(exception).map(str::to_owned));
    if let Some(last) = last {
        message = format!("{message}: {last}");
    }
    Some(Record {
        format: Format::Json,
        time: text(&object, &TIME).map(|time| match leading_time(&time) {
            Some((time, _)) => time,
            None => time,
        }),
        level: level(&object),
        message,
    })
}

fn level(object: &Object) -> Level {
    match first(object, &LEVEL) {
        Some(Value::String(name)) => Level::named(name).unwrap_or(Level::Fine),
        Some(Value::Number(number)) if number.as_f64() >= Some(NUMERIC_ERROR) => Level::Error,
        _ => Level::Fine,
    }
}

fn text(object: &Object, names: &[&str]) -> Option<String> {
    match first(object, names)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn first<'a>(object: &'a Object, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(*name))
}
