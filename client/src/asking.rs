//! A request that goes on while nobody waits for its answer.

use tokio_util::task::AbortOnDropHandle;

/// What the host is being asked, if anything is. Who waits in a `select!` gives
/// up whenever another arm is taken. Made anew each time, a request would never
/// be answered to one who gives up more often than answers come. Dropping this
/// ends it.
#[derive(Debug)]
pub(crate) struct Asking<T>(Option<AbortOnDropHandle<T>>);

impl<T: Send + 'static> Asking<T> {
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// The answer to what was asked before and not waited for, or else to this
    /// question. Cancel-safe.
    pub(crate) async fn answer<F>(&mut self, question: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let begin = || AbortOnDropHandle::new(tokio::spawn(question()));
        let answer = self.0.get_or_insert_with(begin).await;
        self.0 = None;
        match answer {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and who waits here with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
