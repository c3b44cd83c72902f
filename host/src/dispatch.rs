//! From a payload to the payload that answers it: one exhaustive match over
//! the operations, and the one place where a failure becomes a wire error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use skep_protocol::codec::{self, EncodeError, Envelope};
use skep_protocol::op::{AgentSpawn, Request};
use skep_protocol::{Digest, ErrorCode, ErrorDetails, RequestId, WireError};

use crate::agent::spec::Denied;
use crate::audit::Asked;
use crate::components::StoreError;
use crate::core::Core;
use crate::op::{self, Error};
use crate::replies::Claim;
use crate::store::{Change, Reply};

/// A request that has no answer by then is told to have begun.
const LONG: Duration = Duration::from_millis(100);

/// Answers one payload. What changes something is done once per id, however
/// often it is sent, also if the host dies in between.
pub async fn answer(core: Arc<Core>, payload: Bytes) -> Bytes {
    let mut asked = Asked::now();
    let envelope = match Envelope::parse(&payload) {
        Ok(envelope) => envelope,
        Err(rejection) => {
            asked.bears(rejection.id);
            return refuse(&core, &asked, &rejection.error);
        }
    };
    let Envelope { id, op, .. } = envelope;
    asked.bears(Some(id));
    asked.asks(op);
    if !op.changes() {
        return match perform(&core, &envelope, None, asked).await {
            Answer::New(answer) | Answer::Kept(answer) => answer,
        };
    }
    let request = fingerprint(&envelope);
    match core.replies.claim(id, request) {
        Claim::New(promise) => {
            let answer = match perform(&core, &envelope, Some(request), asked).await {
                Answer::Kept(answer) => answer,
                Answer::New(answer) => {
                    // What was done is done: an answer that cannot be written
                    // down, or not soon, is given all the same.
                    let reply = reply(&core, id, request, answer.clone());
                    core.store.write_if_possible(Change::Replied(reply)).await;
                    answer
                }
            };
            promise.keep(&answer);
            answer
        }
        Claim::Answered(answer) => answer,
        Claim::UnderWay(mut answer) => match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_default(),
            Err(_) => {
                let error = internal("the request that this one repeats was not finished");
                refuse(&core, &asked, &error)
            }
        },
        Claim::Conflict => {
            let error = WireError::of_field(
                ErrorCode::Conflict,
                "id",
                "another request bore this id: each request needs one of its own",
            );
            refuse(&core, &asked, &error)
        }
    }
}

/// Which request it is, apart from its id.
fn fingerprint(envelope: &Envelope<'_>) -> Digest {
    Digest::of(&[envelope.op.as_str().as_bytes(), b"\0", envelope.body].concat())
}

fn reply(core: &Core, id: RequestId, request: Digest, answer: Bytes) -> Reply {
    Reply {
        id,
        request,
        answer,
        given_ms: core.replies.now_ms(),
    }
}

/// The payload that answers.
enum Answer {
    New(Bytes),
    /// It is written down already, together with what it tells of.
    Kept(Bytes),
}

/// `remembered` is which request it is, where its answer is remembered.
async fn perform(
    core: &Arc<Core>,
    envelope: &Envelope<'_>,
    remembered: Option<Digest>,
    mut asked: Asked,
) -> Answer {
    let id = envelope.id;
    let request = match envelope.decode() {
        Ok(request) => request,
        Err(error) => return Answer::New(refuse(core, &asked, &error)),
    };
    if core.audit.is_some() {
        asked.says(&request);
    }
    let (result, kept) = match (request, remembered) {
        (Request::AgentSpawn(body), Some(digest)) => {
            let spawned = spawn(core, id, digest, body, &mut asked).await;
            let kept = matches!(spawned, Ok(Ok(_)));
            (spawned, kept)
        }
        (request, _) => {
            let mut whole = false;
            let executing = execute(core, id, request, &mut whole);
            let executed = tell_if_long(core, &asked, executing).await;
            if whole {
                asked.completed();
            }
            (executed.map(|answer| answer.map(Bytes::from)), false)
        }
    };
    let answer = match result {
        Ok(Ok(answer)) => {
            told(core, &asked, None);
            answer
        }
        Ok(Err(error)) => refuse(core, &asked, &unwritable(&error)),
        Err(error) => refuse(core, &asked, &wire_error(&error)),
    };
    if kept {
        Answer::Kept(answer)
    } else {
        Answer::New(answer)
    }
}

/// An agent and the answer that tells of it are written down as one, and then it
/// begins.
async fn spawn(
    core: &Arc<Core>,
    id: RequestId,
    request: Digest,
    body: AgentSpawn,
    asked: &mut Asked,
) -> Result<Result<Bytes, EncodeError>, Error> {
    let prepared = op::spawn::prepare(core, body).await?;
    let told = prepared.reply();
    let answer = match codec::encode_reply(id, &told) {
        Ok(answer) => Bytes::from(answer),
        Err(error) => return Ok(Err(error)),
    };
    op::spawn::begin(core, prepared, reply(core, id, request, answer.clone())).await?;
    asked.made(&told);
    Ok(Ok(answer))
}

/// The answer as it is written down; the outer error is the operation's.
type Executed = Result<Result<Vec<u8>, EncodeError>, Error>;

/// Some requests are carried out at once and answered an hour later. Until then a
/// host that dies would leave no trace of who had asked for it.
async fn tell_if_long<T>(core: &Core, asked: &Asked, executing: impl Future<Output = T>) -> T {
    let Some(audit) = &core.audit else {
        return executing.await;
    };
    tokio::pin!(executing);
    if let Ok(executed) = tokio::time::timeout(LONG, executing.as_mut()).await {
        return executed;
    }
    audit.record_begun(asked);
    executing.await
}

/// `whole` becomes true with the last part of a component.
async fn execute(core: &Arc<Core>, id: RequestId, request: Request, whole: &mut bool) -> Executed {
    fn granted<R: Serialize>(id: RequestId, reply: &R) -> Executed {
        Ok(codec::encode_reply(id, reply))
    }
    match request {
        Request::HostHello(_) => granted(id, &op::host::hello(core)),
        Request::HostHealth(_) => granted(id, &op::host::health(core)),
        Request::HostStats(_) => granted(id, &op::host::stats(core)),
        Request::HostDrain(body) => granted(id, &op::host::drain(core, &body).await?),
        Request::HostGc(body) => granted(id, &op::gc::gc(core, &body).await),
        Request::ComponentPut(body) => {
            let reply = op::component::put(core, body).await?;
            *whole = reply.complete;
            granted(id, &reply)
        }
        Request::ComponentStat(body) => granted(id, &op::component::stat(core, body.digest)?),
        Request::ComponentCheck(body) => {
            granted(id, &op::check::check(core, body, wire_error).await?)
        }
        Request::ComponentList(body) => granted(id, &op::component::list(core, &body)?),
        Request::ComponentRemove(body) => {
            granted(id, &op::component::remove(core, body.digest).await?)
        }
        // Its answer is remembered: see `spawn`.
        Request::AgentSpawn(_) => Err(Error::Internal("a spawn without its request")),
        Request::AgentList(body) => granted(id, &op::agents::list(core, &body).await?),
        Request::AgentGet(body) => granted(id, &op::agents::get(core, body.agent).await?),
        Request::AgentPause(body) => granted(id, &op::control::pause(core, body.agent).await?),
        Request::AgentResume(body) => granted(id, &op::control::resume(core, body.agent).await?),
        Request::AgentRefuel(body) => granted(id, &op::control::refuel(core, &body).await?),
        Request::AgentStop(body) => granted(id, &op::control::stop(core, &body).await?),
        Request::AgentKill(body) => granted(id, &op::control::kill(core, body.agent).await?),
        Request::AgentWait(body) => granted(id, &op::control::wait(core, &body).await?),
        Request::AgentStdin(body) => granted(id, &op::control::stdin(core, &body).await?),
        Request::AgentOutput(body) => granted(id, &op::output::output(core, &body).await?),
        Request::AgentFiles(body) => granted(id, &op::files::files(core, body).await?),
        Request::AgentFile(body) => granted(id, &op::files::file(core, body).await?),
        Request::AgentSubscribe(body) => granted(id, &op::output::subscribe(core, &body).await?),
        Request::AgentForget(body) => granted(id, &op::agents::forget(core, body.agent).await?),
        Request::Unsupported(op) => Err(Error::Unsupported(op.as_str())),
    }
}

/// Counts and records how a request ended: each passes here once.
fn told(core: &Core, asked: &Asked, refusal: Option<&WireError>) {
    core.tally
        .answered(asked.op(), refusal.map(|refusal| refusal.code));
    if let Some(audit) = &core.audit {
        audit.record(asked, refusal);
    }
}

/// The payload that refuses, counted and recorded.
pub(crate) fn refuse(core: &Core, asked: &Asked, error: &WireError) -> Bytes {
    told(core, asked, Some(error));
    match codec::encode_error(asked.id(), error) {
        Ok(answer) => Bytes::from(answer),
        Err(cause) => {
            tracing::error!(%cause, code = %error.code, "a refusal could not be written down");
            Bytes::from_static(b"\x80")
        }
    }
}

fn unwritable(error: &EncodeError) -> WireError {
    tracing::error!(%error, "an answer could not be written down");
    internal("an answer could not be written down")
}

/// The answer to what failed through a bug of ours.
pub(crate) fn internal(what: &'static str) -> WireError {
    wire_error(&Error::Internal(what))
}

pub(crate) fn wire_error(error: &Error) -> WireError {
    let message = error.to_string();
    let of = |code, details| WireError {
        code,
        message: message.clone(),
        details,
    };
    let none = ErrorDetails::default;
    match error {
        Error::NoAgent(_) | Error::NoComponent(_) | Error::NoFiles(_) => {
            of(ErrorCode::NotFound, none())
        }
        Error::NoInput { .. } => WireError::of_field(ErrorCode::NotFound, "spec.inputs", message),
        Error::NoPath { .. } => WireError::of_field(ErrorCode::NotFound, "path", message),
        Error::InputsTooLarge { needed, limit } => of(
            ErrorCode::LimitTooSmall,
            ErrorDetails {
                limit: Some("disk_bytes".to_owned()),
                asked: Some(*limit),
                needed: Some(*needed),
                ..none()
            },
        ),
        Error::WrongState { state, .. } => of(
            ErrorCode::WrongState,
            ErrorDetails {
                state: Some(state.as_str().to_owned()),
                ..none()
            },
        ),
        Error::Invalid { field, .. } => {
            WireError::of_field(ErrorCode::InvalidArgument, *field, message)
        }
        Error::Unsupported(feature) => of(
            ErrorCode::UnsupportedFeature,
            ErrorDetails {
                feature: Some((*feature).to_owned()),
                ..none()
            },
        ),
        Error::Denied(Denied::Unsupported { field } | Denied::NotOfRunner { field, .. }) => {
            WireError::of_field(ErrorCode::UnsupportedFeature, *field, message)
        }
        Error::Denied(Denied::Invalid { field, .. }) => {
            WireError::of_field(ErrorCode::InvalidArgument, field, message)
        }
        Error::Denied(Denied::NotAllowed { field, .. }) => {
            WireError::of_field(ErrorCode::Denied, field, message)
        }
        Error::Denied(Denied::OverCeiling {
            limit,
            asked,
            ceiling,
        }) => of(
            ErrorCode::LimitExceedsCeiling,
            ErrorDetails {
                limit: Some(limit.as_str().to_owned()),
                asked: Some(*asked),
                ceiling: Some(*ceiling),
                ..none()
            },
        ),
        Error::Store(StoreError::Chunk { field, .. }) => {
            WireError::of_field(ErrorCode::InvalidArgument, *field, message)
        }
        Error::Store(StoreError::DigestMismatch(_)) => of(ErrorCode::DigestMismatch, none()),
        Error::Store(StoreError::BeingChecked(_)) => of(
            ErrorCode::RateLimited,
            ErrorDetails {
                retry_after_ms: Some(1000),
                ..none()
            },
        ),
        Error::Store(
            StoreError::Full { .. } | StoreError::TooMany | StoreError::TooManyUploads,
        ) => of(ErrorCode::StorageUnavailable, none()),
        Error::Component(refusal) => refusal.to_wire(),
        Error::ComponentTooLarge { asked, ceiling } => of(
            ErrorCode::TooLarge,
            ErrorDetails {
                limit: Some("component_bytes".to_owned()),
                asked: Some(*asked),
                ceiling: Some(*ceiling),
                ..none()
            },
        ),
        Error::Full(full) => of(
            ErrorCode::Capacity,
            ErrorDetails {
                running: Some(full.running as u64),
                max: Some(full.max as u64),
                queued: Some(full.queued as u64),
                ..none()
            },
        ),
        Error::NativeOff => WireError::of_field(ErrorCode::Denied, "spec.runner", message),
        Error::Program(refused) => WireError::of_field(refused.code(), refused.field(), message),
        Error::ShuttingDown | Error::LeftBehind => of(ErrorCode::ShuttingDown, none()),
        Error::Storage(_) | Error::Log(_) | Error::Files(_) | Error::Unavailable(_) => {
            of(ErrorCode::StorageUnavailable, none())
        }
        Error::Internal(what) => of(
            ErrorCode::Internal,
            ErrorDetails {
                incident: Some(crate::incident(what)),
                ..none()
            },
        ),
    }
}
