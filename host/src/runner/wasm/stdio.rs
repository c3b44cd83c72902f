//! A guest's stdin, stdout and stderr as the streams of WASI 0.2, over the
//! pipes that lead to its driver. Back-pressure reaches the guest; nothing is
//! dropped, and nothing is buffered beyond one permit a stream.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::stdio::{OutputWriter, Read, StdinReader};

/// The most that one call writes or reads.
const MOST: usize = 64 * 1024;

/// One output of a guest. However often the guest asks for it, it is the same.
#[derive(Debug, Clone)]
pub(super) struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    writer: OutputWriter,
    /// What was permitted and then had no room: with two handles of one stream
    /// a guest may hold two permits for the same room.
    late: Mutex<Bytes>,
}

impl Output {
    pub(super) fn new(writer: OutputWriter) -> Self {
        Self {
            shared: Arc::new(Shared {
                writer,
                late: Mutex::new(Bytes::new()),
            }),
        }
    }

    fn late(&self) -> MutexGuard<'_, Bytes> {
        self.shared
            .late
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is late, and says whether all of it went.
    fn catch_up(&self) -> bool {
        let mut late = self.late();
        if !late.is_empty() {
            let taken = self.shared.writer.write(&late);
            *late = late.slice(taken.min(late.len())..);
        }
        late.is_empty()
    }

    /// Waits until everything is written that the guest wrote.
    pub(super) async fn drain(&self) {
        while !self.catch_up() {
            self.shared.writer.ready().await;
        }
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        loop {
            self.shared.writer.ready().await;
            if self.catch_up() && self.shared.writer.free() > 0 {
                return;
            }
        }
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut late = self.late();
        if bytes.len() > MOST || !late.is_empty() {
            return Err(StreamError::trap("wrote more than check-write permitted"));
        }
        let taken = self.shared.writer.write(&bytes);
        // A copy, so that a few late bytes don't keep 64 KiB.
        *late = Bytes::copy_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.catch_up() {
            self.shared.writer.free().min(MOST)
        } else {
            0
        })
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(NotWasi02)
    }
}

/// The input of a guest.
#[derive(Debug, Clone)]
pub(super) struct Input(pub(super) Arc<StdinReader>);

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.0.ready().await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.0.read(size.min(MOST)) {
            Read::Data(data) => Ok(data),
            Read::Empty => Ok(Bytes::new()),
            Read::End => Err(StreamError::Closed),
        }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(NotWasi02)
    }
}

/// Streams for interfaces that no guest can link against.
struct NotWasi02;

fn not_linked<T>() -> Poll<std::io::Result<T>> {
    Poll::Ready(Err(std::io::ErrorKind::Unsupported.into()))
}

impl AsyncWrite for NotWasi02 {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        not_linked()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        not_linked()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        not_linked()
    }
}

impl AsyncRead for NotWasi02 {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        not_linked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::{output, stdin};

    #[tokio::test]
    async fn two_permits_for_the_same_room_lose_nothing() {
        let (writer, err, mut reader) = output();
        drop(err);
        let mut first = Output::new(writer);
        let mut second = first.clone();
        let permit = first.check_write().unwrap();
        assert_eq!(second.check_write().unwrap(), permit);
        first.write(vec![b'a'; permit].into()).unwrap();
        second.write(vec![b'b'; permit].into()).unwrap();
        assert_eq!(first.check_write().unwrap(), 0);
        assert!(matches!(
            first.write(Bytes::from_static(b"c")),
            Err(StreamError::Trap(_))
        ));
        let of_writer = first.clone();
        let drained = tokio::spawn(async move { of_writer.drain().await });
        let mut seen = 0;
        while seen < 2 * permit {
            seen += reader
                .recv()
                .await
                .unwrap()
                .iter()
                .map(|chunk| chunk.data.len())
                .sum::<usize>();
        }
        drained.await.unwrap();
        first.ready().await;
        assert!(first.check_write().unwrap() > 0);
    }

    #[tokio::test]
    async fn input_ends() {
        let (writer, reader) = stdin(10, Bytes::from_static(b"abc"));
        let mut input = Input(Arc::new(reader));
        input.ready().await;
        assert_eq!(input.read(2).unwrap(), "ab");
        assert_eq!(input.read(2).unwrap(), "c");
        assert_eq!(input.read(2).unwrap(), "");
        drop(writer);
        input.ready().await;
        assert!(matches!(input.read(2), Err(StreamError::Closed)));
    }
}
