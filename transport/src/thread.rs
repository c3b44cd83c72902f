//! A thread that owns one zeromq socket with a current-thread runtime. On a
//! multi-thread runtime zeromq's maps deadlock under plain churn of clients.
//!
//! A thread runs sessions. Each has a runtime of its own, and when the session
//! ends the runtime goes with every task, connection and queue in it: zeromq has
//! no other way to get rid of a writer that waits for a peer.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{oneshot, watch};

/// How long a dropped runtime may take to end blocking work (removing a file).
const LAST_BLOCKING: Duration = Duration::from_millis(100);

/// A running thread. Dropping it tells it to close and waits for it.
#[derive(Debug)]
pub(crate) struct SocketThread {
    thread: Option<std::thread::JoinHandle<()>>,
    closing: watch::Sender<bool>,
    ended: Option<oneshot::Receiver<()>>,
}

/// Tells a session that it shall end.
#[derive(Debug, Clone)]
pub(crate) struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Resolves when the thread shall end; at once from then on.
    pub(crate) async fn begun(&mut self) {
        // An error means that the handle is gone, which also means: close.
        let _gone = self.0.wait_for(|closing| *closing).await;
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl SocketThread {
    /// Starts a thread that runs `body` until it returns.
    pub(crate) fn spawn(
        name: &str,
        body: impl FnOnce(Closing) + Send + 'static,
    ) -> io::Result<Self> {
        let (closing, closing_seen) = watch::channel(false);
        let (ending, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                body(Closing(closing_seen));
                let _nobody_waits = ending.send(());
            })?;
        Ok(Self {
            thread: Some(thread),
            closing,
            ended: Some(ended),
        })
    }

    /// Tells the thread to close, without waiting.
    pub(crate) fn begin_close(&self) {
        let _gone = self.closing.send(true);
    }

    /// Closes and waits, without blocking the caller's runtime.
    pub(crate) async fn close(mut self) {
        self.begin_close();
        if let Some(ended) = self.ended.take() {
            // An error means that the thread panicked: it has ended all the same.
            let _ended = ended.await;
        }
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("a socket thread panicked");
        }
    }
}

impl Drop for SocketThread {
    fn drop(&mut self) {
        self.begin_close();
        self.join();
    }
}

/// A runtime for one session.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs one session to its end and ends everything that it started.
pub(crate) fn run<T>(runtime: Runtime, session: impl Future<Output = T>) -> T {
    let end = runtime.block_on(session);
    runtime.shutdown_timeout(LAST_BLOCKING);
    end
}

/// Waits until zeromq's tasks in this runtime have written what they hold and
/// ended. Only their number can be seen from outside, so it is looked at once
/// a millisecond. The caller sets the bound.
pub(crate) async fn quiet() {
    let metrics = Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
