//! A guest's stdout and stderr on their way to its log.
//!
//! Both share one queue, so that their order is kept, and each has a budget of
//! its own in it, so that a flood on one cannot keep the other from being
//! heard. A writer that finds its budget used up waits: back-pressure reaches
//! the guest, and nothing is dropped. Costs one short lock a write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use skep_protocol::event::Stream;
use tokio::sync::Notify;

use super::lock;

/// Bytes of each stream that wait to be read.
const BUDGET: usize = 64 * 1024;

/// What a chunk costs besides its bytes, so that a guest which alternates
/// between its streams byte by byte cannot fill the queue with empty chunks.
const CHUNK_OVERHEAD: usize = 64;

/// What a line costs besides its bytes. Each becomes a record, and one of a few bytes is
/// as much work as one of a hundred: a queue full of empty lines would be a turn of a tenth
/// of a second for whoever reads it, and a kill waits for that. With 64, a kill beside 32
/// such floods waited for up to 120 ms, with 256 for 40, and one agent's lines of 100 bytes
/// come a tenth more slowly.
const LINE_OVERHEAD: usize = 256;

/// A chunk that is still open for the next write grows up to this.
const MERGE_UP_TO: usize = 16 * 1024;

/// Bytes of one stream, in the order in which the guest wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub data: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    used: [usize; 2],
    written: [u64; 2],
    writers: usize,
    /// Nothing is taken any more: what is written is dropped.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    readable: Notify,
    writable: [Notify; 2],
}

impl Shared {
    fn writable(&self, stream: Stream) -> &Notify {
        let [stdout, stderr] = &self.writable;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

fn of<T>(pair: &mut [T; 2], stream: Stream) -> &mut T {
    let [stdout, stderr] = pair;
    match stream {
        Stream::Stdout => stdout,
        Stream::Stderr => stderr,
    }
}

/// How many of the bytes there is room for, and what they cost. The last of a line may cost
/// more than there is room for.
fn within(room: usize, data: &[u8]) -> (usize, usize) {
    let cost = |data: &[u8]| {
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        data.len() + lines * LINE_OVERHEAD
    };
    let mut taken = data.len().min(room);
    let mut costs = cost(data.get(..taken).unwrap_or_default());
    if costs > room {
        (taken, costs) = (0, 0);
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            if costs >= room {
                break;
            }
            let line = line.get(..room - costs).unwrap_or(line);
            taken += line.len();
            costs += cost(line);
        }
    }
    (taken, costs)
}

/// The pipe of one agent: a writer for stdout, one for stderr, and the reader
/// of both.
#[must_use]
pub fn output() -> (OutputWriter, OutputWriter, OutputReader) {
    let shared = Arc::new(Shared::default());
    lock(&shared.state).writers = 2;
    let writer = |stream| OutputWriter {
        shared: Arc::clone(&shared),
        stream,
    };
    (
        writer(Stream::Stdout),
        writer(Stream::Stderr),
        OutputReader { shared },
    )
}

/// The writing end of one stream. Cloning it gives another writer of the same
/// stream; the stream ends when all are dropped.
#[derive(Debug)]
pub struct OutputWriter {
    shared: Arc<Shared>,
    stream: Stream,
}

impl OutputWriter {
    /// How many bytes may be written now without exceeding the budget.
    #[must_use]
    pub fn free(&self) -> usize {
        let mut state = lock(&self.shared.state);
        if state.closed {
            BUDGET
        } else {
            BUDGET.saturating_sub(*of(&mut state.used, self.stream))
        }
    }

    /// Takes as many of the bytes as the budget allows, and says how many.
    /// Where nobody reads any more, all are taken and dropped.
    pub fn write(&self, data: &[u8]) -> usize {
        let mut state = lock(&self.shared.state);
        if state.closed {
            return data.len();
        }
        let room = BUDGET.saturating_sub(*of(&mut state.used, self.stream));
        let (taken, cost) = within(room, data);
        let Some(data) = data.get(..taken).filter(|data| !data.is_empty()) else {
            return 0;
        };
        *of(&mut state.written, self.stream) += taken as u64;
        let cost = match state.chunks.back_mut() {
            Some(last) if last.stream == self.stream && last.data.len() < MERGE_UP_TO => {
                last.data.extend_from_slice(data);
                cost
            }
            _ => {
                state.chunks.push_back(Chunk {
                    stream: self.stream,
                    data: data.to_vec(),
                });
                cost + CHUNK_OVERHEAD
            }
        };
        *of(&mut state.used, self.stream) += cost;
        drop(state);
        self.shared.readable.notify_one();
        taken
    }

    /// Waits until something may be written.
    pub async fn ready(&self) {
        loop {
            // Registered before the check, or a wake-up in between is lost.
            let mut notified = std::pin::pin!(self.shared.writable(self.stream).notified());
            notified.as_mut().enable();
            if self.free() > 0 {
                return;
            }
            notified.await;
        }
    }

    /// Writes all of it, waiting where the budget is used up.
    pub async fn write_all(&self, mut data: &[u8]) {
        while !data.is_empty() {
            self.ready().await;
            let taken = self.write(data);
            data = data.get(taken..).unwrap_or_default();
        }
    }
}

impl Clone for OutputWriter {
    fn clone(&self) -> Self {
        lock(&self.shared.state).writers += 1;
        Self {
            shared: Arc::clone(&self.shared),
            stream: self.stream,
        }
    }
}

impl Drop for OutputWriter {
    fn drop(&mut self) {
        lock(&self.shared.state).writers -= 1;
        self.shared.readable.notify_one();
    }
}

/// The reading end of both streams.
#[derive(Debug)]
pub struct OutputReader {
    shared: Arc<Shared>,
}

impl OutputReader {
    /// Waits for output and takes all there is; `None` once every writer is
    /// gone, or was cut off, and all was read. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Vec<Chunk>> {
        loop {
            {
                let mut state = lock(&self.shared.state);
                if !state.chunks.is_empty() {
                    let chunks = std::mem::take(&mut state.chunks).into();
                    state.used = [0; 2];
                    drop(state);
                    self.shared.writable.iter().for_each(Notify::notify_waiters);
                    return Some(chunks);
                }
                if state.writers == 0 || state.closed {
                    return None;
                }
            }
            self.shared.readable.notified().await;
        }
    }

    /// What ends the pipe from outside.
    #[must_use]
    pub fn cut(&self) -> OutputCut {
        OutputCut {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Counts what is written, for as long as anyone asks.
    #[must_use]
    pub fn counter(&self) -> OutputCounter {
        OutputCounter {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Ends a pipe whose writers may stay for ever.
#[derive(Debug)]
pub struct OutputCut {
    shared: Arc<Shared>,
}

impl OutputCut {
    /// What was written before can still be read. What is written later is dropped.
    pub fn cut(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.readable.notify_one();
        self.shared.writable.iter().for_each(Notify::notify_waiters);
    }
}

/// How much was written to a pipe.
#[derive(Debug, Clone)]
pub struct OutputCounter {
    shared: Arc<Shared>,
}

impl OutputCounter {
    /// How many bytes were written so far, to stdout and to stderr.
    #[must_use]
    pub fn written(&self) -> [u64; 2] {
        lock(&self.shared.state).written
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        state.chunks.clear();
        drop(state);
        self.shared.writable.iter().for_each(Notify::notify_waiters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_is_kept_and_neighbours_merge() {
        let (out, err, mut reader) = output();
        assert_eq!(out.write(b"a"), 1);
        assert_eq!(out.write(b"b\n"), 2);
        assert_eq!(err.write(b"c"), 1);
        assert_eq!(out.write(b"d"), 1);
        let chunks = reader.recv().await.unwrap();
        let seen: Vec<_> = chunks
            .iter()
            .map(|c| (c.stream, c.data.as_slice()))
            .collect();
        assert_eq!(
            seen,
            [
                (Stream::Stdout, &b"ab\n"[..]),
                (Stream::Stderr, b"c"),
                (Stream::Stdout, b"d")
            ]
        );
        assert_eq!(reader.counter().written(), [4, 1]);
        drop((out, err));
        assert_eq!(reader.recv().await, None);
    }

    #[tokio::test]
    async fn only_so_many_lines_wait_however_short_they_are() {
        let (out, _err, mut reader) = output();
        let lines = vec![b'\n'; BUDGET];
        let most = BUDGET.div_ceil(1 + LINE_OVERHEAD);
        assert_eq!(out.write(&lines), most);
        assert_eq!((out.free(), out.write(&lines)), (0, 0));
        // All of them come, and none of what follows is lost.
        let mut left = lines.len() - most;
        let mut seen = 0;
        while seen < lines.len() {
            seen += reader
                .recv()
                .await
                .unwrap()
                .iter()
                .map(|c| c.data.len())
                .sum::<usize>();
            let taken = out.write(lines.get(..left).unwrap());
            assert!(taken <= most);
            left -= taken;
        }
        // Whole lines, and one of a part.
        assert_eq!(
            within(200, &[&b"a".repeat(100)[..], b"\n"].concat()),
            (101, 101 + LINE_OVERHEAD)
        );
        let most = within(LINE_OVERHEAD + 10, b"a\nb\nc");
        assert_eq!(most, (4, 4 + 2 * LINE_OVERHEAD));
    }

    #[tokio::test]
    async fn a_full_stream_waits_and_does_not_silence_the_other() {
        let (out, err, mut reader) = output();
        let flood = vec![b'x'; 3 * BUDGET];
        assert_eq!(out.write(&flood), BUDGET);
        assert_eq!(out.free(), 0);
        assert_eq!(out.write(b"more"), 0);
        assert_eq!(err.write(b"heard"), 5);
        let writer = tokio::spawn(async move { out.write_all(&flood).await });
        drop(err);
        let mut bytes = 0;
        while let Some(chunks) = reader.recv().await {
            bytes += chunks.iter().map(|c| c.data.len()).sum::<usize>();
        }
        writer.await.unwrap();
        assert_eq!(bytes, BUDGET + 5 + 3 * BUDGET);
    }

    #[tokio::test]
    async fn a_pipe_that_is_cut_ends_while_its_writers_stay() {
        let (out, err, mut reader) = output();
        assert_eq!(out.write(b"before"), 6);
        reader.cut().cut();
        assert_eq!(
            (out.write(b"after"), err.write(&[0; 2 * BUDGET])),
            (5, 2 * BUDGET)
        );
        let before = Chunk {
            stream: Stream::Stdout,
            data: b"before".to_vec(),
        };
        assert_eq!(reader.recv().await, Some(vec![before]));
        assert_eq!(reader.recv().await, None);
        err.ready().await;
    }

    #[tokio::test]
    async fn alternating_streams_stay_within_the_budget() {
        let (out, err, reader) = output();
        let mut chunks = 0;
        while out.write(b"x") + err.write(b"y") > 0 {
            chunks += 2;
        }
        assert!(chunks <= 2 * BUDGET / CHUNK_OVERHEAD, "{chunks}");
        drop(reader);
        assert_eq!(out.write(b"nobody reads"), 12);
        out.ready().await;
    }
}
