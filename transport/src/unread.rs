//! What was handed to zeromq and not yet read by every subscriber, by when that was: each
//! subscriber reads in the order in which it was sent to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Spans between two looks, of which all but the last have something unread: no more
/// than there are unread events, and one.
#[derive(Debug, Default)]
pub(crate) struct Unread(Mutex<Spans>);

#[derive(Debug, Default)]
struct Spans {
    kept: VecDeque<Span>,
    begun: u64,
}

#[derive(Debug)]
struct Span {
    number: u64,
    /// Each event that is unread has a copy.
    mark: Arc<()>,
}

/// Kept by an event until every subscriber has it.
pub(crate) type Mark = Arc<()>;

/// The first span that is not read to its end, and how many of it are left.
pub(crate) type Oldest = (u64, usize);

impl Unread {
    /// For an event that is sent now.
    pub(crate) fn mark(&self) -> Mark {
        let mut spans = self.spans();
        if spans.kept.is_empty() {
            spans.begin();
        }
        spans
            .kept
            .back()
            .map(|span| Arc::clone(&span.mark))
            .unwrap_or_default()
    }

    /// Where subscribers are: the same again if and only if the last of them has read
    /// nothing since. What is sent from now on is another span.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let mut spans = self.spans();
        spans.kept.retain(|span| span.unread() > 0);
        spans.begin();
        let span = spans.kept.front()?;
        (span.unread() > 0).then(|| (span.number, span.unread()))
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spans {
    fn begin(&mut self) {
        self.begun += 1;
        self.kept.push_back(Span {
            number: self.begun,
            mark: Mark::default(),
        });
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
        assert_eq!(unread.spans().kept.len(), kept.len() + 1);
    }
}
