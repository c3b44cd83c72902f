//! A connection of either kind, without a task or a buffer of its own.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::listener::Listener;

/// Where connections come in.
#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Incoming {
    pub(super) fn of(listener: &Listener) -> io::Result<Self> {
        listener.adopt(
            |tcp| TcpListener::from_std(tcp).map(Self::Tcp),
            |unix| UnixListener::from_std(unix).map(Self::Unix),
        )
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A small reply is not to wait for the acknowledgement of the one before. It
                // fails where the peer has gone, which is found out anyway.
                let _gone = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Stream {
    /// The next bytes, so many at most; none at the end. Nothing is lost where it is
    /// cancelled, and nothing is kept while it waits. It does not leave the processor to
    /// others where there is something.
    pub(super) async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        loop {
            match self {
                Self::Tcp(stream) => stream.readable().await?,
                Self::Unix(stream) => stream.readable().await?,
            }
            let mut chunk = Vec::with_capacity(most);
            let read = match self {
                Self::Tcp(stream) => stream.try_read_buf(&mut chunk),
                Self::Unix(stream) => stream.try_read_buf(&mut chunk),
            };
            match read {
                Ok(_) => return Ok(chunk),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(|| vec![IoSlice::new(bytes)]).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes what there is room for of what comes next, which is at least a byte. The
    /// same where it is cancelled as for [`read`](Self::read).
    pub(super) async fn write<'a>(&self, next: impl Fn() -> Vec<IoSlice<'a>>) -> io::Result<usize> {
        loop {
            match self {
                Self::Tcp(stream) => stream.writable().await?,
                Self::Unix(stream) => stream.writable().await?,
            }
            let slices = next();
            let written = match self {
                Self::Tcp(stream) => stream.try_write_vectored(&slices),
                Self::Unix(stream) => stream.try_write_vectored(&slices),
            };
            match written {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    /// Tells the other end that nothing more comes.
    pub(super) fn end_writing(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }
}
