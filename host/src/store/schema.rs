//! The file: how it is opened, brought up to date, and set aside where it is
//! damaged.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::OpenError;
use crate::clock;

pub(super) const FILE: &str = "state.db";

/// What lies beside the file while it is used.
const BESIDE: [&str; 3] = ["", "-wal", "-shm"];

/// What else is told of by the file only, and set aside with it: a host removes
/// what lies there of agents that it does not know.
const TOLD_OF: [&str; 3] = ["logs", "scratch", "components"];

/// Each brings a file from the version of its place to the next. What was
/// released is never changed: a new version is a new entry.
pub(super) const MIGRATIONS: [&str; 2] =
    [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// The version that this build writes.
pub(super) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// How large the write-ahead log becomes before it goes to the file: each time
/// waits for the disk.
const WAL_PAGES: u32 = 4096;

/// In which mode of `auto_vacuum` what is free goes back when it is asked for.
pub(super) const INCREMENTAL: i64 = 2;

/// What is erased is overwritten where that page is written anyway.
pub(super) const FAST: &str = "fast";

/// The file, and the log of what goes to it.
pub(super) fn files(dir: &Path) -> [PathBuf; 2] {
    ["", "-wal"].map(|beside| dir.join(format!("{FILE}{beside}")))
}

/// Another connection to the file, which only reads.
pub(super) fn open_reader(dir: &Path) -> Result<Connection, OpenError> {
    let path = dir.join(FILE);
    let db = connect(&path).and_then(|db| {
        db.pragma_update(None, "query_only", true)?;
        Ok(db)
    });
    db.map_err(|error| failed(&path, error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// Opens the file for the one who writes.
pub(super) fn open(dir: &Path) -> Result<Connection, OpenError> {
    let path = &dir.join(FILE);
    // SQLite would make it for others to read; what lies beside it is as open as
    // it is itself.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|error| OpenError::Io {
        path: path.to_owned(),
        error,
    })?;
    let mut db = connect(path).map_err(|error| failed(path, error))?;
    // There is no other writer to wait for; if there is, it is tried again.
    db.busy_timeout(Duration::ZERO)
        .map_err(|error| failed(path, error))?;
    prepare(&mut db, path).map_err(|error| match error {
        PrepareError::Sql(error) => failed(path, error),
        PrepareError::Open(error) => error,
    })?;
    Ok(db)
}

enum PrepareError {
    Sql(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for PrepareError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn prepare(db: &mut Connection, path: &Path) -> Result<(), PrepareError> {
    let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        // Also where a few pages are left of what was in a write-ahead log.
        let dir = path.parent().unwrap_or(path);
        if let Some(orphaned) = TOLD_OF.iter().find(|name| holds_something(&dir.join(name))) {
            let path = path.to_owned();
            let found = format!("it is empty, and `{orphaned}` beside it is not");
            return Err(PrepareError::Open(OpenError::Damaged { path, found }));
        }
    }
    if pages == 0 {
        // Later it would take writing all of it anew: in a file that was begun
        // without, pages that are free are used again, and stay.
        db.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    }
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "secure_delete", FAST)?;
    // What was committed survives the host, however it ends, and in its order
    // the machine: only a power failure may take back the last moments.
    db.pragma_update(None, "synchronous", "normal")?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    db.pragma_update(None, "journal_size_limit", WAL_PAGES * 4096)?;
    // It reads the whole file, less than a second for a hundred thousand agents:
    // damage that is found only later would fail every write from then on.
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        let path = path.to_owned();
        return Err(PrepareError::Open(OpenError::Damaged { path, found }));
    }
    if version > NEWEST {
        let path = path.to_owned();
        return Err(PrepareError::Open(OpenError::Newer {
            path,
            version,
            newest: NEWEST,
        }));
    }
    for (to, migration) in (1..).zip(MIGRATIONS).filter(|(to, _)| *to > version) {
        let migrating = db.transaction()?;
        migrating.execute_batch(migration)?;
        migrating.pragma_update(None, "user_version", to)?;
        migrating.commit()?;
    }
    Ok(())
}

fn holds_something(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

pub(super) fn failed(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    if is_damage(&error) {
        let found = error.to_string();
        return OpenError::Damaged { path, found };
    }
    OpenError::Sql { path, error }
}

/// Whether the file is not what SQLite has written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Moves the file out of the way, with what only it tells of: without it nobody
/// would know whose logs these are.
pub(super) fn set_aside(dir: &Path) -> Result<PathBuf, OpenError> {
    let mark = format!(".corrupt-{}", clock::now_ms());
    let rename = |from: PathBuf, to: PathBuf| match std::fs::rename(&from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(OpenError::Io { path: from, error })
        }
        _ => Ok(()),
    };
    // The file last: a host that dies in between leaves one that is damaged, and
    // not a new one that tells of nothing.
    for told_of in TOLD_OF {
        rename(dir.join(told_of), dir.join(format!("{told_of}{mark}")))?;
    }
    for beside in BESIDE {
        rename(
            dir.join(format!("{FILE}{beside}")),
            dir.join(format!("{FILE}{mark}{beside}")),
        )?;
    }
    Ok(dir.join(format!("{FILE}{mark}")))
}
