//! The host's end of one shim: the process and the control socket to it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::processors::Processors;
use super::wire::{self, REPORT, Report};
use super::{SHIM_ARG, tree};

/// How long a shim has to exit once it has nothing left to do.
pub(super) const SHIM_EXIT: Duration = Duration::from_secs(2);

/// The host's end of a shim. Dropping it ends the shim's tree.
#[derive(Debug)]
pub(super) struct Shim {
    child: Child,
    socket: UnixStream,
    /// The beginning of a report.
    received: Vec<u8>,
}

/// How a shim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShimExit {
    /// By itself.
    Done,
    /// By SIGKILL, which Skep did not send.
    Killed,
    /// By SIGKILL, which Skep sent because it did not end its tree.
    GivenUp,
}

impl Shim {
    pub(super) fn spawn(path: &Path) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let mut command = Command::new(path);
        command.arg(SHIM_ARG).env_clear().current_dir("/");
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Not killed on drop: it has a tree to end, and does when it sees the
        // socket closed.
        let child = command.spawn()?;
        Ok(Self {
            child,
            socket,
            received: Vec::new(),
        })
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Hands over the descriptors, closes them here, and says what to do.
    pub(super) async fn order(
        &mut self,
        descriptors: Vec<OwnedFd>,
        frame: &[u8],
    ) -> std::io::Result<()> {
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        // The first bytes in an empty socket: there is room.
        let parts = [std::io::IoSlice::new(&[wire::DESCRIPTORS])];
        let rights = [ControlMessage::ScmRights(&raw)];
        let message = if raw.is_empty() { &[] } else { &rights[..] };
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &parts,
            message,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        drop(descriptors);
        self.socket.write_all(frame).await
    }

    /// A byte. There is room unless the shim is held by a stranger; then a kill
    /// strikes past it. If the shim is gone, what it last reported is still to
    /// be read.
    pub(super) fn command(&mut self, command: u8) {
        let _gone = self.socket.try_write(&[command]);
    }

    /// The next report, `None` if none will come. Safe to cancel.
    pub(super) async fn report(&mut self) -> Option<Report> {
        loop {
            if let Some((frame, rest)) = self.received.split_first_chunk::<REPORT>() {
                let report = Report::decode(*frame);
                self.received = rest.to_vec();
                return report;
            }
            match self.socket.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// An agent of the same user may have stopped it.
    pub(super) fn proceed(&self) {
        // It was not waited for, so the number is still its own.
        if let Some(pid) = self.pid() {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }

    /// Does the shim's work once, in case that it cannot: kills what is below
    /// the init, or below the shim if it has none.
    pub(super) async fn strike(&self, init: Option<i32>, processors: Option<Processors>) {
        if let Some(pid) = init.or(self.pid()) {
            let strike = move || tree::end_all(pid, processors);
            let _panicked = tokio::task::spawn_blocking(strike).await;
        }
        self.proceed();
    }

    /// Closes the socket and waits for the shim's end, which it brings about
    /// if it takes too long.
    pub(super) async fn exit(self) -> ShimExit {
        let Self {
            mut child, socket, ..
        } = self;
        drop(socket);
        match timeout(SHIM_EXIT, child.wait()).await {
            Ok(Ok(status)) if status.signal() == Some(libc::SIGKILL) => ShimExit::Killed,
            Ok(_) => ShimExit::Done,
            Err(_late) => {
                let _gone = child.kill().await;
                ShimExit::GivenUp
            }
        }
    }
}
