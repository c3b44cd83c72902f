//! Compiled components on disk, so that a host that starts anew, or `skep run`,
//! compiles nothing that was compiled before. Hosts of one user share it.
//!
//! What lies there is run as it is: whoever can write there can run code as
//! this user. The directory's mode is the boundary, and it is not used if
//! others may write to it. The digest in each entry finds damage, not forgery.
//!
//! Each entry is one file: [`MAGIC`], the SHA-256 of all that follows, the
//! length of the [`Label`], the label, and the code. It is written aside and
//! renamed, so nobody ever sees half of one, and two that compile the same at
//! once write the same.
//!
//! Costs: nothing for a component that is known in memory. Else one file is
//! read and hashed; what is new is written, and the directory is looked
//! through.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt};
use nix::libc;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use skep_protocol::Digest;

use super::inspect::{Edition, Facts};

const MAGIC: &[u8; 8] = b"skepaot1";

/// What wrote the entry.
const WRITER: &str = env!("CARGO_PKG_VERSION");

/// The largest entry that is read. What is compiled is bounded by less.
const MAX_ENTRY: u64 = 1024 * 1024 * 1024;

/// So that looking through the directory takes milliseconds, however small
/// entries are.
const MAX_ENTRIES: usize = 10_000;

/// A file that was written aside and never renamed is dead after this.
const DEAD_AFTER: Duration = Duration::from_secs(3600);

/// What an entry says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Label {
    writer: String,
    component: Digest,
    engine: u64,
    facts: Facts,
}

/// The entries for one engine.
#[derive(Debug)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    dir: OnceLock<Option<Dir>>,
    engine: u64,
    bound: u64,
}

impl Cache {
    /// Nothing is touched before it is needed. Without a path there is none.
    pub(super) fn new(path: Option<PathBuf>, engine: u64, bound: u64) -> Self {
        Self {
            path,
            dir: OnceLock::new(),
            engine,
            bound,
        }
    }

    /// The facts and the code of a component. What is damaged or another's is
    /// told to the log and left to be replaced.
    pub(super) fn get(&self, component: &Digest) -> Option<(Facts, Bytes)> {
        let dir = self.dir()?;
        let name = self.name(component);
        match self.read(dir, &name, component) {
            Ok(found) => Some(found),
            Err(Unread::Absent) => None,
            Err(Unread::Unfit(problem)) => {
                tracing::warn!(entry = %name, problem, "a cached component is compiled again");
                None
            }
        }
    }

    /// Keeps a component, and lets go of those used longest ago.
    pub(super) fn put(&self, component: &Digest, facts: &Facts, code: &[u8]) {
        let Some(dir) = self.dir() else { return };
        let kept = self
            .write(dir, component, facts, code)
            .and_then(|()| self.make_room(dir));
        if let Err(error) = kept {
            // The next one may find room again.
            tracing::warn!(%error, "a compiled component is not kept on disk");
        }
    }

    fn dir(&self) -> Option<&Dir> {
        let opened = self.dir.get_or_init(|| {
            let path = self.path.as_deref()?;
            open(path)
                .map_err(|problem| {
                    let path = path.display();
                    tracing::warn!(%path, problem, "components are compiled at each start: there is no cache");
                })
                .ok()
        });
        opened.as_ref()
    }

    fn name(&self, component: &Digest) -> String {
        let mut hash = Sha256::new();
        hash.update(WRITER);
        hash.update(Edition::CURRENT.number().to_le_bytes());
        hash.update(self.engine.to_le_bytes());
        hash.update(component.to_string());
        let name: String = (hash.finalize().iter().take(16))
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{name}.aot")
    }

    fn read(&self, dir: &Dir, name: &str, component: &Digest) -> Result<(Facts, Bytes), Unread> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            // Whatever lies there instead of a file must not hold us up.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = dir.open_with(name, &options)?.into_std();
        let about = file.metadata()?;
        if !about.is_file() || !is_ours(about.uid(), about.mode()) {
            return Err(Unread::Unfit("it is not a file of this user's alone"));
        }
        if about.len() > MAX_ENTRY {
            return Err(Unread::Unfit("it is too large"));
        }
        let mut entry = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
        (&mut file).take(MAX_ENTRY).read_to_end(&mut entry)?;
        let found = self.open_entry(Bytes::from(entry), component)?;
        // Those used longest ago go first.
        let _refused = file.set_modified(SystemTime::now());
        Ok(found)
    }

    fn open_entry(&self, entry: Bytes, component: &Digest) -> Result<(Facts, Bytes), Unread> {
        let damaged = Unread::Unfit("it is damaged");
        let whole = (entry.strip_prefix(MAGIC))
            .and_then(|entry| entry.split_first_chunk::<32>())
            .filter(|(sum, rest)| Sha256::digest(rest).as_slice() == sum.as_slice());
        let Some((_, rest)) = whole else {
            return Err(damaged);
        };
        let Some((label, code)) = super::outside::decode::<Label>(rest) else {
            return Err(damaged);
        };
        if label.writer != WRITER
            || !label.facts.is_current()
            || label.engine != self.engine
            || label.component != *component
        {
            return Err(Unread::Unfit("it is another component's or engine's"));
        }
        Ok((label.facts, entry.slice_ref(code)))
    }

    fn write(
        &self,
        dir: &Dir,
        component: &Digest,
        facts: &Facts,
        code: &[u8],
    ) -> std::io::Result<()> {
        let label = super::outside::encode(&Label {
            writer: WRITER.to_owned(),
            component: *component,
            engine: self.engine,
            facts: facts.clone(),
        });
        let label = label.ok_or_else(|| std::io::Error::other("its imports are too many"))?;
        let mut sum = Sha256::new();
        sum.update(&label);
        sum.update(code);
        let aside = format!("{}.new", uuid::Uuid::new_v4().simple());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = dir.open_with(&aside, &options)?.into_std();
        let written = file
            .write_all(MAGIC)
            .and_then(|()| file.write_all(&sum.finalize()))
            .and_then(|()| file.write_all(&label))
            .and_then(|()| file.write_all(code))
            .and_then(|()| dir.rename(&aside, dir, self.name(component)));
        if written.is_err() {
            let _gone = dir.remove_file(&aside);
        }
        written
    }

    /// Two that do this at once may let go of more than they must.
    fn make_room(&self, dir: &Dir) -> std::io::Result<()> {
        let now = SystemTime::now();
        let mut entries = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            // Another may have removed it.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let used = about
                .modified()
                .map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std);
            match Path::new(&name)
                .extension()
                .and_then(std::ffi::OsStr::to_str)
            {
                Some("aot") => entries.push((used, about.len(), name)),
                Some("new") if now.duration_since(used).is_ok_and(|age| age > DEAD_AFTER) => {
                    let _gone = dir.remove_file(&name);
                }
                _ => {}
            }
        }
        entries.sort_unstable();
        let mut bytes: u64 = entries.iter().map(|(_, size, _)| size).sum();
        let mut count = entries.len();
        for (_, size, name) in entries {
            if bytes <= self.bound && count <= MAX_ENTRIES {
                break;
            }
            let _gone = dir.remove_file(&name);
            bytes -= size;
            count -= 1;
        }
        Ok(())
    }
}

enum Unread {
    Absent,
    Unfit(&'static str),
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound {
            Self::Absent
        } else {
            Self::Unfit("it cannot be read")
        }
    }
}

/// The directory, made if need be. It is looked at once it is open, and used
/// through that handle: what happens to its path later does not matter.
fn open(path: &Path) -> Result<Dir, String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| format!("it cannot be made: {error}"))?;
    let dir = Dir::open_ambient_dir(path, ambient_authority())
        .map_err(|error| format!("it cannot be opened: {error}"))?;
    let about = dir
        .dir_metadata()
        .map_err(|error| format!("it cannot be looked at: {error}"))?;
    if !is_ours(about.uid(), about.mode()) {
        return Err(format!(
            "it is another user's, or others may write to it (mode {:o}): what lies there is run, \
             so make it yours alone (chmod 700) or name another with server.cache_dir",
            about.mode() & 0o7777
        ));
    }
    Ok(dir)
}

/// Whether nobody but this user can have written it.
fn is_ours(owner: u32, mode: u32) -> bool {
    owner == nix::unistd::geteuid().as_raw() && mode & 0o022 == 0
}

#[cfg(test)]
mod tests;
