//! The statements that write: one function for each change.

use rusqlite::{Connection, ToSql, params};
use serde::Serialize;
use skep_protocol::{AgentId, Digest};

use super::change::{Born, Change, Ended, KeptComponent, KeptUpload, Known, Reply, Spawned};
use super::schema::FAST;

/// Where an agent stands, in the column `class`.
pub(super) const QUEUED: i64 = 0;
pub(super) const LIVE: i64 = 1;
pub(super) const ENDED: i64 = 2;

/// Makes a change, within the transaction that is under way. A change that was
/// made before changes nothing.
pub(super) fn apply(db: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Spawned(agent, reply) => {
            spawned(db, agent)?;
            replied(db, reply)
        }
        Change::Started(id) => run(
            db,
            "UPDATE agents SET class = ?2, ticket = NULL WHERE id = ?1 AND class < ?2",
            &[&id.as_bytes(), &LIVE],
        ),
        Change::Seen(id, known) => seen(db, *id, known),
        Change::Ended(ended) => self::ended(db, ended),
        Change::Forgotten(ids) => ids
            .iter()
            .try_for_each(|id| run(db, "DELETE FROM agents WHERE id = ?1", &[&id.as_bytes()])),
        Change::Replied(reply) => replied(db, reply),
        Change::ComponentKept(component) => kept(db, component),
        Change::ComponentDeleted(digest) => run(
            db,
            "UPDATE components SET deleted = 1 WHERE digest = ?1",
            &[&digest.to_string()],
        ),
        Change::ComponentsGone(digests) => gone(db, "components", digests),
        Change::UploadGrew(upload) => grew(db, upload),
        Change::UploadsGone(digests) => gone(db, "uploads", digests),
    }
}

/// Forgets the replies up to one.
pub(super) fn forget_replies(db: &Connection, up_to: i64) -> rusqlite::Result<()> {
    run(db, "DELETE FROM replies WHERE number <= ?1", &[&up_to])
}

/// Notes when it was written to, by which the next host knows whether it has all of
/// it.
pub(super) fn mark_written(db: &Connection, now_ms: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE written SET ms = ?1 WHERE ms < ?1 - 1000";
    run(db, sql, &[&integer(now_ms)])
}

fn run(db: &Connection, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

/// SQLite's integers have a sign. Times and sizes never need the last bit.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn pack<T: Serialize>(record: &T) -> rusqlite::Result<Vec<u8>> {
    rmp_serde::to_vec_named(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn spawned(db: &Connection, agent: &Spawned) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO agents (id, name, class, ticket, known, born) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let class = if agent.ticket.is_some() { QUEUED } else { LIVE };
    let mut insert = db.prepare_cached(sql)?;
    insert.execute(params![
        agent.id.as_bytes(),
        agent.name.as_str(),
        class,
        agent.ticket.map(integer),
        pack(&agent.known)?,
        pack(&agent.born)?,
    ])?;
    // The next host is to know which components were used longest ago, to within a
    // second: to write it down each time would cost as much as the agent does.
    let sql = "UPDATE components SET used_ms = ?2 WHERE digest = ?1 AND used_ms < ?2 - 1000";
    let used_ms = integer(agent.born.created_ms);
    (agent.born.components()).try_for_each(|digest| run(db, sql, &[&digest.to_string(), &used_ms]))
}

fn seen(db: &Connection, id: AgentId, known: &Known) -> rusqlite::Result<()> {
    // What was seen before an end may be written after it.
    let sql = "UPDATE agents SET known = ?2 WHERE id = ?1 AND class < ?3";
    run(db, sql, &[&id.as_bytes(), &pack(known)?, &ENDED])
}

fn ended(db: &Connection, ended: &Ended) -> rusqlite::Result<()> {
    let Ended {
        id,
        bytes,
        has_secrets,
        known,
    } = ended;
    let born = if *has_secrets {
        // Also what lay in pages that are free now: that costs writing these.
        db.pragma_update(None, "secure_delete", true)?;
        wiped(db, *id)?
    } else {
        None
    };
    let sql = "UPDATE agents SET class = ?2, ticket = NULL, ended_ms = ?3, bytes = ?4, \
               known = ?5, born = coalesce(?6, born) WHERE id = ?1";
    let ended_ms = integer(known.exited_ms.unwrap_or_default());
    let known = pack(known)?;
    let bytes = integer(*bytes);
    run(
        db,
        sql,
        &[&id.as_bytes(), &ENDED, &ended_ms, &bytes, &known, &born],
    )?;
    if *has_secrets {
        db.pragma_update(None, "secure_delete", FAST)?;
    }
    Ok(())
}

/// The record of an agent without what it needs no more, if it has any.
fn wiped(db: &Connection, id: AgentId) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut select = db.prepare_cached("SELECT born FROM agents WHERE id = ?1")?;
    let mut rows = select.query([id.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let Ok(mut born) = rmp_serde::from_slice::<Born>(row.get_ref(0)?.as_blob()?) else {
        // Whoever reads it will say so. The end is to be written all the same.
        return Ok(None);
    };
    born.wipe();
    pack(&born).map(Some)
}

fn replied(db: &Connection, reply: &Reply) -> rusqlite::Result<()> {
    let sql = "INSERT INTO replies (id, request, given_ms, answer) VALUES (?1, ?2, ?3, ?4)";
    let request = reply.request.to_string();
    let (id, given_ms, answer) = (reply.id.as_bytes(), integer(reply.given_ms), &*reply.answer);
    run(db, sql, &[&id, &request, &given_ms, &answer])
}

fn kept(db: &Connection, component: &KeptComponent) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO components (digest, size, deleted, facts, used_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5)";
    let (digest, size) = (component.digest.to_string(), integer(component.size));
    let (facts, used_ms) = (pack(&component.facts)?, integer(component.used_ms));
    run(
        db,
        sql,
        &[&digest, &size, &component.deleted, &facts, &used_ms],
    )?;
    gone(db, "uploads", std::slice::from_ref(&component.digest))
}

fn grew(db: &Connection, upload: &KeptUpload) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO uploads (digest, size, parts) VALUES (?1, ?2, ?3)";
    let (digest, size) = (upload.digest.to_string(), integer(upload.size));
    run(db, sql, &[&digest, &size, &pack(&upload.parts)?])
}

fn gone(db: &Connection, table: &'static str, digests: &[Digest]) -> rusqlite::Result<()> {
    let sql = format!("DELETE FROM {table} WHERE digest = ?1");
    (digests.iter()).try_for_each(|digest| run(db, &sql, &[&digest.to_string()]))
}
