//! The agents of hosts before, as a list goes through them: some at a time, in
//! the order of their ids.

use std::collections::VecDeque;

use skep_protocol::op::AgentList;
use skep_protocol::{AgentId, AgentState};

use crate::agent::handle::Handle;
use crate::past::Past;
use crate::store::Unavailable;

/// How many records are read at once, at most.
const AT_ONCE: usize = 128;

pub(super) struct Pages<'a> {
    past: &'a Past,
    /// Those that are to be read, where they are known.
    named: Option<VecDeque<AgentId>>,
    after: Option<AgentId>,
    at_once: usize,
    /// Those that were read.
    read: VecDeque<Handle>,
}

impl<'a> Pages<'a> {
    pub(super) async fn new(
        past: &'a Past,
        query: &AgentList,
        limit: usize,
    ) -> Result<Self, Unavailable> {
        let ended =
            (query.states.as_ref()).is_none_or(|states| states.contains(&AgentState::Exited));
        let named = match &query.name {
            _ if !ended => Some(Vec::new()),
            Some(name) => Some(past.named(name.clone()).await?),
            None => None,
        };
        let named = named.map(|mut ids| {
            ids.retain(|id| query.after.is_none_or(|after| *id > after));
            VecDeque::from(ids)
        });
        Ok(Self {
            past,
            named,
            after: query.after,
            at_once: AT_ONCE.min(limit + 1),
            read: VecDeque::new(),
        })
    }

    /// The id of the next that is wanted.
    pub(super) async fn peek(
        &mut self,
        wanted: impl Fn(&Handle) -> bool,
    ) -> Result<Option<AgentId>, Unavailable> {
        while self.read.is_empty() {
            let ids = match &mut self.named {
                Some(named) => named.drain(..named.len().min(self.at_once)).collect(),
                None => self.past.ids_after(self.after, self.at_once),
            };
            let Some(last) = ids.last() else {
                return Ok(None);
            };
            self.after = Some(*last);
            let found = self.past.recall_all(ids).await?;
            self.read.extend(found.into_iter().filter(&wanted));
        }
        Ok(self.read.front().map(|handle| handle.id))
    }

    /// The one that was looked at.
    pub(super) fn next(&mut self) -> Option<Handle> {
        self.read.pop_front()
    }
}
