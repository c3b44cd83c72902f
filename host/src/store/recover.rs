//! What a host finds that another has left: all that it needs to go on, and of
//! agents that have ended no more than where to find them.

use std::collections::VecDeque;

use bytes::Bytes;
use rusqlite::{Connection, Row};
use serde::de::DeserializeOwned;
use skep_protocol::{AgentId, Digest, RequestId};

use super::change::{Born, KeptComponent, KeptUpload, Known, Reply};
use super::tables::QUEUED;
use super::transaction::WrittenReply;

/// An agent of a host before, and what is to become of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Comeback {
    /// It has ended, and can be read again.
    Ended(EndedBefore),
    /// It waited for its turn, and does so again.
    Queued(Left),
    /// It may have run when the host died.
    Lost(Left),
}

impl Comeback {
    #[must_use]
    pub fn id(&self) -> AgentId {
        match self {
            Self::Ended(ended) => ended.id,
            Self::Queued(left) | Self::Lost(left) => left.id,
        }
    }
}

/// An agent that has ended under a host before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedBefore {
    pub id: AgentId,
    pub ended_ms: u64,
    /// What is remembered of it, its log included.
    pub bytes: u64,
}

/// An agent that had not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    pub id: AgentId,
    /// Where it stood among those that waited.
    pub ticket: Option<u64>,
    pub born: Born,
    pub known: Known,
}

/// All that was left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Those that have ended, oldest first; then those that had not: who waited
    /// in the order of their turns.
    pub agents: Vec<Comeback>,
    /// Oldest first.
    pub replies: Vec<Reply>,
    pub components: Vec<KeptComponent>,
    /// Components of which the bytes are gone.
    pub gone: Vec<Digest>,
    pub uploads: Vec<KeptUpload>,
}

/// What was left, and which replies are written down.
pub(super) type Found = (Recovered, VecDeque<WrittenReply>);

pub(super) fn recover(db: &Connection) -> rusqlite::Result<Found> {
    let mut agents = ended(db)?;
    agents.extend(open(db)?);
    let (replies, written) = replies(db)?;
    let recovered = Recovered {
        agents,
        replies,
        components: components(db)?,
        gone: Vec::new(),
        uploads: uploads(db)?,
    };
    Ok((recovered, written))
}

/// Reads the index alone.
fn ended(db: &Connection) -> rusqlite::Result<Vec<Comeback>> {
    let sql = "SELECT ended_ms, id, bytes FROM agents WHERE class = 2 ORDER BY ended_ms, number";
    let mut select = db.prepare(sql)?;
    let rows = select.query_map([], |row| {
        Ok(Comeback::Ended(EndedBefore {
            ended_ms: unsigned(row.get(0)?),
            id: agent_id(row, 1)?,
            bytes: unsigned(row.get(2)?),
        }))
    })?;
    rows.collect()
}

fn open(db: &Connection) -> rusqlite::Result<Vec<Comeback>> {
    let sql = "SELECT id, class, ticket, known, born FROM agents WHERE class < 2 \
               ORDER BY ticket, number";
    let mut select = db.prepare(sql)?;
    let rows = select.query_map([], |row| {
        let ticket: Option<i64> = row.get(2)?;
        let left = Left {
            id: agent_id(row, 0)?,
            ticket: ticket.map(unsigned),
            known: unpack(row, 3)?,
            born: unpack(row, 4)?,
        };
        Ok(match row.get::<_, i64>(1)? {
            QUEUED => Comeback::Queued(left),
            _ => Comeback::Lost(left),
        })
    })?;
    rows.collect()
}

fn replies(db: &Connection) -> rusqlite::Result<(Vec<Reply>, VecDeque<WrittenReply>)> {
    let sql = "SELECT number, id, request, given_ms, answer FROM replies ORDER BY number";
    let mut select = db.prepare(sql)?;
    let rows = select.query_map([], |row| {
        let reply = Reply {
            id: RequestId::from_bytes(row.get(1)?),
            request: digest(row, 2)?,
            given_ms: unsigned(row.get(3)?),
            answer: Bytes::from(row.get::<_, Vec<u8>>(4)?),
        };
        let written = WrittenReply {
            number: row.get(0)?,
            given_ms: reply.given_ms,
            bytes: reply.answer.len(),
        };
        Ok((reply, written))
    })?;
    rows.collect()
}

fn components(db: &Connection) -> rusqlite::Result<Vec<KeptComponent>> {
    let sql = "SELECT digest, size, deleted, facts FROM components ORDER BY rowid";
    let mut select = db.prepare(sql)?;
    let rows = select.query_map([], |row| {
        Ok(KeptComponent {
            digest: digest(row, 0)?,
            size: unsigned(row.get(1)?),
            deleted: row.get(2)?,
            facts: unpack(row, 3)?,
        })
    })?;
    rows.collect()
}

fn uploads(db: &Connection) -> rusqlite::Result<Vec<KeptUpload>> {
    let mut select = db.prepare("SELECT digest, size, parts FROM uploads ORDER BY rowid")?;
    let rows = select.query_map([], |row| {
        Ok(KeptUpload {
            digest: digest(row, 0)?,
            size: unsigned(row.get(1)?),
            parts: unpack(row, 2)?,
        })
    })?;
    rows.collect()
}

/// The record of one agent that has ended.
pub(super) fn recall(db: &Connection, id: AgentId) -> rusqlite::Result<Option<(Born, Known)>> {
    let mut select = db.prepare_cached("SELECT born, known FROM agents WHERE id = ?1")?;
    let mut rows = select.query([id.as_bytes()])?;
    match rows.next()? {
        Some(row) => Ok(Some((unpack(row, 0)?, unpack(row, 1)?))),
        None => Ok(None),
    }
}

/// The agents of a name that have ended.
pub(super) fn named(db: &Connection, name: &str) -> rusqlite::Result<Vec<AgentId>> {
    let sql = "SELECT id FROM agents WHERE name = ?1 AND class = 2";
    let mut select = db.prepare_cached(sql)?;
    let rows = select.query_map([name], |row| agent_id(row, 0))?;
    rows.collect()
}

fn agent_id(row: &Row<'_>, column: usize) -> rusqlite::Result<AgentId> {
    Ok(AgentId::from_bytes(row.get(column)?))
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| unreadable(column, error))
}

fn unpack<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let bytes = row.get_ref(column)?.as_blob()?;
    rmp_serde::from_slice(bytes).map_err(|error| unreadable(column, error))
}

fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    let blob = rusqlite::types::Type::Blob;
    rusqlite::Error::FromSqlConversionFailure(column, blob, Box::new(error))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
