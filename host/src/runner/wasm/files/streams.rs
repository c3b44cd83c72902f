//! Reading and writing an open file as a stream. Wasmtime's own streams start
//! a blocking call each, as many at once as a guest has streams, and know no
//! limit; these wait for the agent's turn.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::handle::{At, Handle};
use super::turns::Turns;

/// The most that one call waits for.
const MOST: usize = 64 * 1024;

/// The most that a stream holds while the guest does something else, read
/// ahead or not yet written: a guest has many streams.
const AHEAD: usize = 8 * 1024;

/// Streams of one open file; a call under way counts as one. With `open_files`
/// this bounds what all of them hold.
pub(super) const STREAMS: usize = 8;

fn failed<T>(error: io::Error) -> StreamResult<T> {
    Err(StreamError::LastOperationFailed(error.into()))
}

/// Reads a file from an offset on.
pub(super) struct Reader {
    handle: Arc<Handle>,
    turns: Turns,
    offset: u64,
    state: Reading,
}

enum Reading {
    Idle,
    Busy(AbortOnDropJoinHandle<Reading>),
    Data(Bytes),
    Failed(io::Error),
    Closed,
}

impl Reader {
    pub(super) fn new(handle: Arc<Handle>, turns: Turns, offset: u64) -> Self {
        Self {
            handle,
            turns,
            offset,
            state: Reading::Idle,
        }
    }

    fn fetch(&self, most: usize) -> impl Future<Output = Reading> + Send + use<> {
        let (handle, turns, offset) = (Arc::clone(&self.handle), self.turns.clone(), self.offset);
        async move {
            let read = move || {
                let mut data = vec![0; most];
                match handle.read(&mut data, offset) {
                    Ok(0) => Reading::Closed,
                    Ok(read) => {
                        data.truncate(read);
                        Reading::Data(data.into())
                    }
                    Err(error) => Reading::Failed(error),
                }
            };
            turns.take(read).await
        }
    }

    async fn settle(&mut self) {
        if let Reading::Busy(task) = &mut self.state {
            self.state = task.await;
        }
    }
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        if matches!(self.state, Reading::Idle) {
            self.state = Reading::Busy(spawn(self.fetch(AHEAD)));
        }
        self.settle().await;
    }
}

#[async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, Reading::Closed) {
            Reading::Idle if size == 0 => self.state = Reading::Idle,
            Reading::Idle => {
                self.state = Reading::Busy(spawn(self.fetch(size.min(AHEAD))));
            }
            Reading::Data(mut data) => {
                let taken = data.split_to(size.min(data.len()));
                self.offset = self.offset.saturating_add(taken.len() as u64);
                self.state = match data.len() {
                    0 => Reading::Idle,
                    _ => Reading::Data(data),
                };
                return Ok(taken);
            }
            Reading::Failed(error) => return failed(error),
            Reading::Closed => return Err(StreamError::Closed),
            busy @ Reading::Busy(_) => self.state = busy,
        }
        Ok(Bytes::new())
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.settle().await;
        if size > 0 && matches!(self.state, Reading::Idle) {
            self.state = self.fetch(size.min(MOST)).await;
        }
        self.read(size)
    }

    async fn cancel(&mut self) {
        if let Reading::Busy(task) = std::mem::replace(&mut self.state, Reading::Closed) {
            task.cancel().await;
        }
    }
}

/// Writes to a file, from an offset on or at its end.
pub(super) struct Writer {
    handle: Arc<Handle>,
    turns: Turns,
    at: At,
    state: Writing,
}

enum Writing {
    Idle,
    Busy(AbortOnDropJoinHandle<io::Result<()>>, usize),
    Failed(io::Error),
    Closed,
}

impl Writer {
    pub(super) fn new(handle: Arc<Handle>, turns: Turns, at: At) -> Self {
        Self {
            handle,
            turns,
            at,
            state: Writing::Idle,
        }
    }

    fn store(&self, data: Bytes) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let (handle, turns, at) = (Arc::clone(&self.handle), self.turns.clone(), self.at);
        async move { turns.take(move || handle.write_all(&data, at)).await }
    }

    fn done(&mut self, result: io::Result<()>, bytes: usize) {
        self.state = match result {
            Ok(()) => {
                if let At::Offset(offset) = &mut self.at {
                    *offset = offset.saturating_add(bytes as u64);
                }
                Writing::Idle
            }
            Err(error) => Writing::Failed(error),
        };
    }

    /// Whether it is idle. Its last error is told once.
    fn check(&mut self) -> StreamResult<bool> {
        match std::mem::replace(&mut self.state, Writing::Closed) {
            Writing::Failed(error) => failed(error),
            Writing::Closed => Err(StreamError::Closed),
            other => {
                self.state = other;
                Ok(matches!(self.state, Writing::Idle))
            }
        }
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        if let Writing::Busy(task, bytes) = &mut self.state {
            let bytes = *bytes;
            let result = task.await;
            self.done(result, bytes);
        }
    }
}

#[async_trait]
impl OutputStream for Writer {
    fn write(&mut self, data: Bytes) -> StreamResult<()> {
        let idle = matches!(self.state, Writing::Idle);
        match self.state {
            Writing::Closed => return Err(StreamError::Closed),
            _ if data.len() > AHEAD || !idle => {
                return Err(StreamError::trap("wrote more than check-write permitted"));
            }
            _ => {}
        }
        let bytes = data.len();
        self.state = Writing::Busy(spawn(self.store(data)), bytes);
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, data: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.check()?;
        let bytes = data.len();
        let result = self.store(data).await;
        self.done(result, bytes);
        self.check().map(|_| ())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check().map(|_| ())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check().map(|idle| if idle { AHEAD } else { 0 })
    }

    async fn cancel(&mut self) {
        if let Writing::Busy(task, _) = std::mem::replace(&mut self.state, Writing::Closed) {
            task.cancel().await;
        }
    }
}
