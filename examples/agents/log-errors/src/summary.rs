//! What is told in the end, to people or to programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::groups::{Group, MAX_GROUPS};
use crate::lines::MAX_LINE;
use crate::reader::Reader;
use crate::record::Format;
use crate::text::shortened;

/// How much of an example is shown to people, in bytes.
const SHOWN: usize = 160;

/// What is told in the end. As JSON its fields are those named here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many lines were read.
    pub lines: u64,
    /// How many errors were found.
    pub errors: u64,
    /// How many kinds of errors there are.
    pub kinds: usize,
    /// Errors by format.
    pub errors_by_format: BTreeMap<Format, u64>,
    /// Records by format, errors and others.
    pub records_by_format: BTreeMap<Format, u64>,
    /// The most frequent kinds.
    pub groups: Vec<Told>,
    /// How many kinds are not among them.
    pub kinds_not_told: usize,
    /// Errors that came after there were too many kinds to tell apart.
    pub errors_not_grouped: u64,
    /// Lines too long to be read whole.
    pub lines_shortened: u64,
    /// Lines in no format that is known.
    pub lines_not_known: u64,
    /// Whether the agent was asked to stop before the end.
    pub stopped_early: bool,
}

/// One kind of errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// How many there are.
    pub count: u64,
    /// How they were written.
    pub format: Format,
    /// Their message, without what differs.
    pub message: String,
    /// When the first one was.
    pub first: Option<String>,
    /// When the last one was.
    pub last: Option<String>,
    /// One message, whole.
    pub example: String,
}

impl Summary {
    /// Tells the `top` most frequent kinds of what was read.
    pub fn of(reader: &Reader, top: usize, lines_shortened: u64, stopped_early: bool) -> Self {
        let groups = reader.groups().sorted();
        Self {
            lines: reader.lines(),
            errors: reader.errors().values().sum(),
            kinds: groups.len(),
            errors_by_format: reader.errors().clone(),
            records_by_format: reader.records().clone(),
            kinds_not_told: groups.len().saturating_sub(top),
            groups: groups.into_iter().take(top).map(told).collect(),
            errors_not_grouped: reader.groups().ungrouped(),
            lines_shortened,
            lines_not_known: reader.unknown(),
            stopped_early,
        }
    }
}

fn told(group: &Group) -> Told {
    Told {
        count: group.count,
        format: group.format,
        message: group.message.clone(),
        first: group.first.clone(),
        last: group.last.clone(),
        example: group.example.clone(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, errors, kinds) = (self.lines, self.errors, self.kinds);
        writeln!(f, "{lines} lines, {errors} errors of {kinds} kinds")?;
        for (format, count) in &self.errors_by_format {
            writeln!(f, "{count:>7}  {}", format.name())?;
        }
        for told in &self.groups {
            write!(f, "\n{told}")?;
        }
        self.left_out(f)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>7}  {}: {}",
            self.count,
            self.format.name(),
            self.message
        )?;
        match (&self.first, &self.last) {
            (Some(first), Some(last)) if first != last => {
                writeln!(f, "         {first} to {last}")?;
            }
            (Some(time), _) | (None, Some(time)) => writeln!(f, "         {time}")?,
            (None, None) => {}
        }
        if self.example != self.message {
            writeln!(f, "         e.g. {}", shortened(&self.example, SHOWN))?;
        }
        Ok(())
    }
}

impl Summary {
    fn left_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes = Vec::new();
        if self.kinds_not_told > 0 {
            notes.push(format!("{} more kinds, see --top", self.kinds_not_told));
        }
        if self.errors_not_grouped > 0 {
            notes.push(format!(
                "{} errors of other kinds than the first {MAX_GROUPS}, not told apart",
                self.errors_not_grouped
            ));
        }
        if self.lines_shortened > 0 {
            notes.push(format!(
                "{} lines of more than {MAX_LINE} bytes, read in part",
                self.lines_shortened
            ));
        }
        if self.lines_not_known > 0 {
            notes.push(format!("{} lines in no known format", self.lines_not_known));
        }
        if self.stopped_early {
            notes.push("stopped before the end of the log".to_owned());
        }
        if !notes.is_empty() {
            writeln!(f)?;
        }
        notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
