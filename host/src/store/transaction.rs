//! One transaction: what is owed and what was asked for, and the replies that are
//! to be forgotten with it.

use std::collections::VecDeque;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::change::Change;
use super::schema::NEWEST;
use super::tables::{apply, forget_replies, mark_written};
use crate::clock;
use crate::replies::{MAX_BYTES, MAX_REPLIES, REMEMBER_FOR};

/// Replies are forgotten by as many, since each time costs a statement.
const FORGET_BY: usize = 64;

/// A reply that is written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrittenReply {
    pub(super) number: i64,
    pub(super) given_ms: u64,
    pub(super) bytes: usize,
}

/// What a transaction has come to.
pub(super) struct Written {
    pub(super) replies: Vec<WrittenReply>,
    /// How many of the oldest replies are gone.
    pub(super) forgotten: usize,
}

/// One transaction of all these.
pub(super) fn commit<'a>(
    db: &mut Connection,
    owed: &'a VecDeque<Change>,
    changes: impl Iterator<Item = &'a Change>,
    known: &VecDeque<WrittenReply>,
    known_bytes: usize,
) -> rusqlite::Result<Written> {
    let writing = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut replies = Vec::new();
    let mut empty = true;
    for change in owed.iter().chain(changes) {
        empty = false;
        apply(&writing, change)?;
        if let Change::Spawned(_, reply) | Change::Replied(reply) = change {
            replies.push(WrittenReply {
                number: writing.last_insert_rowid(),
                given_ms: reply.given_ms,
                bytes: reply.answer.len(),
            });
        }
    }
    if empty {
        // Nothing is to be written: it is only tried whether it could be.
        writing.pragma_update(None, "user_version", NEWEST)?;
    }
    mark_written(&writing, clock::now_ms())?;
    let forgotten = outlived(known, known_bytes, &replies);
    if let Some(last) = forgotten.checked_sub(1).and_then(|last| known.get(last)) {
        forget_replies(&writing, last.number)?;
    }
    writing.commit()?;
    Ok(Written { replies, forgotten })
}

/// How many of the oldest replies are to be forgotten, by the same bounds as
/// those in memory.
fn outlived(known: &VecDeque<WrittenReply>, known_bytes: usize, new: &[WrittenReply]) -> usize {
    // No earlier than that.
    let now = new.last().or(known.back()).map_or(0, |last| last.given_ms);
    let mut count = known.len() + new.len();
    let mut bytes = known_bytes + new.iter().map(|reply| reply.bytes).sum::<usize>();
    let too_large = bytes > MAX_BYTES;
    let mut forgotten = 0;
    for reply in known {
        let age = Duration::from_millis(now.saturating_sub(reply.given_ms));
        if age < REMEMBER_FOR && count <= MAX_REPLIES && bytes <= MAX_BYTES {
            break;
        }
        count -= 1;
        bytes -= reply.bytes;
        forgotten += 1;
    }
    if forgotten >= FORGET_BY || too_large {
        forgotten
    } else {
        0
    }
}
