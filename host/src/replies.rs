//! What was answered to requests that change something, so that a request
//! which is sent again is answered again and never done again. Bounded in
//! time, count and bytes; what falls out of it is done anew if it comes again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_protocol::{Digest, RequestId};
use tokio::sync::watch;

use crate::clock::{self, Steady};
use crate::store::Reply;

pub(crate) const REMEMBER_FOR: Duration = Duration::from_secs(300);
pub(crate) const MAX_REPLIES: usize = 10_000;
pub(crate) const MAX_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
enum Answer {
    UnderWay(watch::Receiver<Option<Bytes>>),
    Given(Bytes),
}

#[derive(Debug)]
struct Entry {
    request: Digest,
    answer: Answer,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<RequestId, Entry>,
    /// The answers that were given, oldest first.
    given: VecDeque<(Instant, RequestId, usize)>,
    bytes: usize,
    /// By which they grow old, from host to host. It goes on where the last answer
    /// of the host before was given: how long no host was there, a clock that
    /// somebody may have set cannot prove.
    clock: Option<Steady>,
}

/// The memory of one principal's replies.
#[derive(Debug, Default)]
pub struct ReplyMemory {
    state: Mutex<State>,
}

/// What the memory knows of a request.
#[derive(Debug)]
pub enum Claim {
    /// Nothing: it is to be done, and its answer given to the promise.
    New(Promise),
    /// It was answered.
    Answered(Bytes),
    /// It is being done; the answer comes here. `None` for ever, if whoever
    /// does it fails.
    UnderWay(watch::Receiver<Option<Bytes>>),
    /// Another request bore this id.
    Conflict,
}

/// The duty to answer a request. Dropped without an answer, the request is
/// forgotten, and may be done anew.
#[derive(Debug)]
pub struct Promise {
    memory: Arc<ReplyMemory>,
    id: RequestId,
    answer: watch::Sender<Option<Bytes>>,
    kept: bool,
}

impl ReplyMemory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the answers that a host before has given, oldest first.
    pub fn take_up(&self, replies: Vec<Reply>) {
        let now = Instant::now();
        let mut state = self.state();
        let last_ms = replies.iter().map(|reply| reply.given_ms).max();
        let now_ms = last_ms.unwrap_or_else(clock::now_ms);
        state.clock = Some(Steady::since(now_ms));
        // Of a request that was forgotten and done anew, the last answer counts.
        for reply in replies.into_iter().rev() {
            if state.entries.contains_key(&reply.id) {
                continue;
            }
            let age = Duration::from_millis(now_ms.saturating_sub(reply.given_ms));
            // The machine may have started less long ago than that.
            let given = now.checked_sub(age).unwrap_or(now);
            let bytes = reply.answer.len();
            let entry = Entry {
                request: reply.request,
                answer: Answer::Given(reply.answer),
            };
            state.entries.insert(reply.id, entry);
            state.bytes += bytes;
            state.given.push_front((given, reply.id, bytes));
        }
        state.forget_old(now);
    }

    /// When an answer is given, for the hosts that come after.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let mut state = self.state();
        let clock = state
            .clock
            .get_or_insert_with(|| Steady::since(clock::now_ms()));
        clock.now_ms()
    }

    /// Asks for a request by its id and the digest of what it asks.
    pub fn claim(self: &Arc<Self>, id: RequestId, request: Digest) -> Claim {
        let mut state = self.state();
        state.forget_old(Instant::now());
        if let Some(entry) = state.entries.get(&id) {
            return match &entry.answer {
                _ if entry.request != request => Claim::Conflict,
                Answer::UnderWay(answer) => Claim::UnderWay(answer.clone()),
                Answer::Given(answer) => Claim::Answered(answer.clone()),
            };
        }
        let (answer, under_way) = watch::channel(None);
        state.entries.insert(
            id,
            Entry {
                request,
                answer: Answer::UnderWay(under_way),
            },
        );
        Claim::New(Promise {
            memory: Arc::clone(self),
            id,
            answer,
            kept: false,
        })
    }
}

impl Promise {
    /// Gives the answer, to those who wait and to those who will ask.
    pub fn keep(mut self, answer: &Bytes) {
        self.kept = true;
        {
            let mut state = self.memory.state();
            if let Some(entry) = state.entries.get_mut(&self.id) {
                entry.answer = Answer::Given(answer.clone());
                state.bytes += answer.len();
                state
                    .given
                    .push_back((Instant::now(), self.id, answer.len()));
            }
            state.forget_old(Instant::now());
        }
        self.answer.send_replace(Some(answer.clone()));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            self.memory.state().entries.remove(&self.id);
        }
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while let Some((given, id, bytes)) = self.given.front().copied() {
            let stays = now.duration_since(given) < REMEMBER_FOR
                && self.given.len() <= MAX_REPLIES
                && self.bytes <= MAX_BYTES;
            if stays {
                break;
            }
            self.given.pop_front();
            self.bytes -= bytes;
            self.entries.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(claim: Claim) -> Promise {
        match claim {
            Claim::New(promise) => promise,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_request_is_done_once() {
        let memory = Arc::new(ReplyMemory::default());
        let (id, body, other) = (RequestId::random(), Digest::of(b"a"), Digest::of(b"b"));
        let promise = new(memory.claim(id, body));
        let Claim::UnderWay(mut waiter) = memory.claim(id, body) else {
            panic!("it is under way")
        };
        assert!(matches!(memory.claim(id, other), Claim::Conflict));
        promise.keep(&Bytes::from_static(b"done"));
        assert_eq!(
            waiter.wait_for(Option::is_some).await.unwrap().as_deref(),
            Some(&b"done"[..])
        );
        assert!(matches!(memory.claim(id, body), Claim::Answered(answer) if answer == "done"));
        assert!(matches!(memory.claim(id, other), Claim::Conflict));
    }

    #[tokio::test]
    async fn a_broken_promise_leaves_nothing() {
        let memory = Arc::new(ReplyMemory::default());
        let (id, body) = (RequestId::random(), Digest::of(b"a"));
        let promise = new(memory.claim(id, body));
        let Claim::UnderWay(mut waiter) = memory.claim(id, body) else {
            panic!("it is under way")
        };
        drop(promise);
        assert!(waiter.wait_for(Option::is_some).await.is_err());
        new(memory.claim(id, body));
    }

    #[test]
    fn what_a_host_before_has_answered_is_known_whatever_the_time_of_day() {
        const LONG_AGO_MS: u64 = 1_000_000;
        let memory = Arc::new(ReplyMemory::default());
        let (old, new, request) = (RequestId::random(), RequestId::random(), Digest::of(b""));
        let reply = |id, age: Duration| Reply {
            id,
            request,
            answer: Bytes::from_static(b"done"),
            given_ms: LONG_AGO_MS - u64::try_from(age.as_millis()).unwrap(),
        };
        let last = reply(RequestId::random(), Duration::ZERO);
        memory.take_up(vec![
            reply(old, REMEMBER_FOR),
            reply(new, REMEMBER_FOR / 2),
            last.clone(),
        ]);
        assert!(memory.now_ms() - LONG_AGO_MS < 60_000);
        let claim = memory.claim(last.id, request);
        assert!(matches!(claim, Claim::Answered(answer) if answer == "done"));
        let claim = memory.claim(new, request);
        assert!(matches!(claim, Claim::Answered(answer) if answer == "done"));
        let other = memory.claim(new, Digest::of(b"other"));
        assert!(matches!(other, Claim::Conflict));
        self::new(memory.claim(old, request)).keep(&Bytes::new());
        assert_eq!(memory.state().entries.len(), 3);

        // One that was forgotten in between, and done anew.
        let memory = Arc::new(ReplyMemory::default());
        let anew = Reply {
            answer: Bytes::from_static(b"anew"),
            ..reply(old, Duration::ZERO)
        };
        memory.take_up(vec![
            reply(old, REMEMBER_FOR),
            reply(new, REMEMBER_FOR / 2),
            anew,
        ]);
        let claim = memory.claim(old, request);
        assert!(matches!(claim, Claim::Answered(answer) if answer == "anew"));
        let claim = memory.claim(new, request);
        assert!(matches!(claim, Claim::Answered(answer) if answer == "done"));
    }

    #[test]
    fn count_and_bytes_are_bounded() {
        let memory = Arc::new(ReplyMemory::default());
        let first = RequestId::random();
        new(memory.claim(first, Digest::of(b""))).keep(&Bytes::new());
        for _ in 0..MAX_REPLIES {
            new(memory.claim(RequestId::random(), Digest::of(b""))).keep(&Bytes::new());
        }
        assert_eq!(memory.state().entries.len(), MAX_REPLIES);
        new(memory.claim(first, Digest::of(b"")));

        let large = Bytes::from(vec![0; MAX_BYTES / 4]);
        for _ in 0..8 {
            new(memory.claim(RequestId::random(), Digest::of(b""))).keep(&large);
        }
        assert!(memory.state().bytes <= MAX_BYTES);
        assert!(memory.state().entries.len() <= 4);
    }
}
