//! Waiting for what must come: on a state, never for a time.

use std::future::Future;
use std::time::{Duration, Instant};

/// More than ten times what anything in these tests should take on two shared
/// cores, so that only what never comes is late.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at that nothing announces.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits for a future, within the deadline.
///
/// # Panics
/// With what was waited for, if it is late.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Asks again and again until the answer is some value, within the deadline.
///
/// # Panics
/// With what was waited for, if it is late.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = soon(what, ask()).await {
            return value;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
