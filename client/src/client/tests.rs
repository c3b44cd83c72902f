//! The client against a host that answers as it is told.

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;

use skep_protocol::codec::{Envelope, encode_error, encode_reply};
use skep_protocol::op::{AgentPage, AgentReply, Request, StdinReply, WaitReply};
use skep_protocol::{
    AgentId, AgentInfo, AgentName, AgentState, Enforced, Enforcement, ErrorCode, Limits, MAX_CHUNK,
    Outcome, RunnerKind, Usage, WireError,
};
use skep_transport::{Peer, local};

use super::*;

/// What a host answers: a reply, a refusal, or nothing.
type Answer = Option<Result<Vec<u8>, WireError>>;

/// A client of a host that answers each request as `answer` says.
fn host(mut answer: impl FnMut(RequestId, Request) -> Answer + Send + 'static) -> Client {
    let (mut wire, connection) = local();
    tokio::spawn(async move {
        // What is not answered is kept: forgetting it would be an answer too.
        let mut unanswered: Vec<Peer> = Vec::new();
        while let Some(message) = wire.inbox.recv().await {
            let payload = message.payload.unwrap();
            let envelope = Envelope::parse(&payload).unwrap();
            match answer(envelope.id, envelope.decode().unwrap()) {
                Some(Ok(reply)) => message.peer.reply(reply),
                Some(Err(error)) => {
                    message
                        .peer
                        .reply(encode_error(Some(envelope.id), &error).unwrap());
                }
                None => unanswered.push(message.peer),
            }
        }
    });
    Client::over(connection)
}

fn ok(id: RequestId, reply: &impl serde::Serialize) -> Answer {
    Some(Ok(encode_reply(id, reply).unwrap()))
}

fn no(code: ErrorCode) -> Answer {
    Some(Err(WireError::new(code, "no")))
}

fn info(id: AgentId, outcome: Option<Outcome>) -> AgentInfo {
    AgentInfo {
        id,
        name: "a".parse::<AgentName>().unwrap(),
        runner: RunnerKind::Wasm,
        state: if outcome.is_some() {
            AgentState::Exited
        } else {
            AgentState::Running
        },
        paused_reason: None,
        generation: 0,
        created_ms: 0,
        started_ms: None,
        exited_ms: None,
        spec: serde_json::from_value(serde_json::json!({})).unwrap(),
        limits: Limits::default(),
        usage: Usage::default(),
        enforced: Enforced::all(Enforcement::None),
        receipt: None,
        outcome,
        queue: None,
        restart: None,
        next_seq: 0,
    }
}

/// Polls once, so that a request is on its way.
async fn begin<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(1), future)
        .await
        .ok()
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_under_its_id() {
    let mut seen = HashSet::new();
    let mut count = 0;
    let client = host(move |id, _| {
        count += 1;
        seen.insert(id);
        assert_eq!(seen.len(), 1);
        let agent = info(AgentId::random(), None);
        if count == 3 {
            ok(id, &AgentReply { agent })
        } else {
            None
        }
    });
    client.kill(AgentId::random()).await.unwrap();

    let silent = host(|_, _| None);
    let error = silent.health().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Timeout { after, .. } if *after == PATIENCE * ATTEMPTS),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_and_nonsense_are_told_apart() {
    let client = host(|_, request| match request {
        Request::HostHealth(_) => no(ErrorCode::RateLimited),
        _ => Some(Ok(vec![0x80])),
    });
    let error = client.health().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::RateLimited));
    let error = client.hello().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_done_in_pieces_until_the_time_is_over() {
    let agent = AgentId::random();
    let mut asked = Vec::new();
    let client = host(move |id, request| {
        let Request::AgentWait(wait) = request else {
            panic!("{request:?}")
        };
        asked.push(wait.timeout_ms);
        let done = asked.len() == 3;
        assert!(wait.timeout_ms <= 30_000);
        let outcome = done.then_some(Outcome::Killed);
        ok(
            id,
            &WaitReply {
                agent: info(agent, outcome),
                timed_out: !done,
            },
        )
    });
    let ended = client.wait(agent, None).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Killed));

    let never = host(move |id, _| {
        ok(
            id,
            &WaitReply {
                agent: info(agent, None),
                timed_out: true,
            },
        )
    });
    let error = never.wait(agent, Some(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn uploads_go_on_from_where_they_broke_off() {
    let component: Vec<u8> = (0..5 * MAX_CHUNK / 2)
        .map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0])
        .collect();
    let whole = component.clone();
    // A whole chunk is there from before.
    let mut there = component[..MAX_CHUNK].to_vec();
    let mut offsets = Vec::new();
    let client = host(move |id, request| match request {
        Request::ComponentStat(_) => no(ErrorCode::NotFound),
        Request::ComponentPut(put) => {
            assert_eq!(
                (put.digest, put.size),
                (Digest::of(&whole), whole.len() as u64)
            );
            assert!(put.data.len() <= MAX_CHUNK);
            if !put.data.is_empty() {
                offsets.push(put.offset);
                assert_eq!(put.offset, there.len() as u64);
                there.extend_from_slice(&put.data);
            }
            let complete = there == whole;
            assert!(!complete || offsets.len() == 2);
            ok(
                id,
                &PutReply {
                    received: there.len() as u64,
                    complete,
                },
            )
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(
        client.upload(&component).await.unwrap(),
        Digest::of(&component)
    );
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_does_not_go_on_ends() {
    for received in [0, 3, u64::MAX] {
        let client = host(move |id, request| match request {
            Request::ComponentStat(_) => no(ErrorCode::NotFound),
            _ => ok(
                id,
                &PutReply {
                    received,
                    complete: false,
                },
            ),
        });
        let error = client.upload(b"abc").await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn stdin_waits_for_room_and_no_longer_than_it_should() {
    let (sender, mut taken) = tokio::sync::mpsc::channel(1000);
    let mut full = false;
    let client = host(move |id, request| {
        let Request::AgentStdin(stdin) = request else {
            panic!("{request:?}")
        };
        let data = stdin.data.unwrap_or_default();
        full = !full;
        let accepted = if full { data.len().min(50_000) } else { 0 };
        sender.try_send(data[..accepted].to_vec()).unwrap();
        ok(
            id,
            &StdinReply {
                accepted: accepted as u64,
            },
        )
    });
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    client
        .write_all_stdin(AgentId::random(), &bytes, None)
        .await
        .unwrap();
    drop(client);
    let mut all = Vec::new();
    while let Some(piece) = taken.recv().await {
        all.extend(piece);
    }
    assert!(all == bytes);

    let deaf = host(|id, _| ok(id, &StdinReply { accepted: 0 }));
    let patience = Some(Duration::from_secs(3));
    let error = deaf
        .write_all_stdin(AgentId::random(), b"x", patience)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    let forever = deaf.write_all_stdin(AgentId::random(), b"x", None);
    assert!(begin(pin!(forever)).await.is_none());

    let liar = host(|id, _| ok(id, &StdinReply { accepted: 9 }));
    let error = liar
        .write_all_stdin(AgentId::random(), b"x", None)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn pages_are_joined_and_end() {
    let mut ids: Vec<AgentId> = (0..5).map(|_| AgentId::random()).collect();
    ids.sort();
    let listed = ids.clone();
    let client = host(move |id, request| {
        let Request::AgentList(list) = request else {
            panic!("{request:?}")
        };
        let rest = listed
            .iter()
            .filter(|id| list.after.is_none_or(|after| **id > after));
        let agents: Vec<_> = rest.take(2).map(|id| info(*id, None)).collect();
        // Always another page: the client must see that it leads nowhere.
        let next = agents.last().map(|last| last.id).or(list.after);
        ok(id, &AgentPage { agents, next })
    });
    let all = client
        .list_all(&crate::AgentFilter::default())
        .await
        .unwrap();
    assert_eq!(all.iter().map(|agent| agent.id).collect::<Vec<_>>(), ids);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_gone_is_an_error_at_once() {
    let (wire, connection) = local();
    drop(wire);
    let client = Client::over(connection);
    let error = client.connected(PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Connection(RequestError::Closed)),
        "{error}"
    );
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, ClientError::Connection(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_be_read_for_a_while_is_waited_for() {
    let agent = AgentId::random();
    let mut asked = 0;
    let client = host(move |id, _| {
        asked += 1;
        if asked % 50 == 0 {
            let agent = info(agent, Some(Outcome::Exited { code: 0 }));
            return ok(
                id,
                &WaitReply {
                    agent,
                    timed_out: false,
                },
            );
        }
        no(ErrorCode::StorageUnavailable)
    });
    assert_eq!(client.wait(agent, None).await.unwrap().id, agent);

    let client = host(|_, _| no(ErrorCode::StorageUnavailable));
    let error = client.wait(agent, None).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable));
    // Not for longer than was asked for.
    let within = Some(Duration::from_secs(10));
    let error = client.wait(agent, within).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}
