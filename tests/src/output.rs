//! An agent's whole output, and its end.

use skep_client::protocol::event::{LogRecord, Stream};
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec, Outcome};
use skep_client::{Client, FollowOptions, LogItem};

use crate::wait::soon;

/// All records of an agent, every one there and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The records, from 0.
    pub records: Vec<LogRecord>,
}

impl Output {
    /// Follows an agent to its end.
    ///
    /// # Panics
    /// If a record is missing, out of order, of another agent, or late.
    pub async fn follow(client: &Client, agent: AgentId) -> Self {
        let mut log = client.follow(agent, FollowOptions::default());
        let mut output = Self {
            records: Vec::new(),
        };
        while let Some(item) = soon("the next record", log.next()).await.expect("a log") {
            match item {
                LogItem::Record(record) => output.push(agent, record),
                LogItem::Gap(gap) => panic!("records are missing: {gap:?}"),
            }
        }
        output
    }

    /// Adds the next record.
    ///
    /// # Panics
    /// If it is not the next one, or of another agent.
    pub fn push(&mut self, agent: AgentId, record: LogRecord) {
        assert_eq!(record.agent, agent, "a record of another agent: {record:?}");
        assert_eq!(
            record.seq,
            self.records.len() as u64,
            "a hole or a repetition: {record:?}"
        );
        self.records.push(record);
    }

    /// The bytes of one stream.
    #[must_use]
    pub fn bytes(&self, stream: Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in self.records.iter().filter(|record| record.stream == stream) {
            bytes.extend_from_slice(&record.data);
            if !record.partial {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    /// What was written to stdout, as text.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.bytes(Stream::Stdout)).into_owned()
    }

    /// What was written to stderr, as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.bytes(Stream::Stderr)).into_owned()
    }
}

/// An agent that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Everything about it.
    pub info: AgentInfo,
    /// How it ended.
    pub outcome: Outcome,
    /// All that it wrote.
    pub output: Output,
}

/// Waits for an agent to end, and reads all that it wrote.
///
/// # Panics
/// If it does not end, or has no outcome, or its output is not whole.
pub async fn end_of(client: &Client, agent: AgentId) -> Ended {
    let output = Output::follow(client, agent).await;
    let info = client
        .wait(agent, Some(crate::DEADLINE))
        .await
        .expect("an end");
    let outcome = info
        .outcome
        .clone()
        .expect("an agent that has ended has an outcome");
    assert_eq!(
        info.next_seq,
        output.records.len() as u64,
        "the whole output was read"
    );
    Ended {
        info,
        outcome,
        output,
    }
}

/// Spawns an agent and waits for its end.
///
/// # Panics
/// If it is refused; else as [`end_of`].
pub async fn run(client: &Client, spec: AgentSpec) -> Ended {
    let agent = client.spawn(spec, None).await.expect("a spawn");
    end_of(client, agent.id).await
}
