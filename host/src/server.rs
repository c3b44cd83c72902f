//! The loop between the wire and the operations. It never waits for an
//! operation: what is not answered at once becomes a task, of which there is a
//! bounded number.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use skep_protocol::codec::{Envelope, peek_id, too_large};
use skep_protocol::event::{HostEvent, Topic};
use skep_protocol::op::Op;
use skep_protocol::{ErrorCode, ErrorDetails, WireError};
use skep_transport::{FramingError, Inbound, Inbox};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::publication::publish;
use crate::audit::Asked;
use crate::clock;
use crate::core::Core;
use crate::dispatch::{answer, internal, refuse};

/// How many requests of each [`Kind`] may be under way. One more is refused with
/// `rate_limited`.
const WAITING: usize = 8192;
const STOPPING: usize = 8192;
const STEERING: usize = 8192;
const CHANGING: usize = 8192;
const READING: usize = 1024;

/// Bytes of large payloads that may be under way at once.
const LARGE_BYTES: usize = 256 * 1024 * 1024;

/// A payload over this is decoded on a task, so that the loop goes on.
const LARGE: usize = 64 * 1024;

/// The host's sign of life comes this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Serves requests until told to end, or until the wire is gone.
pub(crate) async fn serve(core: Arc<Core>, mut inbox: Inbox, end: CancellationToken) {
    let places = Places::new();
    // Each on its own: requests never come first for so long that one of these does
    // not come at all, and a batch of theirs holds no request up.
    let of = || Arc::clone(&core);
    let (bounding, aging, noting, living) = (of(), of(), of(), of());
    let _others = [
        tokio::spawn(async move { bounding.registry.keep_history_bounded().await }),
        tokio::spawn(async move { aging.registry.forget_what_is_too_old().await }),
        tokio::spawn(async move { noting.registry.note_progress().await }),
        tokio::spawn(async move { give_signs_of_life(&living).await }),
    ]
    .map(AbortOnDropHandle::new);
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => break,
            inbound = inbox.recv() => match inbound {
                Some(inbound) => take(&core, &places, inbound),
                None => break,
            },
        }
    }
}

/// The places of requests that are not answered at once.
struct Places {
    waiting: Arc<Semaphore>,
    stopping: Arc<Semaphore>,
    steering: Arc<Semaphore>,
    changing: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    large_bytes: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(WAITING)),
            stopping: Arc::new(Semaphore::new(STOPPING)),
            steering: Arc::new(Semaphore::new(STEERING)),
            changing: Arc::new(Semaphore::new(CHANGING)),
            reading: Arc::new(Semaphore::new(READING)),
            large_bytes: Arc::new(Semaphore::new(LARGE_BYTES)),
        }
    }

    fn of(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        let places = match kind {
            Kind::Waits => &self.waiting,
            Kind::Stops => &self.stopping,
            Kind::Steers => &self.steering,
            Kind::Changes => &self.changing,
            Kind::Reads => &self.reading,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }

    fn for_bytes(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.large_bytes)
            .try_acquire_many_owned(bytes)
            .ok()
    }
}

/// What matters of a request before it is decoded. Each kind has places of its
/// own, so that neither who waits for an hour, and may be gone, nor who reads what
/// is on disk keeps others from ending an agent or beginning one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// For the end of an agent, and does nothing else.
    Waits,
    /// Asks for the end of agents, and waits for it up to an hour.
    Stops,
    /// Tells agents what to do, which they do soon.
    Steers,
    /// Changes anything else.
    Changes,
    Reads,
}

impl Kind {
    fn of(payload: &[u8]) -> Self {
        let Ok(Envelope { op, .. }) = Envelope::parse(payload) else {
            return Self::Reads;
        };
        match op {
            Op::AgentWait => Self::Waits,
            Op::AgentStop | Op::HostDrain => Self::Stops,
            Op::AgentKill | Op::AgentPause | Op::AgentResume | Op::AgentRefuel => Self::Steers,
            Op::ComponentPut | Op::ComponentRemove => Self::Changes,
            op if op.changes() => Self::Changes,
            _ => Self::Reads,
        }
    }

    /// What has begun to change something is not given up for want of a place.
    const fn takes_its_place_first(self) -> bool {
        match self {
            Self::Stops | Self::Steers | Self::Changes => true,
            Self::Waits | Self::Reads => false,
        }
    }
}

fn take(core: &Arc<Core>, places: &Places, Inbound { payload, peer }: Inbound) {
    let payload = match payload {
        Ok(payload) => payload,
        Err(error) => {
            let id = if let FramingError::TooLarge { id } = error {
                id
            } else {
                None
            };
            return peer.reply(refuse(core, &Asked::of_id(id), &framing_error(&error)));
        }
    };
    let id = peek_id(&payload);
    let large = payload.len() > LARGE;
    let bytes = if large {
        places.for_bytes(payload.len())
    } else {
        None
    };
    if large && bytes.is_none() {
        return peer.reply(refuse(core, &Asked::of_id(id), &rate_limited()));
    }
    let kind = Kind::of(&payload);
    let mut place = None;
    if kind.takes_its_place_first() {
        place = places.of(kind);
        if place.is_none() {
            return peer.reply(refuse(core, &Asked::of(&payload), &rate_limited()));
        }
    }
    let answering = AssertUnwindSafe(answer(Arc::clone(core), payload.clone())).catch_unwind();
    let (of_answer, of_payload) = (Arc::clone(core), payload.clone());
    // A panic is our bug, and the loop's end would be every agent's.
    let mut answering = Box::pin(answering.map(move |answer| {
        answer.unwrap_or_else(|_| {
            let error = internal("an operation panicked");
            refuse(&of_answer, &Asked::of(&of_payload), &error)
        })
    }));
    if !large && let Some(reply) = poll_once(answering.as_mut()) {
        return peer.reply(reply);
    }
    let Some(place) = place.or_else(|| places.of(kind)) else {
        return peer.reply(refuse(core, &Asked::of(&payload), &rate_limited()));
    };
    core.answering.spawn(async move {
        tokio::select! {
            answer = answering => peer.reply(answer),
            // Nobody reads the answer; whoever comes back asks again.
            () = peer.gone(), if !kind.takes_its_place_first() => {}
        }
        drop((place, bytes));
    });
}

fn rate_limited() -> WireError {
    WireError {
        details: ErrorDetails {
            retry_after_ms: Some(1000),
            ..ErrorDetails::default()
        },
        ..WireError::new(
            ErrorCode::RateLimited,
            "too many requests are under way: ask again in a second",
        )
    }
}

/// Most requests are answered without waiting for anything: they need no task.
/// What a first poll leaves unfinished is polled again by the task it becomes,
/// so that the wake-up lost here is not missed.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

fn framing_error(error: &FramingError) -> WireError {
    match error {
        FramingError::TooLarge { .. } => too_large(),
        other @ (FramingError::NoPayload | FramingError::SeveralPayloads) => {
            WireError::new(ErrorCode::Malformed, other.to_string())
        }
    }
}

/// Never returns.
async fn give_signs_of_life(core: &Core) {
    let topic = Topic::Host(core.server_id.clone());
    let mut due = tokio::time::interval(SIGN_OF_LIFE);
    loop {
        due.tick().await;
        let event = HostEvent {
            server_id: core.server_id.clone(),
            uptime_ms: core.uptime_ms(),
            agents: core.counts.read(),
            time_ms: clock::now_ms(),
        };
        publish(&core.publisher, &topic, &event);
    }
}

#[cfg(test)]
mod tests;
