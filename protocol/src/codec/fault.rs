//! Why a value could not be decoded, and in which field.

use std::fmt::{self, Write as _};

use serde::de::{self, Unexpected};

use super::scan::{Head, Malformed};

/// Why a value could not be decoded, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldError {
    /// Innermost first.
    path: Vec<Step>,
    why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The most characters of a key or a text that an error repeats: it must not
/// send megabytes back, or to a log.
const SHOWN: usize = 64;

/// What an error shows of a text that a peer made up.
pub(super) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars
        .by_ref()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

impl FieldError {
    pub(super) fn because(why: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            why: why.into(),
        }
    }

    pub(super) fn found(head: Head<'_>, expected: &str) -> Self {
        Self::because(format!("expected {expected}, found {}", kind_of(head)))
    }

    pub(super) fn within(mut self, key: &str) -> Self {
        self.path.push(Step::Key(shown(key)));
        self
    }

    pub(super) fn at(mut self, index: usize) -> Self {
        self.path.push(Step::Index(index));
        self
    }

    /// The field, `spec.grants.dirs[0].host`; empty for the whole value.
    pub(super) fn field(&self) -> String {
        let mut field = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Key(key) if field.is_empty() => field.push_str(key),
                Step::Key(key) => {
                    field.push('.');
                    field.push_str(key);
                }
                Step::Index(index) => {
                    let _ = write!(field, "[{index}]");
                }
            }
        }
        field
    }

    /// Whether it names no field yet.
    pub(super) fn is_nowhere(&self) -> bool {
        self.path.is_empty()
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.why)
        } else {
            write!(f, "`{}`: {}", self.field(), self.why)
        }
    }
}

impl std::error::Error for FieldError {}

impl From<Malformed> for FieldError {
    fn from(Malformed(why): Malformed) -> Self {
        Self::because(why)
    }
}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::because(Short::of(&message))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::because(format!("expected {expected}, found {}", describe(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::because(format!(
            "expected one of {}, found `{}`",
            expected.join(", "),
            shown(variant)
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let why = if expected.is_empty() {
            "there is no such field, and none is expected here".to_owned()
        } else {
            format!("there is no such field; there are {}", expected.join(", "))
        };
        Self::because(why).within(field)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::because("it is missing").within(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::because(TWICE).within(field)
    }
}

pub(super) const TWICE: &str = "it is there more than once";

/// A text that stops growing.
#[derive(Debug, Default)]
struct Short(String);

impl Short {
    const MAX: usize = 256;

    fn of(message: &impl fmt::Display) -> String {
        let mut short = Self::default();
        let _ = write!(short, "{message}");
        short.0
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Self::MAX.saturating_sub(self.0.len());
        self.0.extend(text.chars().take(room));
        Ok(())
    }
}

const fn kind_of(head: Head<'_>) -> &'static str {
    match head {
        Head::Nil => "nil",
        Head::Bool(_) => "a boolean",
        Head::Unsigned(_) => "an integer",
        Head::Signed(_) => "a negative integer",
        Head::Float(_) => "a float",
        Head::Str(_) => "a string",
        Head::Bin(_) => "bytes",
        Head::Array(_) => "an array",
        Head::Map(_) => "a map",
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(_) => "a boolean".to_owned(),
        Unexpected::Unsigned(number) => format!("the integer {number}"),
        Unexpected::Signed(number) => format!("the integer {number}"),
        Unexpected::Float(number) => format!("the float {number}"),
        Unexpected::Str(_) => "a string".to_owned(),
        Unexpected::Bytes(_) => "bytes".to_owned(),
        Unexpected::Unit | Unexpected::Option => "nil".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => Short::of(&other),
    }
}
