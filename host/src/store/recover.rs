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
    /// It had not ended, and this build cannot read what is written down of it.
    /// That stays as it is, for the build that can, until the agent is forgotten.
    Unreadable(AgentId),
}

impl Comeback {
    #[must_use]
    pub fn id(&self) -> AgentId {
        match self {
            Self::Ended(ended) => ended.id,
            Self::Queued(left) | Self::Lost(left) => left.id,
            Self::Unreadable(id) => *id,
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
    /// Least recently used first.
    pub components: Vec<KeptComponent>,
    /// Components that are to be forgotten: their bytes are gone, or their records
    /// another build's.
    pub gone: Vec<Digest>,
    pub uploads: Vec<KeptUpload>,
    /// When the store was last written to, to within a second.
    pub written_ms: u64,
}

/// What was left, and which replies are written down.
pub(super) type Found = (Recovered, VecDeque<WrittenReply>);

pub(super) fn recover(db: &Connection) -> rusqlite::Result<Found> {
    let mut agents = ended(db)?;
    agents.extend(open(db)?);
    let (replies, written) = replies(db)?;
    let (components, gone) = components(db)?;
    let recovered = Recovered {
        agents,
        replies,
        components,
        gone,
        uploads: uploads(db)?,
        written_ms: written_ms(db)?,
    };
    Ok((recovered, written))
}

/// Asks an index alone, and no record.
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
    readable("agents that have ended", rows)
}

fn open(db: &Connection) -> rusqlite::Result<Vec<Comeback>> {
    let sql = "SELECT id, class, ticket, known, born FROM agents WHERE class < 2 \
               ORDER BY ticket, number";
    let mut select = db.prepare(sql)?;
    let mut unreadable = Passed::default();
    let rows = select.query_map([], |row| {
        let id = agent_id(row, 0)?;
        match left(row, id) {
            Err(error) if is_of_record(&error) => {
                unreadable.note(error);
                Ok(Comeback::Unreadable(id))
            }
            left => left,
        }
    })?;
    let agents = readable("agents that had not ended", rows)?;
    unreadable.tell("agents that had not ended, which are neither run nor listed");
    Ok(agents)
}

fn left(row: &Row<'_>, id: AgentId) -> rusqlite::Result<Comeback> {
    let ticket: Option<i64> = row.get(2)?;
    let left = Left {
        id,
        ticket: ticket.map(unsigned),
        known: unpack(row, 3)?,
        born: unpack(row, 4)?,
    };
    Ok(match row.get::<_, i64>(1)? {
        QUEUED => Comeback::Queued(left),
        _ => Comeback::Lost(left),
    })
}

/// What is passed over, of which one line is told however much it is.
#[derive(Default)]
struct Passed {
    count: usize,
    first: Option<rusqlite::Error>,
}

impl Passed {
    fn note(&mut self, error: rusqlite::Error) {
        self.count += 1;
        self.first.get_or_insert(error);
    }

    fn tell(self, what: &str) {
        if let Some(error) = self.first {
            tracing::error!(
                count = self.count, what, %error,
                "the store has records that are damaged or of another build"
            );
        }
    }
}

/// These rows without those that cannot be read: no record that another build has
/// written stops a host.
fn readable<C: FromIterator<T>, T>(
    what: &str,
    rows: impl Iterator<Item = rusqlite::Result<T>>,
) -> rusqlite::Result<C> {
    let mut passed = Passed::default();
    let found = rows.filter_map(|row| match row {
        Err(error) if is_of_record(&error) => {
            passed.note(error);
            None
        }
        row => Some(row),
    });
    let found = found.collect();
    passed.tell(what);
    found
}

/// Whether it is a row that has something else in it than it should, and not the
/// file that cannot be read.
pub(super) fn is_of_record(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
    )
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
    let replies: Vec<_> = readable("replies", rows)?;
    Ok(replies.into_iter().unzip())
}

/// The components, and those of which the facts cannot be read.
fn components(db: &Connection) -> rusqlite::Result<(Vec<KeptComponent>, Vec<Digest>)> {
    let sql = "SELECT digest, size, deleted, facts, used_ms FROM components \
               ORDER BY used_ms, rowid";
    let mut select = db.prepare(sql)?;
    let rows = select.query_map([], |row| {
        let digest = digest(row, 0)?;
        let (size, deleted) = (unsigned(row.get(1)?), row.get(2)?);
        let used_ms = unsigned(row.get(4)?);
        let component = unpack(row, 3).map(|facts| KeptComponent {
            digest,
            size,
            facts,
            deleted,
            used_ms,
        });
        Ok(component.map_err(|_| digest))
    })?;
    let rows: Vec<_> = readable("components", rows)?;
    let (mut components, mut gone) = (Vec::with_capacity(rows.len()), Vec::new());
    for component in rows {
        match component {
            Ok(component) => components.push(component),
            Err(digest) => gone.push(digest),
        }
    }
    Ok((components, gone))
}

fn uploads(db: &Connection) -> rusqlite::Result<Vec<KeptUpload>> {
    let mut select = db.prepare("SELECT digest, size, parts FROM uploads ORDER BY rowid")?;
    let rows = select.query_map([], |row| {
        Ok(KeptUpload {
            digest: digest(row, 0)?,
            size: unsigned(row.get(1)?),
            // Where they cannot be read, it begins anew.
            parts: unpack(row, 2).unwrap_or_default(),
        })
    })?;
    readable("uploads", rows)
}

fn written_ms(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT max(ms) FROM written", [], |row| {
        Ok(row.get::<_, Option<i64>>(0)?.map_or(0, unsigned))
    })
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
