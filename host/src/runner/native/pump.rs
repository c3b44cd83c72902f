//! The host's ends of a program's three pipes. Each pump holds at most 64 KiB,
//! and can be dropped at any `await` without losing a byte that it has read.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, Bytes};
use nix::fcntl::{FcntlArg, fcntl};
use tokio::net::unix::pipe;

use crate::stdio::{OutputWriter, Read, StdinReader};

/// Bytes that are moved at once.
const AT_ONCE: usize = 64 * 1024;

/// From a program's stdout or stderr to its log.
#[derive(Debug)]
pub(super) struct OutputPump {
    /// `None` once it has ended.
    pipe: Option<pipe::Receiver>,
    /// Nobody else writes to its stream, so what is free stays free.
    writer: OutputWriter,
    /// Read, and not yet written: lines cost more room than their bytes.
    held: Bytes,
}

impl OutputPump {
    pub(super) fn new(pipe: PipeReader, writer: OutputWriter) -> std::io::Result<Self> {
        Ok(Self {
            pipe: Some(pipe::Receiver::from_owned_fd(OwnedFd::from(pipe))?),
            writer,
            held: Bytes::new(),
        })
    }

    /// Writes as much as there is room for, and holds the rest.
    fn write(&mut self, bytes: &[u8]) {
        let taken = self.writer.write(bytes);
        self.held = Bytes::copy_from_slice(bytes.get(taken..).unwrap_or_default());
    }

    /// Writes what is held, waiting where there is no room.
    async fn catch_up(&mut self) {
        while !self.held.is_empty() {
            self.writer.ready().await;
            let taken = self.writer.write(&self.held);
            self.held.advance(taken);
        }
    }

    /// Pumps to the end of the stream, and for ever if that has been reached.
    pub(super) async fn run(&mut self) {
        let mut buffer = Vec::new();
        loop {
            self.catch_up().await;
            let Some(pipe) = &self.pipe else { break };
            // Nothing is read for which there is no room: a program whose
            // output nobody takes has to wait.
            self.writer.ready().await;
            if pipe.readable().await.is_err() {
                break;
            }
            buffer.resize(AT_ONCE.min(self.writer.free()), 0);
            match pipe.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.write(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            // A program that writes without end is not the only one here.
            tokio::task::yield_now().await;
        }
        self.pipe = None;
        std::future::pending().await
    }

    /// Pumps what is in the pipe after the program is gone. The end of the
    /// stream may never come: whoever was handed the descriptor over a socket
    /// still has it, and may go on writing. So a pipe's content is the bound.
    pub(super) async fn drain(&mut self) {
        self.catch_up().await;
        let Some(pipe) = self.pipe.take() else { return };
        let capacity = fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).unwrap_or(0);
        let mut left = usize::try_from(capacity).unwrap_or(0).max(AT_ONCE);
        let mut buffer = Vec::new();
        while left > 0 {
            self.writer.ready().await;
            buffer.resize(AT_ONCE.min(self.writer.free()).min(left), 0);
            // Not tokio's read, which reads nothing where its reactor has not
            // yet heard of what there is.
            match nix::unistd::read(pipe.as_fd(), &mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    self.write(buffer.get(..count).unwrap_or_default());
                    left -= count;
                    self.catch_up().await;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// From clients to a program's stdin.
#[derive(Debug)]
pub(super) struct StdinPump {
    /// `None` once either end is closed.
    ends: Option<(StdinReader, pipe::Sender)>,
    /// Read, and not yet written.
    held: Bytes,
}

impl StdinPump {
    pub(super) fn new(reader: StdinReader, pipe: PipeWriter) -> std::io::Result<Self> {
        let pipe = pipe::Sender::from_owned_fd(OwnedFd::from(pipe))?;
        Ok(Self {
            ends: Some((reader, pipe)),
            held: Bytes::new(),
        })
    }

    /// Pumps until one end is closed, closes the other, and stays for ever.
    pub(super) async fn run(&mut self) {
        while let Some((reader, pipe)) = &self.ends {
            if self.held.is_empty() {
                reader.ready().await;
            }
            // Taken from the queue only when there is room, so that clients
            // are told of a program that does not read.
            if pipe.writable().await.is_err() {
                break;
            }
            if self.held.is_empty() {
                match reader.read(AT_ONCE) {
                    Read::Data(data) => self.held = data,
                    Read::Empty => continue,
                    Read::End => break,
                }
            }
            match pipe.try_write(&self.held) {
                Ok(count) => self.held.advance(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // The program has closed its stdin.
                Err(_) => break,
            }
            tokio::task::yield_now().await;
        }
        self.ends = None;
        std::future::pending().await
    }
}
