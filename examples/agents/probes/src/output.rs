//! Writing, slowly and fast.

use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::Duration;

const CHUNK: usize = 64 * 1024;

/// Buffered, since a host call a line would be what is measured otherwise.
pub(crate) fn lines(count: u64, prefix: &str) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(CHUNK, io::stdout().lock());
    for line in 1..=count {
        writeln!(output, "{prefix} {line}")?;
    }
    output.flush()
}

pub(crate) fn tick(count: u64, ms: u64, prefix: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in 1..=count {
        writeln!(output, "{prefix} {line}")?;
        output.flush()?;
        thread::sleep(Duration::from_millis(ms));
    }
    Ok(())
}

pub(crate) fn flood(count: u64) -> io::Result<()> {
    let chunk = [b'x'; CHUNK];
    let mut output = io::stdout().lock();
    let mut left = count;
    while left > 0 {
        let next = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        output.write_all(chunk.get(..next).unwrap_or(&chunk))?;
        left = left.saturating_sub(next as u64);
    }
    output.flush()
}

pub(crate) fn stderr(count: u64) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(CHUNK, io::stderr().lock());
    for line in 1..=count {
        writeln!(output, "error {line}")?;
    }
    output.flush()
}
