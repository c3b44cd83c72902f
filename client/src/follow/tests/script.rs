//! A host that does what a script says.

use std::sync::{Arc, Mutex, PoisonError};

use skep_protocol::codec::{Envelope, encode, encode_error, encode_reply};
use skep_protocol::event::{LogRecord, Topic};
use skep_protocol::op::{OutputReply, Request, SubscribeReply};
use skep_protocol::{ErrorCode, Usage, WireError};
use skep_transport::{Publisher, local};

use super::*;

/// An agent's history on a scripted host, and the wire to its followers.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) agent: AgentId,
    state: Arc<Mutex<State>>,
    publisher: Publisher,
}

impl Script {
    /// A host that publishes events, and a client of it.
    pub(super) fn new() -> (Self, Client) {
        let (mut wire, connection) = local();
        let script = Self {
            agent: AgentId::random(),
            state: Arc::new(Mutex::new(State {
                events: true,
                ..State::default()
            })),
            publisher: wire.publisher,
        };
        let host = script.clone();
        tokio::spawn(async move {
            // Dropped, they would tell that the connection is closed.
            let mut unanswered = Vec::new();
            while let Some(message) = wire.inbox.recv().await {
                let payload = message.payload.unwrap();
                let takes = host.with(|state| state.takes);
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                if host.with(|state| state.away) {
                    unanswered.push(message.peer);
                } else {
                    message.peer.reply(host.answer(&payload));
                }
            }
        });
        (script, Client::over(connection))
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, payload: &[u8]) -> Vec<u8> {
        let envelope = Envelope::parse(payload).unwrap();
        let id = envelope.id;
        self.with(|state| match envelope.decode().unwrap() {
            _ if state.unreadable => {
                let error = WireError::new(ErrorCode::StorageUnavailable, "the disk");
                encode_error(Some(id), &error).unwrap()
            }
            _ if state.forgotten => {
                encode_error(Some(id), &WireError::new(ErrorCode::NotFound, "gone")).unwrap()
            }
            Request::AgentSubscribe(_) => {
                let events = state.events.then(|| "tcp://127.0.0.1:1".to_owned());
                let next_seq = state.history.len() as u64;
                encode_reply(
                    id,
                    &SubscribeReply {
                        events,
                        topics: vec![],
                        next_seq,
                    },
                )
                .unwrap()
            }
            Request::AgentOutput(asked) => {
                let from = asked.from_seq.unwrap_or(0);
                state.reads.push(from);
                encode_reply(id, &state.read(from, asked.streams.as_deref())).unwrap()
            }
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn record(&self, seq: u64) -> LogRecord {
        LogRecord {
            agent: self.agent,
            run: 0,
            seq,
            // Every third is of the other stream.
            stream: if seq % 3 == 2 {
                Stream::Stderr
            } else {
                Stream::Stdout
            },
            time_ns: seq,
            data: format!("line {seq}").into_bytes().into(),
            partial: false,
        }
    }

    /// Writes records up to this number, and publishes none.
    pub(super) fn write_to(&self, end: u64) {
        self.with(|state| {
            for seq in state.history.len() as u64..end {
                state.history.push(self.record(seq));
            }
        });
    }

    pub(super) fn publish(&self, seq: u64) {
        let record = self.record(seq);
        let topic = Topic::Log(self.agent, record.stream);
        self.publisher
            .try_publish(topic.to_string(), encode(&record).unwrap());
    }

    /// Ends the agent.
    pub(super) fn end(&self) {
        self.with(|state| state.ended = true);
    }

    pub(super) fn publish_end(&self) {
        let last_seq = self.with(|state| (state.history.len() as u64).checked_sub(1));
        let status = StatusEvent {
            agent: self.agent,
            generation: 3,
            state: AgentState::Exited,
            outcome: None,
            restart: None,
            receipt: None,
            usage: Usage::default(),
            last_seq,
            time_ms: 0,
        };
        let topic = Topic::Status(self.agent);
        self.publisher
            .try_publish(topic.to_string(), encode(&status).unwrap());
    }

    pub(super) fn reads(&self) -> Vec<u64> {
        self.with(|state| state.reads.clone())
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) history: Vec<LogRecord>,
    pub(super) first: u64,
    pub(super) ended: bool,
    pub(super) forgotten: bool,
    /// The host cannot read what it is asked for.
    pub(super) unreadable: bool,
    pub(super) reads: Vec<u64>,
    pub(super) events: bool,
    /// No request is answered.
    pub(super) away: bool,
    /// How long each answer takes.
    pub(super) takes: Duration,
}

impl State {
    /// At most ten records at a time, as a host would with a small `max_bytes`.
    fn read(&self, from: u64, streams: Option<&[Stream]>) -> OutputReply {
        let end = self.history.len() as u64;
        let start = from.max(self.first);
        let wanted = |record: &&LogRecord| {
            record.seq >= start && streams.is_none_or(|streams| streams.contains(&record.stream))
        };
        let records: Vec<_> = self
            .history
            .iter()
            .filter(wanted)
            .take(10)
            .cloned()
            .collect();
        let next_seq = match records.last() {
            Some(last) if records.len() == 10 => last.seq + 1,
            _ => end.max(from),
        };
        OutputReply {
            end: self.ended && next_seq >= end,
            expired: (from < self.first).then(|| SeqRange {
                from_seq: from,
                to_seq: self.first - 1,
            }),
            records,
            next_seq,
        }
    }
}
