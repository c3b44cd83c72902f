//! What was found, beside what is promised.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;

use super::mib;

/// On a busy machine a time may be so many times what is promised before a run
/// fails for it; times have to be kept where that is asked for.
const BUSY: u32 = 10;

/// Whether something is as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is promised.
    Fact,
    /// It is.
    Kept,
    /// A time is over what is promised, by less than a busy machine explains.
    Late,
    /// It is not.
    Broken,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What is promised.
    pub promised: String,
    /// Whether it is kept.
    pub verdict: Verdict,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of what.
    pub of: &'static str,
    /// What it was drawn with.
    pub seed: u64,
    /// One by one.
    pub checks: Vec<Check>,
    /// How often each row of cases was tried.
    pub tries: BTreeMap<&'static str, u64>,
    /// What went wrong, in words.
    pub complaints: Vec<String>,
}

impl Report {
    pub(super) fn new(of: &'static str, seed: u64) -> Self {
        Self {
            of,
            seed,
            checks: Vec::new(),
            tries: BTreeMap::new(),
            complaints: Vec::new(),
        }
    }

    /// Whether nothing is broken and, if that matters, nothing is late.
    #[must_use]
    pub fn holds(&self, strict: bool) -> bool {
        let broken = |check: &Check| match check.verdict {
            Verdict::Fact | Verdict::Kept => false,
            Verdict::Late => strict,
            Verdict::Broken => true,
        };
        !self.checks.iter().any(broken)
    }

    fn add(&mut self, what: &str, found: String, promised: String, verdict: Verdict) {
        self.checks.push(Check {
            what: what.to_owned(),
            found,
            promised,
            verdict,
        });
    }

    pub(super) fn fact(&mut self, what: &str, found: String) {
        self.add(what, found, String::new(), Verdict::Fact);
    }

    pub(super) fn none(&mut self, what: &str, found: usize) {
        self.no_more(what, found, 0);
    }

    pub(super) fn no_more(&mut self, what: &str, found: usize, most: usize) {
        let promised = if most == 0 {
            "none".to_owned()
        } else {
            format!("at most {most}")
        };
        self.add(what, found.to_string(), promised, kept(found <= most));
    }

    pub(super) fn same(&mut self, what: &str, is: bool) {
        let found = if is { "yes" } else { "no" };
        self.add(what, found.to_owned(), "yes".to_owned(), kept(is));
    }

    pub(super) fn at_most(&mut self, what: &str, bytes: u64, most: u64) {
        self.add(what, mib(bytes), mib(most), kept(bytes <= most));
    }

    pub(super) fn within(&mut self, what: &str, found: Duration, most: Duration) {
        let verdict = if found <= most {
            Verdict::Kept
        } else if found <= most * BUSY {
            Verdict::Late
        } else {
            Verdict::Broken
        };
        self.add(what, ms(found), ms(most), verdict);
    }
}

fn kept(is: bool) -> Verdict {
    if is { Verdict::Kept } else { Verdict::Broken }
}

pub(super) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header([self.of, "found", "promised", ""]);
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Fact => "",
                Verdict::Kept => "kept",
                Verdict::Late => "late",
                Verdict::Broken => "BROKEN",
            };
            table.add_row([&check.what, &check.found, &check.promised, verdict]);
        }
        writeln!(f, "{table}")?;
        for complaint in &self.complaints {
            writeln!(f, "{complaint}")?;
        }
        let tries = self
            .tries
            .iter()
            .map(|(row, tries)| format!("{row} {tries}"));
        let tries: Vec<String> = tries.collect();
        if !tries.is_empty() {
            writeln!(f, "tries: {}", tries.join(", "))?;
        }
        write!(f, "seed: {}", self.seed)
    }
}
