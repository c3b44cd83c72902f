//! Keeps one socket connected: attempts, back-off, and what the state is
//! meanwhile. The same for requests (DEALER) and events (SUB).
//!
//! zeromq's DEALER does not reconnect, and its SUB does so without telling when.
//! So a lost socket is dropped, with its runtime and all that it started, and a
//! new one is made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use zeromq::{Socket, SocketEvent, SocketOptions};

use super::backoff::{Backoff, dice};
use super::connection::ConnectionState;
use crate::endpoint::{Endpoint, ipc_problem};
use crate::thread::{self, Closing};

/// Less than zeromq's first pause after a refusal (50 ms), more than a host in
/// the same house needs to answer.
const PROBE_AFTER: Duration = Duration::from_millis(25);

/// What is done over the socket while it is connected.
pub(crate) trait Session {
    type Socket: Socket;

    /// The socket is connected, for the first time or `again`.
    fn connected(&mut self, again: bool);

    /// Uses the socket until it is lost; says why.
    fn run(&mut self, socket: Self::Socket) -> impl Future<Output = String>;

    /// An attempt failed or the socket was lost.
    fn lost(&mut self, was_connected: bool);

    /// No further attempt will be made.
    fn failed(&mut self, cause: &Arc<str>);
}

/// One socket's place and manners.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) endpoint: Endpoint,
    pub(crate) backoff: Backoff,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) connect_timeout: Duration,
    pub(crate) state: watch::Sender<ConnectionState>,
}

enum End {
    Closed,
    Unreachable(String),
    Lost(String),
}

impl Link {
    /// Runs on the thread of the socket until it is closed or has failed.
    pub(crate) fn run<S: Session>(self, mut closing: Closing, mut session: S) {
        let mut connected_once = false;
        let mut attempt = 0;
        loop {
            self.state.send_replace(if attempt == 0 {
                ConnectionState::Connecting
            } else {
                ConnectionState::Reconnecting { attempt }
            });
            let end = match thread::runtime() {
                Ok(runtime) => caught(|| {
                    thread::run(runtime, async {
                        tokio::select! {
                            () = closing.begun() => End::Closed,
                            end = self.attempt(attempt, connected_once, &mut session) => end,
                        }
                    })
                }),
                Err(error) => {
                    std::thread::park_timeout(self.backoff.delay(attempt));
                    End::Unreachable(format!("no runtime for a socket: {error}"))
                }
            };
            match end {
                End::Closed => {
                    self.state.send_replace(ConnectionState::Disconnected);
                    return;
                }
                End::Lost(cause) => {
                    tracing::debug!(endpoint = %self.endpoint, cause, "connection lost");
                    connected_once = true;
                    attempt = 1;
                    session.lost(true);
                }
                End::Unreachable(cause) => {
                    tracing::debug!(endpoint = %self.endpoint, cause, attempt, "not connected");
                    session.lost(false);
                    // The first attempt of all has the number 0.
                    let failed = if connected_once { attempt } else { attempt + 1 };
                    attempt += 1;
                    if self.max_attempts.is_some_and(|most| failed >= most) {
                        let cause: Arc<str> =
                            format!("{} is not reached: {cause}", self.endpoint).into();
                        session.failed(&cause);
                        self.state.send_replace(ConnectionState::Failed { cause });
                        return;
                    }
                }
            }
            if closing.has_begun() {
                self.state.send_replace(ConnectionState::Disconnected);
                return;
            }
        }
    }

    async fn attempt<S: Session>(&self, attempt: u32, again: bool, session: &mut S) -> End {
        if attempt > 0 {
            tokio::time::sleep(self.backoff.jittered(attempt, dice())).await;
        }
        let mut options = SocketOptions::default();
        options.connect_timeout(self.connect_timeout);
        let mut socket = S::Socket::with_options(options);
        let mut monitor = socket.monitor();
        let connected = tokio::time::timeout(self.connect_timeout, self.reach(&mut socket));
        match connected.await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => return End::Unreachable(cause),
            Err(_) => {
                return End::Unreachable(format!(
                    "no handshake within {:?}; is it a host?",
                    self.connect_timeout
                ));
            }
        }
        session.connected(again);
        self.state.send_replace(ConnectionState::Connected);
        tokio::select! {
            cause = session.run(socket) => End::Lost(cause),
            () = disconnected(&mut monitor) => End::Lost("the host ended the connection".into()),
        }
    }

    /// Connects to the first address that answers.
    async fn reach(&self, socket: &mut impl Socket) -> Result<(), String> {
        match &self.endpoint {
            Endpoint::Tcp { .. } => {
                let endpoint = self.endpoint.clone();
                // Names are asked for again at each attempt: hosts move.
                let addresses = tokio::task::spawn_blocking(move || endpoint.resolve())
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| format!("the name is not resolved: {error}"))?;
                let mut reached = Err("the name has no address".to_owned());
                for address in addresses {
                    let name = Endpoint::from(address).to_string();
                    let probe = async { TcpStream::connect(address).await.map(drop) };
                    reached = connect(socket, &name, probe).await;
                    if reached.is_ok() {
                        break;
                    }
                }
                reached
            }
            Endpoint::Ipc(path) => {
                if let Some(problem) = ipc_problem(path) {
                    return Err(problem.to_owned());
                }
                let probe = async { UnixStream::connect(path).await.map(drop) };
                connect(socket, &self.endpoint.to_string(), probe).await
            }
        }
    }
}

/// A panic of zeromq at what a strange host sends ends the attempt, not the link.
fn caught(attempt: impl FnOnce() -> End) -> End {
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| End::Lost("zeromq panicked at what the host sent".to_owned()))
}

/// Connects, and asks for the cause where that takes longer than it should:
/// zeromq tries a refused connection again and again, by its own clock, and
/// tells only that time is up.
async fn connect(
    socket: &mut impl Socket,
    address: &str,
    probe: impl Future<Output = std::io::Result<()>>,
) -> Result<(), String> {
    let mut connecting = socket.connect(address);
    if let Ok(connected) = tokio::time::timeout(PROBE_AFTER, &mut connecting).await {
        return connected.map_err(|error| error.to_string());
    }
    probe.await.map_err(|error| error.to_string())?;
    connecting.await.map_err(|error| error.to_string())
}

/// Resolves when zeromq tells that the peer is gone: it saw the end of the
/// stream, or could not write. A peer that vanished without a word is not seen
/// here until the kernel gives up on unacknowledged bytes.
async fn disconnected(monitor: &mut (impl Stream<Item = SocketEvent> + Unpin)) {
    while let Some(event) = monitor.next().await {
        if matches!(event, SocketEvent::Disconnected(_)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
