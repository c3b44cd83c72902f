//! Lines of a bounded length.

use std::io::{self, BufRead};

/// The longest line that is kept whole, in bytes. More of a line is skipped.
pub const MAX_LINE: usize = 64 * 1024;

/// Reads lines, of which no more than [`MAX_LINE`] bytes are ever in memory.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    line: Vec<u8>,
    bytes: u64,
    shortened: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            bytes: 0,
            shortened: 0,
        }
    }

    /// The next line without its end, with what isn't UTF-8 replaced, or
    /// nothing at the end.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        self.line.clear();
        let mut is_shortened = false;
        let mut is_at_end = true;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                break;
            }
            is_at_end = false;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(chunk);
            let room = MAX_LINE.saturating_sub(self.line.len());
            is_shortened |= part.len() > room;
            self.line.extend(part.iter().take(room));
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.bytes = self.bytes.saturating_add(used as u64);
            if end.is_some() {
                break;
            }
        }
        self.shortened += u64::from(is_shortened);
        if is_at_end {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&self.line);
        Ok(Some(text.trim_end_matches('\r').to_owned()))
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many lines were too long to be kept whole.
    pub fn shortened(&self) -> u64 {
        self.shortened
    }
}
