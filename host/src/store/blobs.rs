//! The bytes of components: a file for each that is whole, named by its digest,
//! and one for each upload that is under way. A file that nothing tells of is
//! removed by the next host.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use skep_protocol::Digest;

use super::{KeptComponent, KeptUpload};

#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
        Ok(Self { dir })
    }

    /// Removes what is neither a component of these nor an upload of those, and
    /// says of which components the file is gone, or has another size.
    pub(super) fn sweep(
        &self,
        whole: &[KeptComponent],
        uploads: &[KeptUpload],
    ) -> io::Result<HashSet<Digest>> {
        let parts: HashSet<_> = uploads.iter().map(|it| self.part(&it.digest)).collect();
        let mut missing: HashMap<_, _> = (whole.iter())
            .map(|it| (self.whole(&it.digest), it))
            .collect();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (path, file) = (entry.path(), entry.metadata()?);
            match missing.get(&path) {
                // What is no file is not ours, and says nothing of the bytes.
                Some(component) if !file.is_file() || component.size == file.len() => {
                    missing.remove(&path);
                }
                None if !file.is_file() || parts.contains(&path) => {}
                Some(_) | None => remove(&path),
            }
        }
        Ok(missing.into_values().map(|it| it.digest).collect())
    }

    /// Writes a whole component, and says whether its file is new. It has its name
    /// once all of it is there.
    pub(super) fn keep(&self, digest: &Digest, bytes: &[u8]) -> io::Result<bool> {
        let path = self.whole(digest);
        let mut file = tempfile::Builder::new()
            .prefix("new-")
            .tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        let is_new = !path.try_exists()?;
        file.persist(path)?;
        remove(&self.part(digest));
        Ok(is_new)
    }

    /// Reads a whole component; none if it is not what it should be.
    pub(super) fn load(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let bytes = match std::fs::read(self.whole(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Where all of them are away, none is gone.
                self.dir.metadata()?;
                return Ok(None);
            }
            read => read?,
        };
        // A power failure may have left less of it than was written.
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }

    pub(super) fn remove(&self, digest: &Digest) {
        remove(&self.whole(digest));
    }

    /// Writes a part of an upload.
    pub(super) fn write_part(&self, digest: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.part(digest))?;
        file.write_all_at(bytes, offset)
    }

    /// Reads parts of an upload; none if they are not all there.
    pub(super) fn read_parts(
        &self,
        digest: &Digest,
        parts: &[(u64, u64)],
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        let file = match File::open(self.part(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut found = Vec::with_capacity(parts.len());
        for &(offset, length) in parts {
            let mut bytes = Vec::new();
            let mut at = &file;
            io::Seek::seek(&mut at, io::SeekFrom::Start(offset))?;
            at.take(length).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != length {
                return Ok(None);
            }
            found.push(bytes);
        }
        Ok(Some(found))
    }

    pub(super) fn remove_part(&self, digest: &Digest) {
        remove(&self.part(digest));
    }

    fn whole(&self, digest: &Digest) -> PathBuf {
        self.dir.join(hex(digest))
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.part", hex(digest)))
    }
}

fn hex(digest: &Digest) -> String {
    let text = digest.to_string();
    text.trim_start_matches("sha256:").to_owned()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "the file of a component was not removed");
        }
        _ => {}
    }
}
