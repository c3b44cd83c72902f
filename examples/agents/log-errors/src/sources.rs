//! What there is to read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most files that are read.
pub const MAX_FILES: usize = 10_000;

/// Something to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file, and its size in bytes when it was looked at.
    File(PathBuf, u64),
}

/// What the paths of a command line stand for: files as they are, and all files
/// below directories in the order of their names. `-` is stdin.
pub fn sources(paths: &[String]) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in paths {
        if path == "-" {
            found.push(Source::Stdin);
        } else {
            add(Path::new(path), &mut found)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        }
    }
    Ok(found)
}

fn add(path: &Path, found: &mut Vec<Source>) -> io::Result<()> {
    let mut open = vec![path.to_path_buf()];
    while let Some(path) = open.pop() {
        let about = fs::metadata(&path)?;
        if !about.is_dir() {
            if found.len() >= MAX_FILES {
                let what = format!("more than {MAX_FILES} files");
                return Err(io::Error::other(what));
            }
            found.push(Source::File(path, about.len()));
            continue;
        }
        let mut below = Vec::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            // Links are not followed: they may lead in circles.
            if !entry.file_type()?.is_symlink() {
                below.push(entry.path());
            }
        }
        below.sort();
        // What is pushed last is taken first.
        open.extend(below.into_iter().rev());
    }
    Ok(())
}
