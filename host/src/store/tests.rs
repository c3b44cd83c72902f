use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use skep_protocol::info::Enforcement;
use skep_protocol::spec::Stdin;
use skep_protocol::{AgentSpec, Digest, Enforced, Limits, Outcome, RequestId, Usage};

use super::*;
use crate::runner::wasm::Facts;

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

/// Writes a part of an upload down, as the first request of a client does.
async fn begin_upload(store: &Store, upload: &KeptUpload, parts: &[(u64, &'static [u8])]) {
    for &(offset, bytes) in parts {
        let bytes = Bytes::from_static(bytes);
        let written = store.write_part(upload.digest, offset, bytes);
        written.await.unwrap();
    }
    let grew = Change::UploadGrew(upload.clone());
    store.write(grew).await.unwrap();
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
async fn a_record_of_another_build_hides_nothing_else() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    for number in 1..6 {
        store.write(spawned(number, None)).await.unwrap();
    }
    for number in 1..4 {
        let ended_ms = 10 * u64::from(number);
        store.write(ended(number, ended_ms)).await.unwrap();
    }
    let kept = |number: u8| KeptComponent {
        digest: Digest::of(&[number]),
        size: 1,
        facts: Facts::default(),
        deleted: false,
        used_ms: 0,
    };
    for number in 0..3 {
        let bytes = Bytes::from(vec![number]);
        store.keep_component(kept(number), bytes).await.unwrap();
    }
    store.close().await;
    let db = Connection::open(dir.file()).unwrap();
    let sql = "UPDATE components SET facts = x'c0' WHERE rowid = 2";
    assert_eq!(db.execute(sql, []).unwrap(), 1);
    // One that has ended, one that has not, and an answer.
    for (set, number) in [("born = x'c0'", 2), ("known = x'80'", 4)] {
        let sql = format!("UPDATE agents SET {set} WHERE number = {number}");
        assert_eq!(db.execute(&sql, []).unwrap(), 1);
    }
    let sql = "UPDATE replies SET request = 'md5:0' WHERE number = 1";
    assert_eq!(db.execute(sql, []).unwrap(), 1);
    drop(db);
    // However often it is found.
    for _ in 0..2 {
        let (store, found) = dir.open();
        let ids: Vec<_> = found.agents.iter().map(Comeback::id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5].map(id));
        assert_eq!(found.agents[3], Comeback::Unreadable(id(4)));
        assert!(matches!(found.agents[4], Comeback::Lost(_)));
        assert_eq!(found.replies.len(), 4);
        assert_eq!(found.components, [kept(0), kept(2)]);
        assert_eq!(found.gone, [kept(1).digest]);
        let recalled = store.recall(vec![id(1), id(2), id(3)]).await.unwrap();
        assert!(recalled[0].1.is_ok() && recalled[2].1.is_ok());
        let error = recalled[1].1.as_ref().unwrap_err();
        assert!(
            matches!(error, Unavailable::Record { agent, .. } if *agent == id(2)),
            "{error}"
        );
        assert!(error.to_string().contains("another build"), "{error}");
        store.close().await;
    }
}

#[tokio::test]
async fn components_and_uploads_outlive_a_host() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    let bytes = Bytes::from_static(b"a component");
    let component = KeptComponent {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        facts: Facts::default(),
        deleted: false,
        used_ms: 0,
    };
    let upload = KeptUpload {
        digest: Digest::of(b"0123456789"),
        size: 10,
        parts: vec![(0, 2), (5, 3)],
    };
    begin_upload(&store, &upload, &[(5, b"567"), (0, b"01")]).await;
    store
        .keep_component(component.clone(), bytes.clone())
        .await
        .unwrap();
    let part = format!("{}.part", "5a".repeat(32));
    let others = ["new-left", &part].map(|name| dir.0.path().join("components").join(name));
    for other in &others {
        std::fs::write(other, "by a host that was killed").unwrap();
    }
    store.close().await;

    let (store, found) = dir.open();
    assert_eq!(found.components, std::slice::from_ref(&component));
    assert_eq!(found.uploads, std::slice::from_ref(&upload));
    assert!(!others.iter().any(|other| other.exists()));
    assert_eq!(
        store.load_component(component.digest).await.unwrap(),
        Some(bytes)
    );
    let parts = store.read_parts(&upload).unwrap();
    assert_eq!(parts, [b"01".to_vec(), b"567".to_vec()]);
    let longer = KeptUpload {
        parts: vec![(0, 9)],
        ..upload.clone()
    };
    assert_eq!(store.read_parts(&longer), None, "it is not all there");
    // Damaged, it is as good as gone.
    let file = dir.0.path().join("components");
    let file = file.join(component.digest.to_string().trim_start_matches("sha256:"));
    std::fs::write(&file, "a companion").unwrap();
    assert_eq!(store.load_component(component.digest).await.unwrap(), None);
    store.forget_upload(upload.digest).await;
    store.close().await;
    // Nobody is told that it is there where it can be seen that it is not.
    std::fs::write(&file, "cut").unwrap();
    let (store, found) = dir.open();
    assert_eq!(found.gone, [component.digest]);
    assert!(found.components.is_empty() && found.uploads.is_empty());
    store.forget_component(component.digest).await;
    store.close().await;
    let (store, found) = dir.open();
    assert!(found.components.is_empty() && found.gone.is_empty());
    assert_eq!(
        std::fs::read_dir(dir.0.path().join("components"))
            .unwrap()
            .count(),
        0
    );
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

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_waited_for_2_s_and_written_to_when_it_answers() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    for number in 1..4 {
        store.write(spawned(number, None)).await.unwrap();
    }
    let mut kept = Arc::into_inner(store.0.unwrap()).unwrap();
    let (work, mut waiting) = mpsc::channel(1);
    let answers = std::mem::replace(&mut kept.work, work);
    let store = Store(Some(Arc::new(kept)));
    // One takes the only place, and the others wait for it.
    for number in 1..4 {
        let begun = tokio::time::Instant::now();
        let told = store.write_what_happened(ended(number, 5));
        let told = tokio::time::timeout(LAST, told).await;
        assert!(!told.unwrap(), "it is not written");
        assert!(begun.elapsed() >= PATIENCE);
    }
    let seen = Change::Seen(id(1), Box::new(known(None, 0)));
    let told = tokio::time::timeout(LAST, store.write_if_possible(seen));
    told.await.unwrap();
    for _ in 1..4 {
        let work = waiting.recv().await.unwrap();
        answers.send(work).await.unwrap();
    }
    let (done, is_done) = oneshot::channel();
    answers.send(Work::Close(done)).await.unwrap();
    is_done.await.unwrap();
    let (store, found) = dir.open();
    let has_ended = |agent: &Comeback| matches!(agent, Comeback::Ended(_));
    assert!(found.agents.len() == 3 && found.agents.iter().all(has_ended));
    store.close().await;
}

#[tokio::test]
async fn what_is_owed_is_written_at_the_end() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    store.write(spawned(1, None)).await.unwrap();
    let other = Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..20 {
        assert!(store.write(ended(1, 5)).await.is_err());
    }
    other.execute_batch("ROLLBACK").unwrap();
    store.close().await;
    let (store, found) = dir.open();
    assert!(matches!(found.agents[..], [Comeback::Ended(_)]));
    store.close().await;
}

#[tokio::test]
async fn what_is_refused_of_components_leaves_nothing_behind() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    let bytes = |number: u8| Bytes::from(vec![number; 10]);
    let component = |number| KeptComponent {
        digest: Digest::of(&bytes(number)),
        size: 10,
        facts: Facts::default(),
        deleted: false,
        used_ms: 0,
    };
    let upload = KeptUpload {
        digest: Digest::of(b"ab"),
        size: 2,
        parts: vec![(0, 1)],
    };
    store.keep_component(component(1), bytes(1)).await.unwrap();
    begin_upload(&store, &upload, &[(0, b"a")]).await;
    let other = Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 1..4 {
        let refused = store.keep_component(component(number), bytes(number));
        assert!(refused.await.is_err());
    }
    store.forget_upload(upload.digest).await;
    let components = dir.0.path().join("components");
    assert_eq!(std::fs::read_dir(&components).unwrap().count(), 1);
    let kept = store.load_component(component(1).digest).await.unwrap();
    assert_eq!(kept, Some(bytes(1)), "it was there before");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    store.close().await;
    // What is told of an upload that is gone is of no use to the next host.
    let (store, found) = dir.open();
    assert_eq!(found.uploads, std::slice::from_ref(&upload));
    assert_eq!(store.read_parts(&upload), None);
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
    let old = crate::clock::now_ms() - 400_000;
    for _ in 0..200 {
        let reply = Reply {
            id: RequestId::random(),
            given_ms: old,
            ..reply(1)
        };
        store.write(Change::Replied(reply)).await.unwrap();
    }
    store.close().await;
    let (store, found) = dir.open();
    assert!(found.replies.len() <= 64, "{}", found.replies.len());
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
async fn a_damaged_file_is_set_aside() {
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ 0x5a)
        .collect();
    for damage in ["no file of ours", "a hole"] {
        let dir = Dir::new();
        let (store, _) = dir.open();
        for number in 0..100 {
            store.write(spawned(number, None)).await.unwrap();
        }
        store.close().await;
        drop(store);
        let of_agents = ["logs", "scratch"].map(|name| dir.0.path().join(name));
        for directory in &of_agents {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join("file"), "left").unwrap();
        }
        let mut bytes = std::fs::read(dir.file()).unwrap();
        match damage {
            "a hole" => {
                let middle = bytes.len() / 2;
                bytes[4096..middle].fill(0xff);
            }
            _ => bytes.clone_from(&garbage),
        }
        std::fs::write(dir.file(), &bytes).unwrap();
        let (store, found) = dir.open();
        assert!(found.agents.is_empty(), "{damage}");
        store.write(spawned(1, None)).await.unwrap();
        store.close().await;
        let names = dir.names();
        let aside = names
            .iter()
            .find(|name| name.starts_with("state.db.corrupt-"));
        let aside = aside.unwrap();
        let set_aside = std::fs::read(dir.0.path().join(aside)).unwrap();
        assert_eq!(set_aside, bytes, "{damage}");
        let mark = aside.strip_prefix("state.db").unwrap();
        for directory in &of_agents {
            assert!(!directory.exists());
            let aside = format!("{}{mark}/file", directory.display());
            assert_eq!(std::fs::read(&aside).unwrap(), b"left", "{aside}");
        }
        let (store, found) = dir.open();
        assert_eq!(found.agents.len(), 1);
        store.close().await;
    }
}

#[tokio::test]
async fn a_newer_version_is_refused_and_left_as_it_is() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    store.close().await;
    let newer = schema::NEWEST + 1;
    let db = Connection::open(dir.file()).unwrap();
    db.pragma_update(None, "user_version", newer).unwrap();
    drop(db);
    let error = Store::open(dir.0.path(), dir.claim()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("newer build"), "{error}");
    assert!(!dir.names().iter().any(|name| name.contains("corrupt")));
}

/// A file as version 1 wrote it.
#[tokio::test]
async fn a_file_of_version_1_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/tests/version-1.db");
    let dir = Dir::new();
    std::fs::copy(&golden, dir.file()).unwrap();
    let (store, found) = dir.open();
    let version =
        Connection::open(dir.file())
            .unwrap()
            .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    assert_eq!(version.unwrap(), schema::NEWEST);
    assert_eq!(
        found.agents,
        [
            Comeback::Ended(EndedBefore {
                id: id(1),
                ended_ms: 20,
                bytes: 101
            }),
            Comeback::Queued(left(2, Some(4), known(None, 0))),
        ]
    );
    let recalled = store.recall(vec![id(1)]).await.unwrap();
    let (mut of_ended, known_of_ended) = recalled[0].1.clone().unwrap();
    of_ended.wipe();
    assert_eq!(of_ended, wiped(1));
    assert_eq!(known_of_ended.outcome, Some(Outcome::Killed));
    assert_eq!(found.replies[0].answer, reply(1).answer);
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

#[derive(Debug, Clone, Copy)]
enum Move {
    Spawn { number: u8, queued: bool },
    Start(u8),
    See(u8),
    End(u8),
    Forget(u8),
    Reopen,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let number = 0..12_u8;
    let one = prop_oneof![
        4 => (number.clone(), any::<bool>()).prop_map(|(number, queued)| Move::Spawn { number, queued }),
        3 => number.clone().prop_map(Move::Start),
        2 => number.clone().prop_map(Move::See),
        4 => number.clone().prop_map(Move::End),
        1 => number.prop_map(Move::Forget),
        1 => Just(Move::Reopen),
    ];
    prop::collection::vec(one, 0..40)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stands {
    Queued(u64),
    Live { seen: bool },
    Ended(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_comes_back_is_what_was_written(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(moves))?;
    }
}

async fn play(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let dir = Dir::new();
    let (mut store, _) = dir.open();
    let mut model: BTreeMap<u8, Stands> = BTreeMap::new();
    for (clock, step) in (0_u64..).zip(moves.into_iter().chain([Move::Reopen])) {
        match step {
            Move::Spawn { number, queued } if !model.contains_key(&number) => {
                let ticket = queued.then_some(clock);
                store.write(spawned(number, ticket)).await.unwrap();
                let stands = ticket.map_or(Stands::Live { seen: false }, Stands::Queued);
                model.insert(number, stands);
            }
            Move::Start(number) => {
                store.write(Change::Started(id(number))).await.unwrap();
                if let Some(stands @ Stands::Queued(_)) = model.get_mut(&number) {
                    *stands = Stands::Live { seen: false };
                }
            }
            Move::See(number) => {
                let live = matches!(model.get(&number), Some(Stands::Live { .. }));
                if live || matches!(model.get(&number), Some(Stands::Ended(_)) | None) {
                    store
                        .write(Change::Seen(id(number), Box::new(seen())))
                        .await
                        .unwrap();
                }
                if live {
                    model.insert(number, Stands::Live { seen: true });
                }
            }
            Move::End(number) => {
                if !matches!(model.get(&number), Some(Stands::Ended(_))) {
                    store.write(ended(number, clock)).await.unwrap();
                }
                if let Some(stands) = model.get_mut(&number)
                    && !matches!(stands, Stands::Ended(_))
                {
                    *stands = Stands::Ended(clock);
                }
            }
            Move::Forget(number) => {
                store
                    .write(Change::Forgotten(vec![id(number)]))
                    .await
                    .unwrap();
                model.remove(&number);
            }
            Move::Reopen => {
                store.close().await;
                let (again, found) = dir.open();
                store = again;
                prop_assert_eq!(found.agents.len(), model.len());
                for agent in &found.agents {
                    let number = agent.id().as_bytes()[0];
                    let stands = match agent {
                        Comeback::Ended(ended) => Stands::Ended(ended.ended_ms),
                        Comeback::Queued(left) => Stands::Queued(left.ticket.unwrap()),
                        Comeback::Lost(left) => Stands::Live {
                            seen: left.known == seen(),
                        },
                        Comeback::Unreadable(id) => panic!("{id} cannot be read"),
                    };
                    prop_assert_eq!(Some(&stands), model.get(&number));
                }
                let times = found.agents.iter().filter_map(|agent| match agent {
                    Comeback::Ended(ended) => Some(ended.ended_ms),
                    _ => None,
                });
                prop_assert!(times.is_sorted());
                let tickets = found.agents.iter().filter_map(|agent| match agent {
                    Comeback::Queued(left) => left.ticket,
                    _ => None,
                });
                prop_assert!(tickets.is_sorted());
            }
            Move::Spawn { .. } => {}
        }
    }
    store.close().await;
    Ok(())
}

fn seen() -> Known {
    Known {
        generation: 77,
        ..known(None, 0)
    }
}
