//! What commands write to stdout, where they end quietly if nobody reads, and
//! what they say on stderr.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::failure::Failure;
use super::{Outcome, logging};

/// Writes a text and a newline.
pub(super) fn line(text: &str) -> Outcome {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    line(&serde_json::to_string_pretty(value).map_err(no_json)?)
}

/// Writes one JSON document of many, on a line of its own.
pub(super) fn json_line(value: &impl Serialize) -> Outcome {
    line(&serde_json::to_string(value).map_err(no_json)?)
}

fn no_json(error: serde_json::Error) -> Failure {
    Failure::of_skep(format!("cannot be written as JSON: {error}"))
}

/// Writes bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(0)
}

/// Says something to the person. Of a stderr that takes nothing (a full disk, a
/// terminal that was closed) nobody can be told, and nothing changes by it:
/// `eprintln!` would panic.
pub(super) fn tell(text: &str) {
    // In one piece, among what others write there.
    let line = format!("skep: {text}\n");
    if !logging::took(&line) {
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Ends a line of the terminal that is open.
pub(super) fn end_line() {
    let _ = io::stderr().write_all(b"\n");
}

/// A table without borders, as wide as it needs to be.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// Writes a table.
pub(super) fn print_table(table: Table) -> Outcome {
    line(&table_lines(table).join("\n"))
}

/// The lines of a table, without the blanks that end them.
pub(super) fn table_lines(mut table: Table) -> Vec<String> {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}
