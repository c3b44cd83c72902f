use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_bytes::ByteBuf;
use skep_protocol::info::Enforcement;
use skep_protocol::spec::Stdin;
use skep_protocol::{AgentSpec, Digest, Enforced, Limits, Outcome, RequestId, Usage};

use super::*;
use crate::runner::wasm::Facts;

mod components;
mod damage;
mod model;
mod outage;
mod used;

/// A state directory that is opened again and again.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn claim(&self) -> Claim {
        let start = Instant::now();
        loop {
            // Another test may be starting a process, which has the lock until it
            // runs its program.
            match Claim::new(self.0.path()) {
                Ok(claim) => return claim,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
            }
            std::thread::yield_now();
        }
    }

    fn open(&self) -> (Store, Recovered) {
        Store::open(self.0.path(), self.claim()).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(schema::FILE)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn id(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}

fn born(number: u8) -> Born {
    let mut spec = AgentSpec::named(format!("agent-{number}").parse().unwrap());
    spec.env.insert("KEY".to_owned(), "value".to_owned());
    spec.task = "do it".to_owned();
    Born {
        spec,
        limits: Limits::default(),
        enforced: Enforced {
            memory: Enforcement::Enforced,
            ..Enforced::all(Enforcement::None)
        },
        created_ms: 1_000 + u64::from(number),
    }
}

/// What is left of it once the agent has ended.
fn wiped(number: u8) -> Born {
    let mut born = born(number);
    born.spec.env.insert("KEY".to_owned(), String::new());
    born
}

fn known(outcome: Option<Outcome>, ended_ms: u64) -> Known {
    Known {
        generation: 2,
        fuel: 7,
        started_ms: Some(2),
        exited_ms: outcome.as_ref().map(|_| ended_ms),
        outcome,
        receipt: None,
        usage: Usage::default(),
        next_seq: 3,
        asked_to_end: false,
        restart: None,
        failed_ms: Vec::new(),
    }
}

fn reply(number: u8) -> Reply {
    Reply {
        id: RequestId::from_bytes([number; 16]),
        request: Digest::of(&[number]),
        answer: Bytes::from(vec![number; 10]),
        given_ms: crate::clock::now_ms(),
    }
}

fn agent(number: u8, ticket: Option<u64>) -> Box<Spawned> {
    let born = born(number);
    Box::new(Spawned {
        id: id(number),
        name: born.spec.name.clone(),
        ticket,
        born,
        known: known(None, 0),
    })
}

fn spawned(number: u8, ticket: Option<u64>) -> Change {
    Change::Spawned(agent(number, ticket), reply(number))
}

fn end(number: u8, ended_ms: u64) -> Ended {
    Ended {
        id: id(number),
        bytes: 100 + u64::from(number),
        has_secrets: true,
        known: known(Some(Outcome::Killed), ended_ms),
    }
}

fn ended(number: u8, ended_ms: u64) -> Change {
    Change::Ended(Box::new(end(number, ended_ms)))
}

/// Waits for what the thread that writes will have done.
async fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(50), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn left(number: u8, ticket: Option<u64>, known: Known) -> Left {
    Left {
        id: id(number),
        ticket,
        born: born(number),
        known,
    }
}

#[tokio::test]
async fn a_host_finds_what_another_has_left() {
    let dir = Dir::new();
    let (store, nothing) = dir.open();
    assert!(nothing.agents.is_empty() && nothing.replies.is_empty());
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    store.write(spawned(1, None)).await.unwrap();
    for name in dir.names() {
        if name.starts_with("state.db") {
            assert_eq!(mode(dir.0.path().join(&name)), 0o600, "{name}");
        }
    }
    store.write(spawned(2, Some(9))).await.unwrap();
    store.write(spawned(3, Some(8))).await.unwrap();
    store.write(spawned(4, Some(10))).await.unwrap();
    store.write(spawned(5, None)).await.unwrap();
    store.write(Change::Started(id(4))).await.unwrap();
    let seen = Known {
        generation: 77,
        ..known(None, 0)
    };
    store
        .write(Change::Seen(id(4), Box::new(seen.clone())))
        .await
        .unwrap();
    store.write(ended(1, 20)).await.unwrap();
    store.write(ended(5, 10)).await.unwrap();
    // Too late.
    store
        .write(Change::Seen(id(1), Box::new(seen.clone())))
        .await
        .unwrap();
    store.write(Change::Replied(reply(9))).await.unwrap();
    store.close().await;
    assert!(store.write(ended(1, 1)).await.is_err(), "it is closed");

    let (store, found) = dir.open();
    let had_ended = |number: u8, ended_ms| {
        Comeback::Ended(EndedBefore {
            id: id(number),
            ended_ms,
            bytes: 100 + u64::from(number),
        })
    };
    assert_eq!(
        found.agents,
        [
            had_ended(5, 10),
            had_ended(1, 20),
            Comeback::Lost(left(4, None, seen)),
            Comeback::Queued(left(3, Some(8), known(None, 0))),
            Comeback::Queued(left(2, Some(9), known(None, 0))),
        ]
    );
    let replies: Vec<_> = found.replies.iter().map(|reply| reply.id).collect();
    assert_eq!(replies, [1, 2, 3, 4, 5, 9].map(|number| reply(number).id));
    let recalled = store.recall(vec![id(1), id(77), id(5)]).await.unwrap();
    assert_eq!(
        recalled,
        [
            (id(1), Ok((wiped(1), known(Some(Outcome::Killed), 20)))),
            (id(5), Ok((wiped(5), known(Some(Outcome::Killed), 10)))),
        ]
    );
    let name = "agent-5".parse().unwrap();
    assert_eq!(store.named(name).await.unwrap(), [id(5)]);
    store
        .write(Change::Forgotten(vec![id(1), id(5)]))
        .await
        .unwrap();
    assert_eq!(store.recall(vec![id(1)]).await.unwrap(), []);
    store.close().await;
}

#[tokio::test]
async fn what_has_happened_is_written_when_it_can_be_and_nothing_else_is() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    store.write(spawned(1, None)).await.unwrap();
    store.write(spawned(2, None)).await.unwrap();
    // As if there were no room: nobody else can write now.
    let other = Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        let refused = store.write(spawned(3, None)).await.unwrap_err();
        assert!(refused.to_string().contains("state directory"), "{refused}");
    }
    let trouble = store.trouble().unwrap();
    assert!(trouble.contains("locked"), "{trouble}");
    assert!(store.write(ended(1, 5)).await.is_err());
    assert!(store.write(Change::Forgotten(vec![id(2)])).await.is_err());
    // What is there can be read all the while.
    assert_eq!(store.recall(vec![id(1)]).await.unwrap().len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    until("it heals", || store.trouble().is_none()).await;
    store.write(spawned(4, None)).await.unwrap();
    store.close().await;
    let (store, found) = dir.open();
    let ids: Vec<_> = found.agents.iter().map(Comeback::id).collect();
    assert_eq!(ids, [id(1), id(4)]);
    assert!(matches!(found.agents[0], Comeback::Ended(_)));
    store.close().await;
}

/// However many wait for the store, others have threads to wait with.
#[test]
fn those_who_wait_for_their_turn_hold_no_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = Dir::new();
        let (store, _) = dir.open();
        store.write(spawned(1, None)).await.unwrap();
        let kept = store.0.as_ref().unwrap();
        let reading = Arc::clone(&kept.reader).lock_owned().await;
        let begun = Arc::new(AtomicUsize::new(0));
        let mut waiting: Vec<_> = (0..10)
            .map(|_| {
                let (store, begun) = (store.clone(), Arc::clone(&begun));
                tokio::spawn(async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    store.recall(vec![id(1)]).await
                })
            })
            .collect();
        while begun.load(Ordering::SeqCst) < 10 {
            tokio::task::yield_now().await;
        }
        let other = tokio::task::spawn_blocking(|| 7);
        let other = tokio::time::timeout(Duration::from_secs(10), other).await;
        assert_eq!(other.unwrap().unwrap(), 7);
        assert!(waiting.iter().all(|one| !one.is_finished()));
        drop(reading);
        for one in waiting.drain(..) {
            assert_eq!(one.await.unwrap().unwrap().len(), 1);
        }
        store.close().await;
    });
}

#[tokio::test]
async fn replies_are_forgotten_as_those_in_memory_are() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    // Whatever the time of day: somebody may set the machine's clock.
    let old = Reply {
        given_ms: 1,
        ..reply(1)
    };
    for _ in 0..200 {
        let reply = Reply {
            id: RequestId::random(),
            ..old.clone()
        };
        store.write(Change::Replied(reply)).await.unwrap();
    }
    store.close().await;
    let (store, found) = dir.open();
    assert_eq!(found.replies.len(), 200);
    let later = Reply {
        id: RequestId::random(),
        given_ms: 400_000,
        ..old
    };
    store.write(Change::Replied(later)).await.unwrap();
    store.close().await;
    let (store, found) = dir.open();
    assert_eq!(found.replies.len(), 1);
    // Bytes are bounded too.
    for _ in 0..9 {
        let reply = Reply {
            id: RequestId::random(),
            answer: Bytes::from(vec![0; crate::replies::MAX_BYTES / 4]),
            ..reply(1)
        };
        store.write(Change::Replied(reply)).await.unwrap();
    }
    store.close().await;
    let (store, found) = dir.open();
    let bytes: usize = found.replies.iter().map(|reply| reply.answer.len()).sum();
    // One more than fits is there until the next comes.
    assert!(bytes <= crate::replies::MAX_BYTES / 4 * 5, "{bytes}");
    store.close().await;
}

#[tokio::test]
async fn a_store_that_is_absent_keeps_nothing_and_refuses_nothing() {
    let store = Store::absent();
    store.write(spawned(1, None)).await.unwrap();
    assert_eq!(store.recall(vec![id(1)]).await.unwrap(), []);
    assert_eq!(store.trouble(), None);
    store.close().await;
}

/// One of many ended agents costs a start a check of its pages, and an entry of an
/// index.
#[expect(clippy::print_stdout, reason = "how long it takes is worth knowing")]
#[tokio::test]
async fn many_that_have_ended_are_found_quickly() {
    const AGENTS: u64 = 10_000;
    let dir = Dir::new();
    let (store, _) = dir.open();
    let mut last = None;
    for number in 0..AGENTS {
        let id = AgentId::random();
        let reply = Reply {
            id: RequestId::random(),
            ..reply(1)
        };
        let agent = Box::new(Spawned {
            id,
            ..*agent(1, None)
        });
        store.note(Change::Spawned(agent, reply)).await;
        let ended = Ended {
            id,
            ..end(1, number)
        };
        store.note(Change::Ended(Box::new(ended))).await;
        last = Some(id);
    }
    store.close().await;
    let start = Instant::now();
    let (store, found) = dir.open();
    let took = start.elapsed();
    println!("{AGENTS} agents that have ended: open after {took:?}");
    assert_eq!(found.agents.len() as u64, AGENTS);
    assert_eq!(found.agents.last().map(Comeback::id), last);
    // 2 s for ten times as many, and ten times that for a busy machine.
    assert!(took < Duration::from_secs(2), "{took:?}");
    store.close().await;
}

/// All bytes of the store's files.
fn bytes_of(dir: &Dir) -> Vec<u8> {
    let read = |path| std::fs::read(path).unwrap_or_default();
    schema::files(dir.0.path()).map(read).concat()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|found| found == text.as_bytes())
}

#[tokio::test]
async fn what_was_handed_to_an_agent_does_not_outlive_it() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    // One that fits into its row, and one that lies in pages of its own.
    let secrets = ["a-short-secret".to_owned(), "a-long-secret".repeat(2_000)];
    for (number, secret) in (1..).zip(&secrets) {
        let mut agent = agent(number, None);
        agent.born.spec.env.insert("KEY".to_owned(), secret.clone());
        agent.born.spec.stdin = Stdin::Data(ByteBuf::from(secret.clone()));
        let spawned = Change::Spawned(agent, reply(number));
        store.write(spawned).await.unwrap();
    }
    let before = bytes_of(&dir);
    for secret in ["a-short-secret", "a-long-secret"] {
        assert!(
            holds(&before, secret),
            "it is looked for in the wrong place"
        );
    }
    store.write(ended(1, 10)).await.unwrap();
    store.write(ended(2, 20)).await.unwrap();
    let recalled = store.recall(vec![id(1), id(2)]).await.unwrap();
    for (_, record) in recalled {
        let (born, _) = record.unwrap();
        assert_eq!(born.spec.env["KEY"], "");
        assert_eq!(born.spec.stdin, Stdin::Data(ByteBuf::new()));
        assert_eq!(born.spec.task, "do it");
    }
    // While the host goes on, too.
    until("it is gone", || !holds(&bytes_of(&dir), "secret")).await;
    store.close().await;
}

#[expect(clippy::print_stdout, reason = "how long it takes is worth knowing")]
#[tokio::test]
async fn what_many_agents_took_goes_back_to_the_disk() {
    const AGENTS: usize = 4_000;
    let dir = Dir::new();
    let (store, _) = dir.open();
    let mut ids = Vec::new();
    for _ in 0..AGENTS {
        let mut agent = agent(1, None);
        agent.id = AgentId::random();
        agent.born.spec.task = "x".repeat(4_000);
        let reply = Reply {
            id: RequestId::random(),
            ..reply(1)
        };
        ids.push(agent.id);
        store.note(Change::Spawned(agent, reply)).await;
    }
    let start = Instant::now();
    for batch in ids.chunks(256) {
        let _ = store.write(Change::Forgotten(batch.to_vec())).await;
    }
    let (took, most) = (start.elapsed(), store.bytes());
    println!("{AGENTS} agents forgotten in {took:?}, from {most} bytes");
    assert!(most > 20_000_000, "{most}");
    let start = Instant::now();
    // What is free for others, and what is there besides.
    until("most is free", || store.bytes() <= 6_000_000).await;
    println!("{} bytes after {:?}", store.bytes(), start.elapsed());
    store.write(spawned(7, None)).await.unwrap();
    store.close().await;
    let (store, found) = dir.open();
    assert_eq!(found.agents.len(), 1);
    store.close().await;
}
