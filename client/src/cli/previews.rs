//! Previews of results, saved as files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use skep_client::protocol::AgentName;
use skep_client::protocol::event::Preview;
use tempfile::NamedTempFile;

use super::args::PreviewArgs;
use super::failure::Failure;

/// How many previews one command saves, and how many of their bytes: an agent
/// may send ten a second for as long as it runs. Later ones are not saved, which
/// is told once.
const MAX_FILES: u64 = 1000;
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How many numbers may be taken by files of earlier runs.
const MAX_TAKEN: u64 = 100_000;

/// What is understood, by its media type; all else is `bin`.
const EXTENSIONS: [(&str, &str); 17] = [
    ("application/json", "json"),
    ("application/pdf", "pdf"),
    ("application/xml", "xml"),
    ("audio/mpeg", "mp3"),
    ("audio/wav", "wav"),
    ("image/avif", "avif"),
    ("image/gif", "gif"),
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/svg+xml", "svg"),
    ("image/webp", "webp"),
    ("text/css", "css"),
    ("text/csv", "csv"),
    ("text/html", "html"),
    ("text/markdown", "md"),
    ("text/plain", "txt"),
    ("video/mp4", "mp4"),
];

/// The directory, and what was saved so far.
#[derive(Debug)]
pub(super) struct Previews {
    dir: PathBuf,
    next: u64,
    files: u64,
    bytes: u64,
    over: bool,
    last: Option<Preview>,
}

impl Previews {
    /// Makes the directory if there is none.
    pub(super) fn new(args: &PreviewArgs) -> Result<Option<Self>, Failure> {
        let Some(dir) = args.preview_dir.clone() else {
            return Ok(None);
        };
        std::fs::create_dir_all(&dir).map_err(|error| {
            Failure::of_skep(format!("--preview-dir {}: {error}", dir.display()))
        })?;
        Ok(Some(Self {
            dir,
            next: 1,
            files: 0,
            bytes: 0,
            over: false,
            last: None,
        }))
    }

    /// Saves a preview, unless it is the same as the one before, which agents
    /// repeat with each report; says what a person should know of it.
    pub(super) fn save(&mut self, name: &AgentName, preview: &Preview) -> Option<String> {
        if self.over || self.last.as_ref() == Some(preview) {
            return None;
        }
        self.last = Some(preview.clone());
        let bytes = self.bytes.saturating_add(preview.data.len() as u64);
        let problem = if self.files >= MAX_FILES || bytes > MAX_BYTES {
            format!("this command has saved {MAX_FILES} or 256 MiB, which is the most")
        } else {
            match self.write(name, preview) {
                Ok(()) => {
                    self.files += 1;
                    self.bytes = bytes;
                    return None;
                }
                Err(error) => format!("{}: {error}", self.dir.display()),
            }
        };
        self.over = true;
        Some(format!("further previews are not saved: {problem}"))
    }

    /// Whole or not at all, and never over a file or through a link that is there.
    fn write(&mut self, name: &AgentName, preview: &Preview) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.dir)?;
        file.write_all(&preview.data)?;
        for _ in 0..MAX_TAKEN {
            let path = path(&self.dir, name, self.next, &preview.mime);
            self.next += 1;
            match file.persist_noclobber(path) {
                Ok(_) => return Ok(()),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                    file = error.file;
                }
                Err(error) => return Err(error.error),
            }
        }
        Err(io::Error::other("too many files of earlier previews"))
    }
}

/// A name has nothing in it that could lead out of the directory; of the media
/// type only what is in the table is taken.
fn path(dir: &Path, name: &AgentName, number: u64, mime: &str) -> PathBuf {
    let essence = mime.split(';').next().unwrap_or_default().trim();
    let extension = EXTENSIONS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(essence))
        .map_or("bin", |(_, extension)| extension);
    dir.join(format!("{name}-{number}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview(mime: &str, data: &[u8]) -> Preview {
        Preview {
            mime: mime.to_owned(),
            data: data.to_vec().into(),
        }
    }

    fn into(dir: &Path) -> Previews {
        let preview_dir = Some(dir.to_owned());
        Previews::new(&PreviewArgs { preview_dir })
            .unwrap()
            .unwrap()
    }

    #[test]
    fn nothing_that_is_there_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let inside = dir.path().join("made/here");
        let name: AgentName = "painter".parse().unwrap();
        let mut previews = into(&inside);
        std::fs::write(inside.join("painter-1.png"), "mine").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("painter-2.bin")).unwrap();
        for mime in ["image/PNG", "../../outside", "text/plain; charset=utf-8"] {
            assert_eq!(previews.save(&name, &preview(mime, b"new")), None);
        }
        let mut names: Vec<_> = (std::fs::read_dir(&inside).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "painter-1.png",
            "painter-2.bin",
            "painter-2.png",
            "painter-3.bin",
            "painter-4.txt",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            std::fs::read(inside.join("painter-1.png")).unwrap(),
            b"mine"
        );
        assert_eq!(std::fs::read(inside.join("painter-2.png")).unwrap(), b"new");
        assert!(!outside.exists());
    }

    #[test]
    fn they_are_bounded_and_that_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let name: AgentName = "a".parse().unwrap();
        let mut previews = into(dir.path());
        previews.files = MAX_FILES - 1;
        let save = |previews: &mut Previews, data: &[u8]| {
            previews.save(&name, &preview("text/plain", data))
        };
        assert_eq!(save(&mut previews, b"x"), None);
        assert_eq!(save(&mut previews, b"x"), None, "the same is saved once");
        assert!(save(&mut previews, b"y").unwrap().contains("not saved"));
        assert_eq!(save(&mut previews, b"z"), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
