//! What was handed to zeromq and not yet read by every subscriber, by when that was: each
//! subscriber reads in the order in which it was sent to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Events by the span between two looks in which they were sent. No more spans are kept
/// than there are unread events.
#[derive(Debug, Default)]
pub(crate) struct Unread(Mutex<Spans>);

#[derive(Debug, Default)]
struct Spans {
    ended: VecDeque<Span>,
    current: Mark,
    count: u64,
}

#[derive(Debug)]
struct Span {
    number: u64,
    /// Each event that is unread has a copy.
    mark: Mark,
}

/// Kept by an event until every subscriber has it.
pub(crate) type Mark = Arc<()>;

/// The first span that is not read to its end, and how many of it are left.
pub(crate) type Oldest = (u64, usize);

impl Unread {
    /// For an event that is sent now.
    pub(crate) fn mark(&self) -> Mark {
        Arc::clone(&self.spans().current)
    }

    /// How far the slowest subscriber has got: the same as before if the system has taken
    /// nothing for it since. What is sent from now on is another span.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let mut spans = self.spans();
        let (number, mark) = (spans.count, std::mem::take(&mut spans.current));
        spans.count += 1;
        spans.ended.push_back(Span { number, mark });
        spans.ended.retain(|span| span.unread() > 0);
        let span = spans.ended.front()?;
        Some((span.number, span.unread()))
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    fn unread(&self) -> usize {
        Arc::strong_count(&self.mark) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_slowly_gets_on_and_who_does_not_read_stands() {
        let unread = Unread::default();
        assert_eq!(unread.oldest(), None);
        let mut slow: Vec<_> = (0..10).map(|_| unread.mark()).collect();
        let first = unread.oldest().unwrap();
        assert_eq!(first.1, 10);
        // More that is sent, and that others read, changes nothing.
        for _ in 0..1000 {
            drop(unread.mark());
        }
        let later = unread.mark();
        assert_eq!(unread.oldest(), Some(first));
        slow.pop();
        assert_eq!(unread.oldest(), Some((first.0, 9)));
        drop(slow);
        let next = unread.oldest().unwrap();
        assert!(next.0 > first.0 && next.1 == 1, "{next:?}");
        drop(later);
        assert_eq!(unread.oldest(), None);
    }

    #[test]
    fn only_spans_with_something_unread_are_kept() {
        let unread = Unread::default();
        let mut kept = Vec::new();
        for round in 0..1000 {
            if round % 100 == 0 {
                kept.push(unread.mark());
            }
            drop(unread.mark());
            unread.oldest();
        }
        assert_eq!(unread.spans().ended.len(), kept.len());
    }
}
