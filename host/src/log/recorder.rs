//! From the pipe of one agent to its history and the event stream: one task,
//! the only writer of that history. While it waits for the disk the pipe fills,
//! and then the guest waits: what it holds is one batch. Costs one encoding for
//! the disk and one for the wire a record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use skep_protocol::AgentId;
use skep_protocol::codec;
use skep_protocol::event::{Stream, Topic};
use skep_protocol::receipt::{StreamHash, StreamReceipt};
use skep_transport::Publisher;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::patience::Patience;
use super::tail::Stored;
use crate::clock;
use crate::stdio::{Chunk, LineSplitter, OutputReader, Piece};

/// What has no newline yet is recorded after this time.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// How many bytes are recorded before others get their turn: about a
/// millisecond, if each is a line.
const TURN_BYTES: usize = 1024;

/// How far ahead of its rate an agent's output may run.
const BURST: Duration = Duration::from_millis(100);

/// Records written by all agents of a host, for its statistics.
pub type RecordCount = Arc<AtomicU64>;

/// Writes the output of one run of an agent down.
#[derive(Debug, Clone)]
pub struct Recorder {
    pub agent: AgentId,
    /// Which run of the agent this is, from 0.
    pub run: u64,
    /// Whether there may be another, under this host or the next.
    pub may_run_again: bool,
    pub history: Arc<History>,
    pub publisher: Publisher,
    pub bytes_per_s: u64,
    pub count: RecordCount,
    /// Set once the guest has ended or is being killed: what is left is recorded
    /// without regard to the rate, so that an end never waits for it.
    pub ended: CancellationToken,
}

struct Split {
    splitter: LineSplitter,
    stream: Stream,
    topic: String,
    /// When what waits for its newline is recorded without it.
    flush_at: Option<Instant>,
    /// Of every byte, line by line or not: what a receipt is checked against.
    hash: StreamHash,
}

/// What a run wrote, all of it.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub run: u64,
    pub stdout: StreamReceipt,
    pub stderr: StreamReceipt,
}

impl Default for Written {
    /// Nothing, by a run that never began.
    fn default() -> Self {
        let nothing = StreamHash::default().finish();
        Self {
            run: 0,
            stdout: nothing,
            stderr: nothing,
        }
    }
}

impl Recorder {
    /// Records until every writer is gone and all was read.
    pub async fn run(self, mut reader: OutputReader) -> Written {
        let mut streams = Stream::ALL.map(|stream| Split {
            splitter: LineSplitter::default(),
            stream,
            topic: Topic::Log(self.agent, stream).to_string(),
            flush_at: None,
            hash: StreamHash::default(),
        });
        let id = self.agent.to_string();
        let mut paid_until = Instant::now();
        let patience = if self.may_run_again {
            Patience::default()
        } else {
            Patience::until_ended(self.ended.clone())
        };
        loop {
            let due = (streams.iter().filter_map(|split| split.flush_at))
                .chain(self.history.heal_at())
                .min();
            let flush = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                chunks = reader.recv() => {
                    let Some(chunks) = chunks else { break };
                    let bytes: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
                    let before = Instant::now();
                    self.record(&id, &mut streams, &chunks, &patience).await;
                    paid_until = self.wait_for_rate(paid_until, bytes).await;
                    // The newline may have come meanwhile, and was not read.
                    let waited = before.elapsed();
                    for at in streams.iter_mut().filter_map(|split| split.flush_at.as_mut()) {
                        *at += waited;
                    }
                }
                () = flush => self.history.heal(&patience).await,
            }
            self.flush(&id, &mut streams, Some(Instant::now()), &patience)
                .await;
        }
        self.flush(&id, &mut streams, None, &patience).await;
        self.history.close(&patience).await;
        let [stdout, stderr] = streams.map(|split| split.hash.finish());
        Written {
            run: self.run,
            stdout,
            stderr,
        }
    }

    /// All of it is one batch for the disk. The recorders of others may go in
    /// between: a chunk may be as many records as it has bytes.
    async fn record(
        &self,
        id: &str,
        streams: &mut [Split; 2],
        chunks: &[Chunk],
        patience: &Patience,
    ) {
        let mut records = Vec::new();
        for chunk in chunks {
            let Some(split) = streams
                .iter_mut()
                .find(|split| split.stream == chunk.stream)
            else {
                continue;
            };
            // A chunk is 64 KiB at most: some 30 µs, or 150 without SHA instructions.
            split.hash.update(&chunk.data);
            for data in chunk.data.chunks(TURN_BYTES) {
                let time_ns = clock::now_ns();
                let before = records.len();
                split.splitter.push(data, |piece| {
                    records.push(self.stored(chunk.stream, time_ns, piece))
                });
                if !split.splitter.has_tail() {
                    split.flush_at = None;
                } else if split.flush_at.is_none() || records.len() > before {
                    split.flush_at = Some(Instant::now() + FLUSH_AFTER);
                }
                tokio::task::yield_now().await;
            }
        }
        self.write(id, streams, records, patience).await;
    }

    /// Records what has waited for its newline until `due`, or all of it.
    async fn flush(
        &self,
        id: &str,
        streams: &mut [Split; 2],
        due: Option<Instant>,
        patience: &Patience,
    ) {
        let mut records = Vec::new();
        for split in streams.iter_mut() {
            let is_due = match (split.flush_at, due) {
                (Some(at), Some(due)) => at <= due,
                (waits, None) => waits.is_some(),
                (None, Some(_)) => false,
            };
            if is_due {
                split.flush_at = None;
                let piece = split.splitter.flush();
                records
                    .extend(piece.map(|piece| self.stored(split.stream, clock::now_ns(), piece)));
            }
        }
        self.write(id, streams, records, patience).await;
    }

    /// To the history first, then to the subscribers: what one of them has
    /// seen can be read again, also after the host was killed.
    async fn write(
        &self,
        id: &str,
        streams: &[Split; 2],
        records: Vec<Stored>,
        patience: &Patience,
    ) {
        if records.is_empty() {
            return;
        }
        let records = Arc::new(records);
        let first = self.history.commit(&records, patience).await;
        self.count
            .fetch_add(records.len() as u64, Ordering::Relaxed);
        for (seq, record) in (first..).zip(&*records) {
            if (seq - first) % TURN_BYTES as u64 == TURN_BYTES as u64 - 1 {
                tokio::task::yield_now().await;
            }
            let Some(split) = streams.iter().find(|split| split.stream == record.stream) else {
                continue;
            };
            let out = RecordOut {
                agent: id,
                run: record.run,
                seq,
                stream: record.stream,
                time_ns: record.time_ns,
                data: serde_bytes::Bytes::new(&record.data),
                partial: record.partial,
            };
            match codec::encode(&out) {
                Ok(payload) => {
                    // What the queue to the socket cannot hold is counted
                    // there and read from the history by those who miss it.
                    self.publisher.try_publish(split.topic.as_str(), payload);
                }
                Err(error) => tracing::error!(%error, "a log record was not published"),
            }
        }
    }

    async fn wait_for_rate(&self, paid_until: Instant, bytes: usize) -> Instant {
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64);
        let now = Instant::now();
        let paid_until = paid_until.max(now.checked_sub(BURST).unwrap_or(now)) + price;
        if paid_until > now {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => {}
                () = tokio::time::sleep_until(paid_until) => {}
            }
        }
        paid_until
    }

    fn stored(&self, stream: Stream, time_ns: u64, piece: Piece) -> Stored {
        Stored {
            stream,
            run: self.run,
            time_ns,
            partial: piece.partial,
            data: Bytes::from(piece.data),
        }
    }
}

/// [`LogRecord`](skep_protocol::event::LogRecord) as it is written down, without
/// copying what it is made of.
#[derive(Serialize)]
struct RecordOut<'a> {
    agent: &'a str,
    run: u64,
    seq: u64,
    stream: Stream,
    time_ns: u64,
    data: &'a serde_bytes::Bytes,
    partial: bool,
}

#[cfg(test)]
mod tests;
