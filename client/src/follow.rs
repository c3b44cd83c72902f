//! Following an agent's output: live records for speed, the history for the
//! rest, so that every record is yielded once and in order.
//!
//! A record is in the history before it is published. So whenever one is
//! missing, before the first event, at a hole, after the last event, or where
//! there are no events at all, it is read from there.

use std::time::Duration;

use skep_protocol::codec::decode;
use skep_protocol::event::{LogRecord, StatusEvent, Stream};
use skep_protocol::op::{OutputReply, SeqRange};
use skep_protocol::{AgentId, AgentState, ErrorCode};
use skep_transport::Event;

use crate::absence::{Absence, HOST_AWAY};
use crate::asking::Asking;
use crate::poll::Poll;
use crate::{Client, Result};

mod live;
mod sequence;

use live::Live;
use sequence::Sequence;

/// How much of the history is read at a time; the most that a host gives.
const READ: u64 = 1024 * 1024;
/// The pause before the history is read without cause, in the beginning: over
/// sockets a subscription is effective some time after it was made. It doubles.
const FIRST_POLL: Duration = Duration::from_millis(10);
/// The pause once it has doubled often enough.
const POLL: Duration = Duration::from_secs(1);
/// The same, where there are no events.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_millis(100);

/// How long the status of an end may be on its way when the history is gone already.
const LAST_STATUS: Duration = Duration::from_secs(2);

/// What to follow.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// Only these streams; both by default.
    pub streams: Option<Vec<Stream>>,
    /// From which record on; from the first by default.
    pub from_seq: u64,
    /// How long the host may give no answer, as while it is restarted, before
    /// that is an error; 5 minutes by default. That it cannot read what it is
    /// asked for is an error after a minute at most.
    pub host_away: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            streams: None,
            from_seq: 0,
            host_away: HOST_AWAY,
        }
    }
}

/// What following yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// The next record.
    Record(LogRecord),
    /// Records that the history no longer holds. With a choice of streams, it
    /// may count records of others.
    Gap(SeqRange),
}

/// An agent's output, every record once and in order.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    agent: AgentId,
    streams: Option<Vec<Stream>>,
    sequence: Sequence,
    live: Option<Live>,
    subscribing: Asking<Result<Live>>,
    /// When to read the history without cause.
    poll: Poll,
    reading: Asking<Read>,
    /// The history was read for what is missing and did not have it: it is not
    /// read again at once.
    barren: bool,
    absence: Absence,
    /// The final status, once it was heard.
    ended: Option<StatusEvent>,
}

/// A piece of the history, and from which record on it was asked for.
type Read = (u64, Result<OutputReply>);

impl Follow {
    pub(crate) fn new(client: Client, agent: AgentId, options: FollowOptions) -> Self {
        let FollowOptions {
            streams,
            from_seq,
            host_away,
        } = options;
        Self {
            client,
            agent,
            sequence: Sequence::new(from_seq, streams.clone()),
            streams,
            live: None,
            subscribing: Asking::nothing(),
            poll: Poll::new(FIRST_POLL),
            reading: Asking::nothing(),
            barren: false,
            absence: Absence::new(host_away),
            ended: None,
        }
    }

    /// The next record or gap; `None` when the agent has ended and everything
    /// was yielded. Cancel-safe, and may be called again after an error.
    ///
    /// # Errors
    /// Refused with `not_found` if there is no such agent, if it was forgotten,
    /// or if the host was restarted and does not know it any more;
    /// [`ClientError::Timeout`](crate::ClientError::Timeout) if the host was away
    /// for too long; else as any request.
    pub async fn next(&mut self) -> Result<Option<LogItem>> {
        loop {
            if let Some(item) = self.try_next() {
                return Ok(Some(item));
            }
            if self.sequence.is_complete() {
                return Ok(None);
            }
            if self.live.is_none() {
                let question = || Live::subscribe(self.client.clone(), self.agent);
                let subscribed = self.subscribing.answer(question).await;
                self.live = self.absence.forgive(subscribed).await?;
                continue;
            }
            let lacks = self.sequence.lacks() && !self.barren;
            if self.reading.is_under_way() || lacks || self.poll.is_due() {
                let read = self.read_history().await;
                match self.absence.forgive(read).await {
                    // One that has ended may be forgotten at once: what was published
                    // may be all of it.
                    Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                        let known = self.ended.is_some();
                        if known || self.final_status(LAST_STATUS).await.is_none() {
                            return Err(error);
                        }
                    }
                    read => drop(read?),
                }
                continue;
            }
            self.listen().await;
        }
    }

    /// The next item, if it is here already.
    pub fn try_next(&mut self) -> Option<LogItem> {
        loop {
            if let Some(item) = self.sequence.pop() {
                return Some(item);
            }
            let log = &mut self.live.as_mut()?.log;
            let event = log.try_recv()?;
            self.heard_log(&event);
        }
    }

    /// The agent's final status as it was published: what is left of one that its host
    /// has forgotten. `None` if it does not come within that time, or the host publishes
    /// no events. Cancel-safe.
    pub async fn final_status(&mut self, within: Duration) -> Option<StatusEvent> {
        let publishes = self.live.as_ref().is_some_and(|live| live.on);
        let within = if publishes { within } else { Duration::ZERO };
        let heard = async {
            while self.ended.is_none() {
                let event = self.live.as_mut()?.status.recv().await?;
                self.heard_status(&event);
            }
            self.ended.clone()
        };
        tokio::time::timeout(within, heard).await.ok().flatten()
    }

    /// The number of the record that comes next: to go on from later.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.sequence.next_seq()
    }

    /// Reads on in the history. Cancel-safe.
    async fn read_history(&mut self) -> Result<()> {
        let question = || {
            let (client, agent, streams) = (self.client.clone(), self.agent, self.streams.clone());
            let from_seq = self.sequence.next_seq();
            async move {
                let reply = client.output(agent, streams.as_deref(), from_seq, Some(READ));
                (from_seq, reply.await)
            }
        };
        let (from_seq, reply) = self.reading.answer(question).await;
        let reply = reply?;
        // A page may go past records of other streams alone.
        let more = reply.next_seq > from_seq;
        let lacked = self.sequence.lacks();
        self.sequence.history(reply);
        self.barren = lacked && self.sequence.next_seq() == from_seq;
        match &self.live {
            // There may be as much again behind it.
            _ if more => self.poll.hurry(),
            Some(live) if live.on => self.poll.put_off(POLL),
            _ => self.poll.put_off(POLL_WITHOUT_EVENTS),
        }
        Ok(())
    }

    /// Waits for an event, or for the time to read the history.
    async fn listen(&mut self) {
        enum Heard {
            Log(Option<Event>),
            Status(Option<Event>),
            Time,
        }
        let poll_at = self.poll.at();
        let Some(live) = &mut self.live else { return };
        let closed = live.closed;
        let heard = tokio::select! {
            // Records before the status that says that there are no more.
            biased;
            event = live.log.recv(), if !closed => Heard::Log(event),
            event = live.status.recv(), if !closed => Heard::Status(event),
            () = tokio::time::sleep_until(poll_at) => Heard::Time,
        };
        let interruptions = live.interruptions();
        if std::mem::replace(&mut live.interruptions, interruptions) != interruptions {
            // The events connection was lost; it is as in the beginning.
            self.poll.reset();
        }
        match heard {
            Heard::Log(Some(event)) => {
                live.on = true;
                self.heard_log(&event);
                self.poll.relax(POLL);
            }
            Heard::Status(Some(event)) => self.heard_status(&event),
            // The connection is closed: the history will say so.
            Heard::Log(None) | Heard::Status(None) => (live.on, live.closed) = (false, true),
            Heard::Time => {}
        }
    }

    fn heard_log(&mut self, event: &Event) {
        // What cannot be decoded leaves a hole, which the history fills.
        if let Ok(record) = decode::<LogRecord>(&event.payload) {
            self.sequence.live(record);
        }
    }

    fn heard_status(&mut self, event: &Event) {
        if let Ok(status) = decode::<StatusEvent>(&event.payload)
            && status.state == AgentState::Exited
        {
            self.sequence.ends_with(status.last_seq);
            self.ended = Some(status);
        }
    }
}

#[cfg(test)]
mod tests;
