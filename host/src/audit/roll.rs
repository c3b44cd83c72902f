//! The file that lines are appended to, and those that were full before it:
//! `audit.jsonl`, `audit.jsonl.1`, which is the one before, and so on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::Audit as Bounds;

const NAME: &str = "audit.jsonl";

#[derive(Debug)]
pub(super) struct Roll {
    path: PathBuf,
    bounds: Bounds,
    /// None after a failure: it is then opened anew.
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
}

impl Roll {
    pub(super) fn open(dir: &Path, bounds: Bounds) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(NAME);
        let current = Some(Current::open(&path)?);
        Ok(Self {
            path,
            bounds,
            current,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines and removes them from the buffer. What could not be
    /// written is still in it, and not in the file.
    pub(super) fn append(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        while !lines.is_empty() {
            let mut current = match self.current.take().filter(|file| file.is_at(&self.path)) {
                Some(current) => current,
                None => Current::open(&self.path)?,
            };
            let mut fits = current.fits(lines, self.bounds.max_bytes);
            if fits == 0 {
                drop(current);
                self.rotate()?;
                current = Current::open(&self.path)?;
                fits = current.fits(lines, self.bounds.max_bytes);
            }
            current.write(lines.get(..fits).unwrap_or_default())?;
            lines.drain(..fits);
            self.current = Some(current);
        }
        Ok(())
    }

    /// Moves every file one further; the last goes.
    fn rotate(&self) -> io::Result<()> {
        let kept = self.bounds.files - 1;
        // As many as an operator who allowed more may have left.
        let mut number = kept;
        while remove(&self.numbered(number))? {
            number += 1;
        }
        for number in (0..kept).rev() {
            match std::fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        match number {
            0 => self.path.clone(),
            number => self.path.with_file_name(format!("{NAME}.{number}")),
        }
    }
}

/// Whether there was anything.
fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        let mut current = Self { file, bytes };
        let mut last = [b'\n'];
        if let Some(end) = bytes.checked_sub(1) {
            current.file.read_exact_at(&mut last, end)?;
        }
        if last != *b"\n" {
            // A host that was killed, or a disk that was full, has left a part
            // of a line. It stays, and the next begins on its own.
            current.write(b"\n")?;
        }
        Ok(current)
    }

    /// Whether it is still the file of that name: others rotate, too.
    fn is_at(&self, path: &Path) -> bool {
        let own = self.file.metadata().map(|own| (own.dev(), own.ino()));
        let there = std::fs::metadata(path).map(|there| (there.dev(), there.ino()));
        matches!((own, there), (Ok(own), Ok(there)) if own == there)
    }

    /// How many bytes of these fit, as whole lines. A file that is empty takes
    /// one, however long it is.
    fn fits(&self, lines: &[u8], max_bytes: u64) -> usize {
        let room = usize::try_from(max_bytes.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        let Some(within) = lines.get(..room) else {
            return lines.len();
        };
        let ends = |byte: &u8| *byte == b'\n';
        match within.iter().rposition(ends) {
            Some(end) => end + 1,
            None if self.bytes > 0 => 0,
            None => (lines.iter().position(ends)).map_or(lines.len(), |end| end + 1),
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            // They are written again: twice would be as wrong as never.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }
}
