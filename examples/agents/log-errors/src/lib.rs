//! Reads logs and says what went wrong in them, how often and since when.
//!
//! Lines come in through [`Reader`], which knows five formats, mixed as they
//! come, and puts Python's tracebacks together. Each error goes to [`Groups`],
//! under its message without what differs from case to case. [`Summary`] is
//! what is told in the end.
//!
//! Memory is bounded whatever the log: lines, groups and texts have limits, and
//! what was dropped for them is counted and told.

mod args;
mod fold;
mod format;
mod groups;
mod lines;
mod reader;
mod record;
mod sources;
mod summary;
mod text;

pub use args::{Args, BadUsage, USAGE};
pub use fold::fold;
pub use format::parse;
pub use groups::{Group, Groups, MAX_GROUPS};
pub use lines::{Lines, MAX_LINE};
pub use reader::Reader;
pub use record::{Format, Level, Record};
pub use sources::{MAX_FILES, Source, sources};
pub use summary::Summary;
