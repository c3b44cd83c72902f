//! The requests that wait for their answer, by id. The one bound on what a
//! connection holds for sending: sockets come and go, the table stays, and what
//! is in it is sent again over each new socket, but for what is for one host alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use skep_protocol::{MAX_PAYLOAD, RequestId};
use tokio::sync::{Notify, oneshot};

use super::stats::Counters;

/// Why a request has no answer. After `Timeout` and `Closed` the host may have
/// done what was asked: repeat under the same id to learn it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No answer in time. The request is forgotten here, maybe not there.
    #[error("no answer within {0:?}; the same request may be repeated under its id")]
    Timeout(Duration),
    /// The connection was closed by its user, or the host in this process ended.
    #[error("the connection is closed")]
    Closed,
    /// It was for one host alone, which may have done what was asked.
    #[error("the host went away before it answered, and none after it is asked")]
    Lost,
    /// The connection gave up.
    #[error("the connection failed: {0}")]
    Failed(Arc<str>),
    /// Too many requests, or bytes of them, wait for an answer.
    #[error("{requests} requests with {bytes} bytes are without an answer already; wait for some")]
    TooManyInFlight {
        /// How many there are.
        requests: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The payload is over the cap of the protocol.
    #[error("the request has {bytes} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// A request under this id is being waited for.
    #[error("a request with the id {0} is under way already")]
    UnderWay(RequestId),
}

/// Whether a request is sent again over the next connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Always,
    /// Behind the next connection may be the next host.
    Never,
}

/// Tells one use of an id from a later one.
pub(crate) type Serial = u64;

#[derive(Debug)]
pub(crate) struct Table {
    state: Mutex<State>,
    unsent: Notify,
    suspicion: Notify,
    max_requests: usize,
    max_bytes: usize,
    suspect_after: Duration,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    requests: HashMap<RequestId, Entry>,
    /// Those that were not sent over the present socket, oldest first.
    unsent: BTreeMap<Serial, RequestId>,
    bytes: usize,
    serial: Serial,
    /// When something was last received, or the socket was made.
    heard: Instant,
    ended: Option<RequestError>,
}

#[derive(Debug)]
struct Entry {
    serial: Serial,
    payload: Bytes,
    repeat: Repeat,
    reply: oneshot::Sender<Result<Bytes, RequestError>>,
    sent: Option<Instant>,
}

/// A place in the table, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    table: Arc<Table>,
    pub(crate) id: RequestId,
    pub(crate) serial: Serial,
    reply: oneshot::Receiver<Result<Bytes, RequestError>>,
}

impl Table {
    pub(crate) fn new(
        max_requests: usize,
        max_bytes: usize,
        suspect_after: Duration,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                requests: HashMap::new(),
                unsent: BTreeMap::new(),
                bytes: 0,
                serial: 0,
                heard: Instant::now(),
                ended: None,
            }),
            unsent: Notify::new(),
            suspicion: Notify::new(),
            max_requests,
            max_bytes,
            suspect_after,
            counters,
        })
    }

    /// Takes a request in, to be sent as soon as there is a socket.
    pub(crate) fn open(
        self: &Arc<Self>,
        id: RequestId,
        payload: Bytes,
        repeat: Repeat,
    ) -> Result<Ticket, RequestError> {
        let len = payload.len();
        if len > MAX_PAYLOAD {
            return Err(RequestError::TooLarge { bytes: len });
        }
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        if state.requests.contains_key(&id) {
            return Err(RequestError::UnderWay(id));
        }
        if state.requests.len() >= self.max_requests || state.bytes + len > self.max_bytes {
            return Err(RequestError::TooManyInFlight {
                requests: state.requests.len(),
                bytes: state.bytes,
            });
        }
        let (sender, reply) = oneshot::channel();
        state.serial += 1;
        let serial = state.serial;
        state.bytes += len;
        state.unsent.insert(serial, id);
        state.requests.insert(
            id,
            Entry {
                serial,
                payload,
                repeat,
                reply: sender,
                sent: None,
            },
        );
        drop(state);
        self.unsent.notify_one();
        Ok(Ticket {
            table: Arc::clone(self),
            id,
            serial,
            reply,
        })
    }

    /// A new socket: everything has to be sent again.
    pub(crate) fn begin_session(&self) {
        // What was suspected of the last socket is not held against this one.
        let _old = self.suspicion.notified().now_or_never();
        let mut state = self.lock();
        state.heard = Instant::now();
        let State {
            requests, unsent, ..
        } = &mut *state;
        for (id, entry) in requests {
            if entry.sent.take().is_some() {
                self.counters.repeated.one();
            }
            unsent.insert(entry.serial, *id);
        }
        drop(state);
        self.unsent.notify_one();
    }

    /// The socket is lost, and with it who was to have what is not sent again.
    /// That is all of it, sent or not: it was asked while that host was there, or
    /// before, when the next one that came was meant.
    pub(crate) fn end_session(&self) {
        let mut state = self.lock();
        let lost: Vec<RequestId> = (state.requests.iter())
            .filter(|(_, entry)| entry.repeat == Repeat::Never)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            if let Some(entry) = state.remove(id, None) {
                let _gone = entry.reply.send(Err(RequestError::Lost));
            }
        }
    }

    /// The oldest request that the present socket was not given.
    pub(crate) fn next_unsent(&self) -> Option<Bytes> {
        let mut state = self.lock();
        loop {
            let (_, id) = state.unsent.pop_first()?;
            if let Some(entry) = state.requests.get_mut(&id) {
                entry.sent = Some(Instant::now());
                return Some(entry.payload.clone());
            }
        }
    }

    /// Resolves when there may be something to send.
    pub(crate) async fn has_unsent(&self) {
        self.unsent.notified().await;
    }

    /// Hands a reply to whom it answers; false if nobody waits for it.
    pub(crate) fn complete(&self, id: RequestId, payload: Bytes) -> bool {
        let mut state = self.lock();
        state.heard = Instant::now();
        match state.remove(id, None) {
            Some(entry) => entry.reply.send(Ok(payload)).is_ok(),
            None => false,
        }
    }

    /// Ends one use of an id.
    pub(crate) fn finish(
        &self,
        id: RequestId,
        serial: Serial,
        end: Result<Bytes, RequestError>,
    ) -> bool {
        let entry = self.lock().remove(id, Some(serial));
        entry.is_some_and(|entry| entry.reply.send(end).is_ok())
    }

    /// Notes that the host said something.
    pub(crate) fn heard(&self) {
        self.lock().heard = Instant::now();
    }

    /// Ends every request, and those to come; the first cause stays.
    pub(crate) fn end(&self, cause: &RequestError) {
        let mut state = self.lock();
        let cause = state.ended.get_or_insert_with(|| cause.clone()).clone();
        state.unsent.clear();
        state.bytes = 0;
        for (_, entry) in state.requests.drain() {
            // An error: its caller has gone.
            let _gone = entry.reply.send(Err(cause.clone()));
        }
    }

    /// Resolves when the silence of the host has become suspicious.
    pub(crate) async fn suspicion(&self) {
        self.suspicion.notified().await;
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.lock().requests.len()
    }

    /// A request timed out: is the host still there?
    fn expire(&self, id: RequestId, serial: Serial) {
        self.counters.timeouts.one();
        let mut state = self.lock();
        let Some(entry) = state.remove(id, Some(serial)) else {
            return;
        };
        let unheard = entry.sent.is_some_and(|sent| state.heard <= sent);
        if unheard && state.heard.elapsed() >= self.suspect_after {
            self.suspicion.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, id: RequestId, serial: Option<Serial>) -> Option<Entry> {
        let found = self.requests.get(&id)?;
        if serial.is_some_and(|serial| serial != found.serial) {
            return None;
        }
        let entry = self.requests.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(entry.payload.len());
        self.unsent.remove(&entry.serial);
        Some(entry)
    }
}

impl Ticket {
    /// The answer.
    pub(crate) async fn answer(&mut self) -> Result<Bytes, RequestError> {
        (&mut self.reply).await.unwrap_or(Err(RequestError::Closed))
    }

    /// Gives up after the timeout.
    pub(crate) fn expire(self) {
        self.table.expire(self.id, self.serial);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.lock().remove(self.id, Some(self.serial));
    }
}
