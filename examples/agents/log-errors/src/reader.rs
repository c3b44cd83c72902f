//! Puts records together from lines, and passes the errors on.

use std::collections::BTreeMap;

use crate::format::{exception, parse};
use crate::groups::Groups;
use crate::record::{Format, Level, Record};

const TRACEBACK: &str = "Traceback (most recent call last):";

/// What stands between two tracebacks that are one error.
const CHAINS: [&str; 2] = [
    "The above exception was the direct cause",
    "During handling of the above exception",
];

/// Takes the lines of a log in order.
///
/// A record may go on over several lines, of which only a traceback's last one
/// matters. So a record waits until the next one begins, and no more than its
/// first line and its exception is in memory.
#[derive(Debug, Default)]
pub struct Reader {
    groups: Groups,
    waiting: Option<Waiting>,
    last_time: Option<String>,
    lines: u64,
    unknown: u64,
    records: BTreeMap<Format, u64>,
    errors: BTreeMap<Format, u64>,
}

/// A record that may not be complete yet.
#[derive(Debug)]
struct Waiting {
    record: Record,
    exception: Option<String>,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The record's own first lines.
    Record,
    /// Within a traceback, before the exception.
    Traceback,
    /// After the exception.
    Exception,
    /// Another traceback of the same error follows.
    Chain,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        self.lines += 1;
        if let Some(record) = parse(line) {
            self.begin(record);
        } else if line
            .trim_start_matches([' ', '+', '|'])
            .starts_with(TRACEBACK)
        {
            self.traceback();
        } else if !self.go_on(line) && !line.trim().is_empty() {
            self.unknown += 1;
        }
    }

    /// Says that a log is at its end: what comes next belongs to another.
    pub fn end(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.finish(waiting);
        }
        self.last_time = None;
    }

    /// The errors found up to now, all but the one that may go on.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// How many of them were in no format that is known.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// How many records there were, by format.
    pub fn records(&self) -> &BTreeMap<Format, u64> {
        &self.records
    }

    /// How many of them were errors, by format.
    pub fn errors(&self) -> &BTreeMap<Format, u64> {
        &self.errors
    }

    fn begin(&mut self, record: Record) {
        if let Some(waiting) = self.waiting.take() {
            self.finish(waiting);
        }
        if record.time.is_some() {
            self.last_time.clone_from(&record.time);
        }
        self.waiting = Some(Waiting {
            record,
            exception: None,
            part: Part::Record,
        });
    }

    fn traceback(&mut self) {
        let is_part = self.waiting.as_ref().is_some_and(|waiting| {
            waiting.part == Part::Chain
                || (waiting.part == Part::Record && waiting.record.format == Format::Python)
        });
        if !is_part {
            // Nobody announced it, so the record before it tells the time.
            let time = self.last_time.clone();
            self.begin(Record {
                format: Format::Traceback,
                time,
                level: Level::Error,
                message: String::new(),
            });
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.part = Part::Traceback;
        }
    }

    /// Whether a line that begins nothing belongs to the waiting record.
    fn go_on(&mut self, line: &str) -> bool {
        let Some(waiting) = &mut self.waiting else {
            return false;
        };
        match waiting.part {
            Part::Traceback if !line.starts_with(char::is_whitespace) => {
                if let Some(exception) = exception(line) {
                    waiting.exception = Some(exception.to_owned());
                    waiting.part = Part::Exception;
                }
                true
            }
            Part::Traceback | Part::Chain => true,
            Part::Exception if CHAINS.iter().any(|chain| line.starts_with(chain)) => {
                waiting.part = Part::Chain;
                true
            }
            // The rest of an exception's or a record's text of many lines.
            Part::Exception => true,
            Part::Record => waiting.record.format == Format::Python,
        }
    }

    fn finish(&mut self, waiting: Waiting) {
        let Waiting {
            mut record,
            exception,
            ..
        } = waiting;
        *self.records.entry(record.format).or_default() += 1;
        if record.level == Level::Fine {
            return;
        }
        match exception {
            Some(exception) if record.message.is_empty() => record.message = exception,
            Some(exception) => record.message = format!("{}: {exception}", record.message),
            None if record.message.is_empty() => record.message = TRACEBACK.to_owned(),
            None => {}
        }
        *self.errors.entry(record.format).or_default() += 1;
        self.groups.add(record);
    }
}
