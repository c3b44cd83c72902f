//! The socket by which zeromq is reached, by this process alone.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixStream;

/// Connections that wait until zeromq has taken them.
const BACKLOG: i32 = 128;

/// How long it is waited before a connection that had no room there is tried again: the
/// system refuses it instead of waiting.
const AGAIN: Duration = Duration::from_millis(1);

/// Leads to a listening socket that has no name: it is found by a descriptor of its file,
/// which is removed as soon as it is made.
#[derive(Debug)]
pub(crate) struct Door {
    file: OwnedFd,
    listener: UnixListener,
}

impl Door {
    pub(crate) fn make() -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("skep-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = openat(CWD, folder.path(), flags | OFlags::DIRECTORY, Mode::empty())?;
        // By its descriptor, since the path of an ipc socket has few bytes. Nobody has a
        // file of this name where zeromq, as it ends, will look for one to remove.
        let name = format!("skep-door-{:032x}", fastrand::u128(..));
        let path = path(&opened).join(&name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        socket.listen(BACKLOG)?;
        let file = openat(&opened, name.as_str(), flags, Mode::empty())?;
        folder.close()?;
        Ok(Self {
            file,
            listener: OwnedFd::from(socket).into(),
        })
    }

    /// What zeromq is to listen on.
    pub(super) fn behind_it(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// A connection to zeromq, which may have to wait for its turn.
    pub(super) async fn open(&self) -> io::Result<UnixStream> {
        let path = path(&self.file);
        loop {
            match UnixStream::connect(&path).await {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(AGAIN).await;
                }
                connected => return connected,
            }
        }
    }
}

fn path(descriptor: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn it_leads_to_the_listener_and_has_no_name() {
        let door = Door::make().unwrap();
        let listener = door.behind_it().unwrap();
        let stream = door.open().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"knock").unwrap();
        drop(stream);
        let mut heard = String::new();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "knock");
        let address = listener.local_addr().unwrap();
        assert!(!address.as_pathname().unwrap().exists());
    }
}
