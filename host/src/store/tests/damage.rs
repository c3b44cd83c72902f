//! A file that is damaged, of another build, or of another version.

use super::*;

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
async fn a_file_that_lost_all_that_was_logged_before_it_is_set_aside() {
    let dir = Dir::new();
    // As SQLite begins it, whose first changes are in the write-ahead log.
    let db = Connection::open(dir.file()).unwrap();
    db.pragma_update(None, "auto_vacuum", schema::INCREMENTAL)
        .unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(db);
    assert!(dir.file().metadata().unwrap().len() > 0);
    // It tells of nothing, and neither does anything else.
    let (store, _) = dir.open();
    store.close().await;
    let db = Connection::open(dir.file()).unwrap();
    db.pragma_update(None, "user_version", 0).unwrap();
    drop(db);
    let log = dir.0.path().join("logs").join(id(1).to_string());
    std::fs::create_dir_all(log).unwrap();
    let (store, found) = dir.open();
    assert!(found.agents.is_empty());
    let set_aside = |name: &String| name.starts_with("logs.corrupt-");
    assert!(dir.names().iter().any(set_aside), "{:?}", dir.names());
    store.close().await;
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
