//! What is seen to while nobody writes: pages that are free go back to the disk,
//! and the log before the file is emptied, which has what was erased.

use std::time::Duration;

use rusqlite::{Connection, Row};
use tokio::time::Instant;

use super::schema::INCREMENTAL;

/// What lies free in the file is the next agents'. More than so many pages, which
/// many forgotten at once leave, go back to the disk.
const SPARE_PAGES: i64 = 1024;

/// So many of them go at a time: whoever has something to write comes in between.
const VACUUM_PAGES: i64 = 256;

/// It is tidied up when nothing was written for so long, and no more often than
/// this: it waits for the medium.
const QUIET: Duration = Duration::from_secs(1);
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// When the file is to be tidied up.
pub(super) struct Upkeep {
    /// Something was erased that the file, or the log before it, still has.
    due: bool,
    /// When it is quiet enough to see to that.
    at: Instant,
}

/// How far it has come.
enum Step {
    /// Something was given back, and there may be more.
    GaveBack,
    Done,
    /// Who reads still has to see what is in the log.
    InUse,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self {
            // What a host before has left so.
            due: true,
            at: Instant::now() + QUIET,
        }
    }

    /// When there is something to do, if there is.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due.then_some(self.at)
    }

    /// Notes that the file is written to.
    pub(super) fn put_off(&mut self, erases: bool) {
        self.due |= erases;
        self.at = self.at.max(Instant::now() + QUIET);
    }

    /// Does some of it. What does not do now is tried again, or what was erased
    /// would be there for as long as nothing else is.
    pub(super) fn tidy(&mut self, db: &Connection) {
        let wait = match step(db) {
            Ok(Step::GaveBack) => return,
            Ok(Step::Done) => {
                self.due = false;
                TIDY_EVERY
            }
            Ok(Step::InUse) => QUIET,
            Err(error) => {
                tracing::debug!(%error, "the store is not tidied up now");
                TIDY_EVERY
            }
        };
        self.at = Instant::now() + wait;
    }
}

fn step(db: &Connection) -> rusqlite::Result<Step> {
    if give_back(db)? {
        return Ok(Step::GaveBack);
    }
    // That somebody reads is told in a row, and is no error.
    let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
    let in_use: bool = db.query_row(sql, [], |row| row.get(0))?;
    Ok(if in_use { Step::InUse } else { Step::Done })
}

/// Gives some of what is free back to the disk, and says whether there was
/// something.
fn give_back(db: &Connection) -> rusqlite::Result<bool> {
    let count = |row: &Row<'_>| row.get(0);
    let free: i64 = db.query_row("PRAGMA freelist_count", [], count)?;
    let mode: i64 = db.query_row("PRAGMA auto_vacuum", [], count)?;
    if free <= SPARE_PAGES || mode != INCREMENTAL {
        return Ok(false);
    }
    let pages = VACUUM_PAGES.min(free - SPARE_PAGES);
    // It gives a page back for each row that is asked for.
    let sql = format!("PRAGMA incremental_vacuum({pages})");
    let mut vacuum = db.prepare(&sql)?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::schema;

    fn log_bytes(dir: &Path) -> u64 {
        let [_, log] = schema::files(dir);
        log.metadata().unwrap().len()
    }

    #[tokio::test]
    async fn a_log_that_is_read_is_emptied_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let db = schema::open(dir.path()).unwrap();
        let mut upkeep = Upkeep::new();
        let reader = schema::open_reader(dir.path()).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        let count = |row: &Row<'_>| row.get::<_, i64>(0);
        let agents = reader.query_row("SELECT count(*) FROM agents", [], count);
        assert_eq!(agents.unwrap(), 0);
        for _ in 0..3 {
            upkeep.tidy(&db);
            assert!(upkeep.due_at().is_some(), "it is tried again");
        }
        assert!(log_bytes(dir.path()) > 0);
        reader.execute_batch("COMMIT").unwrap();
        upkeep.tidy(&db);
        assert_eq!((upkeep.due_at(), log_bytes(dir.path())), (None, 0));
    }
}
