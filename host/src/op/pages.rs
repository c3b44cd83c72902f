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

/// How many are read for one page. Whoever asks for few of many is given a page
/// with less than would fit, and asks again from there: no request keeps others
/// from the store for long.
const FOR_A_PAGE: usize = 1024;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The one of this id.
    Found(AgentId),
    /// Nothing more.
    End,
    /// Nothing up to this id; what comes beyond is for another page.
    Beyond(AgentId),
}

pub(super) struct Pages<'a> {
    past: &'a Past,
    /// Those that are to be read, where they are known.
    named: Option<VecDeque<AgentId>>,
    after: Option<AgentId>,
    at_once: usize,
    /// How many may be read yet.
    left: usize,
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
            left: FOR_A_PAGE.max(limit + 1),
            read: VecDeque::new(),
        })
    }

    /// Looks for the next that is wanted.
    pub(super) async fn peek(
        &mut self,
        wanted: impl Fn(&Handle) -> bool,
    ) -> Result<Next, Unavailable> {
        loop {
            if let Some(handle) = self.read.front() {
                return Ok(Next::Found(handle.id));
            }
            let count = self.at_once.min(self.left);
            if count == 0 {
                return Ok(self.after.map_or(Next::End, Next::Beyond));
            }
            let ids = match &mut self.named {
                Some(named) => named.drain(..named.len().min(count)).collect(),
                None => self.past.ids_after(self.after, count),
            };
            let Some(last) = ids.last() else {
                return Ok(Next::End);
            };
            self.after = Some(*last);
            self.left -= ids.len();
            let found = self.past.recall_all(ids).await?;
            self.read.extend(found.into_iter().filter(&wanted));
        }
    }

    /// The one that was looked at.
    pub(super) fn next(&mut self) -> Option<Handle> {
        self.read.pop_front()
    }
}
