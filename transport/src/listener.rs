//! Makes the listening sockets that the gates accept from. Never reads from a
//! connection.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::endpoint::{Endpoint, ipc_problem};

/// How long a peer may leave sent bytes unacknowledged, or its window closed,
/// before the kernel ends the connection.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// When an idle connection is first asked for a sign of life.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted; more are refused or retried by their kernel.
const BACKLOG: i32 = 1024;

/// Why a host cannot listen. All of these are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error(
        "cannot listen on {endpoint}: the address is in use; stop the program that listens there \
         (another host?) or configure another endpoint"
    )]
    InUse {
        /// The endpoint as it was configured.
        endpoint: Endpoint,
    },
    /// The path of an ipc endpoint is taken by something that is no socket.
    #[error(
        "cannot listen on {endpoint}: a file that is no socket is there; move it away or configure \
         another path"
    )]
    NotASocket {
        /// The endpoint as it was configured.
        endpoint: Endpoint,
    },
    /// The endpoint cannot be used at all.
    #[error("cannot listen on {endpoint}: {problem}")]
    Unusable {
        /// The endpoint as it was configured.
        endpoint: Endpoint,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The system refuses.
    #[error("cannot listen on {endpoint}: {what}: {source}")]
    System {
        /// The endpoint as it was configured.
        endpoint: Endpoint,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The socket between the gate and zeromq could not be made.
    #[error(
        "cannot make a socket in {folder}, where one is needed for a moment, or reach it by \
         /proc/self/fd: {source}; name a directory in TMPDIR that can be written to, and see that /proc is mounted"
    )]
    Door {
        /// Where it was tried.
        folder: String,
        /// What the system said.
        source: io::Error,
    },
    /// The socket threads could not be started.
    #[error("cannot start the threads for the sockets: {0}")]
    Thread(#[source] io::Error),
}

/// A listening socket, and where it really listens.
#[derive(Debug)]
pub(crate) struct Listener {
    kind: Kind,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Ipc {
        listener: UnixListener,
        _file: SocketFile,
    },
}

impl Listener {
    /// Binds and listens. A stale socket file is replaced, a live one is not.
    pub(crate) fn bind(endpoint: &Endpoint) -> Result<Self, BindError> {
        match endpoint {
            Endpoint::Tcp { .. } => bind_tcp(endpoint),
            Endpoint::Ipc(path) => bind_ipc(endpoint, path),
        }
    }

    /// Where it listens, with the real address and port.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Another descriptor of the same socket, which does not block, for a runtime to adopt.
    pub(crate) fn adopt<T>(
        &self,
        tcp: impl FnOnce(TcpListener) -> io::Result<T>,
        unix: impl FnOnce(UnixListener) -> io::Result<T>,
    ) -> io::Result<T> {
        match &self.kind {
            Kind::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tcp(listener.try_clone()?)
            }
            Kind::Ipc { listener, .. } => {
                listener.set_nonblocking(true)?;
                unix(listener.try_clone()?)
            }
        }
    }
}

/// What the system had against a step of binding.
fn failed(endpoint: &Endpoint, what: &'static str) -> impl FnOnce(io::Error) -> BindError {
    let endpoint = endpoint.clone();
    move |source| match source.kind() {
        ErrorKind::AddrInUse => BindError::InUse { endpoint },
        _ => BindError::System {
            endpoint,
            what,
            source,
        },
    }
}

fn bind_tcp(endpoint: &Endpoint) -> Result<Listener, BindError> {
    let system = |what| failed(endpoint, what);
    let addresses = endpoint.resolve().map_err(system("resolving the name"))?;
    let Some(address) = addresses.first() else {
        return Err(BindError::Unusable {
            endpoint: endpoint.clone(),
            problem: "the name has no address",
        });
    };
    let make = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(*address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restarted host must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        // Accepted connections inherit both on Linux (tested below).
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_AFTER)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(3),
        )?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        Ok(socket)
    };
    let socket = make().map_err(system("making the socket"))?;
    socket
        .bind(&SockAddr::from(*address))
        .map_err(system("binding"))?;
    socket.listen(BACKLOG).map_err(system("listening"))?;
    let listener = TcpListener::from(socket);
    let bound = listener
        .local_addr()
        .map_err(system("asking for the bound address"))?;
    Ok(Listener {
        kind: Kind::Tcp(listener),
        endpoint: bound.into(),
    })
}

fn bind_ipc(endpoint: &Endpoint, path: &Path) -> Result<Listener, BindError> {
    if let Some(problem) = ipc_problem(path) {
        return Err(BindError::Unusable {
            endpoint: endpoint.clone(),
            problem,
        });
    }
    let system = |what| failed(endpoint, what);
    remove_stale(endpoint, path)?;
    let socket =
        Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system("making the socket"))?;
    let address = SockAddr::unix(path).map_err(system("making the address"))?;
    socket
        .bind(&address)
        .map_err(system("making the socket file"))?;
    // Before listen(), so that nobody connects while the mode is still the umask's.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(system("making the socket file private"))?;
    let file = SocketFile::of(path).map_err(system("looking at the new socket file"))?;
    socket.listen(BACKLOG).map_err(system("listening"))?;
    Ok(Listener {
        kind: Kind::Ipc {
            listener: UnixListener::from(OwnedFd::from(socket)),
            _file: file,
        },
        endpoint: endpoint.clone(),
    })
}

/// Unlinks what a dead host left. Two hosts that start in the same instant on
/// one stale file may both succeed here and one then has no file: hosts are
/// kept apart by the lock on their state directory, not by this.
fn remove_stale(endpoint: &Endpoint, path: &Path) -> Result<(), BindError> {
    let system = |what, source| BindError::System {
        endpoint: endpoint.clone(),
        what,
        source,
    };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("looking for a stale socket file", error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket {
            endpoint: endpoint.clone(),
        });
    }
    match UnixStream::connect(path) {
        // It is answered, or by somebody whom we may not ask: alive.
        Ok(_) => Err(BindError::InUse {
            endpoint: endpoint.clone(),
        }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| system("removing a stale socket file", error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(BindError::InUse {
            endpoint: endpoint.clone(),
        }),
        Err(error) => Err(system("asking whether a host listens there", error)),
    }
}

/// A socket file that is removed with us, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    mark: Mark,
}

/// What tells our file from a later one: inode numbers are used again at once,
/// so the time of the last change belongs to it.
type Mark = (u64, u64, i64, i64);

fn mark(path: &Path) -> io::Result<Mark> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            // Absolute, in case the working directory changes before the drop.
            path: std::path::absolute(path)?,
            mark: mark(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = mark(&self.path).is_ok_and(|mark| mark == self.mark);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn accepted_connections_inherit_timeout_and_keepalive() {
        let listener = Listener::bind(&Endpoint::loopback(0)).unwrap();
        let Kind::Tcp(tcp) = &listener.kind else {
            panic!("asked for tcp")
        };
        let _client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let (accepted, _) = tcp.accept().unwrap();
        let accepted = Socket::from(accepted);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = Listener::bind(&Endpoint::loopback(0)).unwrap();
        let error = Listener::bind(first.endpoint()).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&first.endpoint().to_string()));
    }

    #[test]
    fn ipc_files_are_private_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = Listener::bind(&Endpoint::Ipc(path.clone())).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn another_hosts_socket_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let endpoint = Endpoint::Ipc(path.clone());
        let first = Listener::bind(&endpoint).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Listener::bind(&endpoint).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_or_a_plain_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let endpoint = Endpoint::Ipc(path.clone());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a plain listener leaves its file behind");
        let live = Listener::bind(&endpoint).unwrap();
        let error = Listener::bind(&endpoint).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        drop(live);

        std::fs::write(&path, b"precious").unwrap();
        let error = Listener::bind(&endpoint).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
