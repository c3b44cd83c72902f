//! A guest's stdin: a bounded queue that clients fill and the guest drains.
//! Nobody waits to fill it; what does not fit is not taken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::lock;

#[derive(Debug)]
struct State {
    /// What was there from the start, and is read first. It is not copied, since it
    /// may be large and each run of an agent has the same.
    given: Bytes,
    queue: VecDeque<u8>,
    closed: bool,
    readers: usize,
    taken: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bound: usize,
    readable: Notify,
}

/// A pipe that holds `bound` bytes. What is `given` is there from the start, and
/// besides.
#[must_use]
pub fn stdin(bound: usize, given: Bytes) -> (StdinWriter, StdinReader) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            closed: false,
            readers: 1,
            taken: given.len() as u64,
            given,
        }),
        bound,
        readable: Notify::new(),
    });
    (
        StdinWriter {
            shared: Arc::clone(&shared),
        },
        StdinReader { shared },
    )
}

/// The end that clients write to. Dropping it closes the pipe.
#[derive(Debug)]
pub struct StdinWriter {
    shared: Arc<Shared>,
}

impl StdinWriter {
    /// Takes as many of the bytes as fit, and says how many: 0 where the pipe
    /// is full, closed, or no longer read.
    pub fn offer(&self, data: &[u8]) -> usize {
        let mut state = lock(&self.shared.state);
        if state.closed || state.readers == 0 {
            return 0;
        }
        let fits = data
            .len()
            .min(self.shared.bound.saturating_sub(state.queue.len()));
        state.queue.extend(data.get(..fits).unwrap_or_default());
        state.taken += fits as u64;
        drop(state);
        self.shared.readable.notify_waiters();
        fits
    }

    /// Nothing comes after what was taken. Closing twice does no harm.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.readable.notify_waiters();
    }

    /// How many bytes were taken in all.
    #[must_use]
    pub fn taken(&self) -> u64 {
        lock(&self.shared.state).taken
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.state).closed
    }
}

impl Drop for StdinWriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a read finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Some bytes.
    Data(Bytes),
    /// Nothing yet.
    Empty,
    /// Nothing, and nothing will come.
    End,
}

/// The end that the guest reads from. What is left when all are dropped is dropped
/// with the last: so that a run finds what the one before it did not read, somebody
/// keeps a clone.
#[derive(Debug)]
pub struct StdinReader {
    shared: Arc<Shared>,
}

impl StdinReader {
    /// Takes up to `most` bytes that are there.
    pub fn read(&self, most: usize) -> Read {
        let mut state = lock(&self.shared.state);
        if !state.given.is_empty() {
            let count = most.min(state.given.len());
            return Read::Data(state.given.split_to(count));
        }
        if state.queue.is_empty() {
            return if state.closed { Read::End } else { Read::Empty };
        }
        let count = most.min(state.queue.len());
        Read::Data(state.queue.drain(..count).collect())
    }

    /// Waits until there is something to read, or the end.
    pub async fn ready(&self) {
        loop {
            let mut notified = std::pin::pin!(self.shared.readable.notified());
            notified.as_mut().enable();
            {
                let state = lock(&self.shared.state);
                if state.closed || !state.given.is_empty() || !state.queue.is_empty() {
                    return;
                }
            }
            notified.await;
        }
    }
}

impl Clone for StdinReader {
    fn clone(&self) -> Self {
        lock(&self.shared.state).readers += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for StdinReader {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.readers -= 1;
        if state.readers == 0 {
            state.given = Bytes::new();
            state.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_what_fits_and_ends_once_closed() {
        let (writer, reader) = stdin(4, Bytes::new());
        assert_eq!(reader.read(10), Read::Empty);
        assert_eq!(writer.offer(b"abcdef"), 4);
        assert_eq!(writer.offer(b"ef"), 0);
        assert_eq!(reader.read(3), Read::Data(Bytes::from_static(b"abc")));
        assert_eq!(writer.offer(b"ef"), 2);
        writer.close();
        writer.close();
        assert_eq!(writer.offer(b"g"), 0);
        reader.ready().await;
        assert_eq!(reader.read(10), Read::Data(Bytes::from_static(b"def")));
        assert_eq!(reader.read(10), Read::End);
        assert_eq!(writer.taken(), 6);
    }

    #[tokio::test]
    async fn what_is_given_is_read_first_and_is_not_copied() {
        let given = Bytes::from_static(b"given");
        let (writer, reader) = stdin(4, given.clone());
        assert_eq!(writer.offer(b"offered"), 4);
        writer.close();
        reader.ready().await;
        let Read::Data(first) = reader.read(3) else {
            panic!("nothing is read");
        };
        assert_eq!((&*first, first.as_ptr()), (&b"giv"[..], given.as_ptr()));
        assert_eq!(reader.read(9), Read::Data(Bytes::from_static(b"en")));
        assert_eq!(reader.read(9), Read::Data(Bytes::from_static(b"offe")));
        assert_eq!(reader.read(9), Read::End);
        assert_eq!(writer.taken(), 9);
    }

    #[test]
    fn what_one_reader_leaves_the_next_finds() {
        let (writer, reader) = stdin(4, Bytes::new());
        let kept = reader.clone();
        writer.offer(b"abc");
        assert_eq!(reader.read(1), Read::Data(Bytes::from_static(b"a")));
        drop(reader);
        assert_eq!(writer.offer(b"def"), 2);
        assert_eq!(kept.read(9), Read::Data(Bytes::from_static(b"bcde")));
        drop(kept);
        assert_eq!(writer.offer(b"f"), 0);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (writer, reader) = stdin(4, Bytes::new());
        let waiting = tokio::spawn(async move {
            reader.ready().await;
            reader.read(10)
        });
        tokio::task::yield_now().await;
        drop(writer);
        assert_eq!(waiting.await.unwrap(), Read::End);
    }
}
