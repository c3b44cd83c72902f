//! A range of one agent's history, page by page.

use std::collections::VecDeque;

use skep_client::protocol::event::{LogRecord, Stream};
use skep_client::protocol::op::SeqRange;
use skep_client::protocol::{AgentId, AgentInfo};
use skep_client::{Absence, Client, FollowOptions, LogItem};

use crate::cli::args::LogsArgs;
use crate::cli::failure::Failure;

/// How much of each history is read at a time where there are several.
const PAGE_OF_MANY: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Pages {
    pub(super) agent: AgentId,
    streams: Option<Vec<Stream>>,
    next_seq: u64,
    end_seq: u64,
    max_bytes: Option<u64>,
    ready: VecDeque<LogItem>,
    complete: bool,
}

impl Pages {
    /// From where to where the flags say, and no further than there is now: an
    /// agent that writes on is not followed.
    pub(super) async fn find(
        client: &Client,
        agent: &AgentInfo,
        args: &LogsArgs,
        alone: bool,
    ) -> Result<Self, Failure> {
        let streams = args.stream.map(|stream| vec![Stream::from(stream)]);
        let mut end_seq = agent.next_seq;
        if let Some(until) = args.until {
            end_seq = end_seq.min(until.seq(client, agent.id).await?);
        }
        let mut next_seq = match args.since {
            Some(since) => since.seq(client, agent.id).await?,
            None => 0,
        };
        if let Some(lines) = args.tail {
            let tail = client.seq_of_last(agent.id, streams.as_deref(), lines, end_seq);
            next_seq = next_seq.max(tail.await?);
        }
        Ok(Self {
            agent: agent.id,
            streams,
            next_seq,
            end_seq,
            max_bytes: (!alone).then_some(PAGE_OF_MANY),
            ready: VecDeque::new(),
            complete: false,
        })
    }

    /// How its follower goes on.
    pub(super) fn options(&self) -> FollowOptions {
        FollowOptions {
            streams: self.streams.clone(),
            from_seq: self.next_seq,
            ..FollowOptions::default()
        }
    }

    /// Whether the next item must be read first.
    pub(super) fn is_due(&self) -> bool {
        self.ready.is_empty() && self.next_seq < self.end_seq
    }

    /// Whether the agent has ended and was read to its end: it needs no follower,
    /// and may be forgotten.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Reads on, as patiently as a follower. Cancel-safe.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        absence: &mut Absence,
    ) -> skep_client::Result<()> {
        let from = self.next_seq;
        let streams = self.streams.as_deref();
        let reply = client.output(self.agent, streams, from, self.max_bytes);
        let Some(reply) = absence.forgive(reply.await).await? else {
            return Ok(());
        };
        // Behind the end it is a follower's to tell.
        let expired = reply.expired.map(|gap| SeqRange {
            to_seq: gap.to_seq.min(self.end_seq.saturating_sub(1)),
            ..gap
        });
        let expired = expired.filter(|gap| gap.from_seq <= gap.to_seq);
        self.ready.extend(expired.map(LogItem::Gap));
        let within = |record: &LogRecord| record.seq < self.end_seq;
        let records = reply.records.into_iter().filter(within);
        self.ready.extend(records.map(LogItem::Record));
        self.next_seq = reply.next_seq.min(self.end_seq);
        if reply.end || self.next_seq <= from {
            self.next_seq = self.end_seq;
        }
        self.complete = reply.end && reply.next_seq <= self.end_seq;
        Ok(())
    }

    /// The time of the next item that is read, 0 for a gap.
    pub(super) fn time(&self) -> Option<u64> {
        self.ready.front().map(|item| match item {
            LogItem::Record(record) => record.time_ns,
            LogItem::Gap(_) => 0,
        })
    }

    pub(super) fn pop(&mut self) -> Option<LogItem> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_client::ClientError;
    use skep_client::protocol::codec::{Envelope, encode_reply};
    use skep_client::protocol::op::OutputReply;
    use tokio::time::Instant;

    use super::*;

    /// A client of a host that answers nothing for so long, and then that.
    fn away_for(away: Duration, reply: OutputReply) -> Client {
        let (mut wire, connection) = skep_transport::local();
        let back = Instant::now() + away;
        tokio::spawn(async move {
            // Dropped, they would tell that the connection is closed.
            let mut unanswered = Vec::new();
            while let Some(message) = wire.inbox.recv().await {
                if Instant::now() < back {
                    unanswered.push(message.peer);
                    continue;
                }
                let id = Envelope::parse(&message.payload.unwrap()).unwrap().id;
                message.peer.reply(encode_reply(id, &reply).unwrap());
            }
        });
        Client::over(connection)
    }

    fn pages() -> Pages {
        Pages {
            agent: AgentId::random(),
            streams: None,
            next_seq: 0,
            end_seq: 5,
            max_bytes: None,
            ready: VecDeque::new(),
            complete: false,
        }
    }

    async fn read(pages: &mut Pages, away: Duration) -> skep_client::Result<()> {
        let reply = OutputReply {
            expired: None,
            records: Vec::new(),
            next_seq: 5,
            end: true,
        };
        let client = away_for(away, reply);
        let mut absence = Absence::new(FollowOptions::default().host_away);
        while pages.is_due() {
            pages.read(&client, &mut absence).await?;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_waited_for_as_long_as_by_a_follower() {
        let mut pages = pages();
        read(&mut pages, Duration::from_secs(240)).await.unwrap();
        assert!(pages.is_complete());
    }

    #[tokio::test]
    async fn a_gap_ends_where_the_range_does() {
        let mut pages = pages();
        let expired = SeqRange {
            from_seq: 0,
            to_seq: 19,
        };
        let reply = OutputReply {
            expired: Some(expired),
            records: Vec::new(),
            next_seq: 20,
            end: false,
        };
        let client = away_for(Duration::ZERO, reply);
        let mut absence = Absence::new(FollowOptions::default().host_away);
        pages.read(&client, &mut absence).await.unwrap();
        let Some(LogItem::Gap(gap)) = pages.pop() else {
            panic!("no gap");
        };
        assert_eq!((gap.from_seq, gap.to_seq), (0, 4));
        // A follower tells the rest.
        assert_eq!(pages.options().from_seq, 5);
        assert!(!pages.is_due() && !pages.is_complete());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_stays_away_is_told_of() {
        let mut pages = pages();
        let error = read(&mut pages, Duration::from_secs(3600)).await;
        assert!(
            matches!(error, Err(ClientError::Timeout { .. })),
            "{error:?}"
        );
        assert!(!pages.is_complete());
    }
}
