//! Errors of a kind, counted.

use std::collections::HashMap;

use crate::fold::fold;
use crate::record::{Format, Record};
use crate::text::shortened;

/// How many kinds of errors are told apart. More are counted as one.
pub const MAX_GROUPS: usize = 2_000;

/// The longest message that is kept, in bytes. With [`MAX_GROUPS`] it bounds
/// what the groups take to about 4 MiB.
const MAX_MESSAGE: usize = 500;

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// How they were written.
    pub format: Format,
    /// Their message, without what differs from case to case.
    pub message: String,
    /// How many there are.
    pub count: u64,
    /// When the first one was, if the log says so.
    pub first: Option<String>,
    /// When the last one was.
    pub last: Option<String>,
    /// The message of the first one found, whole.
    pub example: String,
}

/// All errors found, by kind.
#[derive(Debug, Default)]
pub struct Groups {
    groups: HashMap<(Format, String), Group>,
    ungrouped: u64,
}

impl Groups {
    /// Counts an error.
    pub fn add(&mut self, error: Record) {
        let message = shortened(&kind(&error), MAX_MESSAGE);
        let key = (error.format, message);
        if let Some(group) = self.groups.get_mut(&key) {
            group.count += 1;
            group.extend(error.time);
        } else if self.groups.len() < MAX_GROUPS {
            let group = Group {
                format: error.format,
                message: key.1.clone(),
                count: 1,
                first: error.time.clone(),
                last: error.time,
                example: shortened(&error.message, MAX_MESSAGE),
            };
            self.groups.insert(key, group);
        } else {
            self.ungrouped += 1;
        }
    }

    /// How many errors came when there were [`MAX_GROUPS`] kinds already.
    pub fn ungrouped(&self) -> u64 {
        self.ungrouped
    }

    /// All groups, the most frequent first.
    pub fn sorted(&self) -> Vec<&Group> {
        let mut groups: Vec<_> = self.groups.values().collect();
        groups.sort_by(|a, b| {
            (b.count, &a.first, a.format, &a.message)
                .cmp(&(a.count, &b.first, b.format, &b.message))
        });
        groups
    }
}

/// What errors of one kind have in common.
fn kind(error: &Record) -> String {
    match error.message.split_once(' ') {
        // Of an access, the status is the very thing that tells kinds apart.
        Some((status, request)) if error.format == Format::NginxAccess => {
            format!("{status} {}", fold(request))
        }
        _ => fold(&error.message),
    }
}

impl Group {
    fn extend(&mut self, time: Option<String>) {
        let Some(time) = time else {
            return;
        };
        // Times that begin with a year compare as text, whatever the order of
        // the files. Others are taken in the order of the log.
        let is_earlier = |than: &String| {
            let have_years = [&time, than].iter().all(|time| time.starts_with("20"));
            have_years && time < *than
        };
        if self.first.as_ref().is_none_or(is_earlier) {
            self.first = Some(time);
        } else if !self.last.as_ref().is_some_and(is_earlier) {
            self.last = Some(time);
        }
    }
}
