//! Streams, files, the task and progress.

use super::*;
use crate::runner::{Access, GrantedDir, Progress};

#[tokio::test]
async fn input_is_answered_as_it_comes() {
    let mut started = ask(prebuilt("echo")).start();
    started.running().await;
    for line in ["one\n", "two\n"] {
        assert_eq!(started.stdin.offer(line.as_bytes()), 4);
        let answer = tokio::time::timeout(DEADLINE, started.output.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer[0].data, line.as_bytes());
    }
    started.stdin.offer(b"no newline");
    started.stdin.close();
    let seen = started.ended().await;
    assert_eq!(
        (seen.end, seen.stdout),
        (End::Exited(0), b"no newline".to_vec())
    );
}

#[tokio::test]
async fn input_that_was_given() {
    let given = Ask {
        stdin: vec![b'x'; 5_000_000],
        ..probe(&["read-stdin"])
    };
    assert_eq!(given.run().await.stdout, b"5000000 bytes\n");
}

#[tokio::test]
async fn ten_megabytes_without_a_newline() {
    const SIZE: usize = 10_000_000;
    let mut started = probe(&["flood", &SIZE.to_string()]).start();
    let mut seen = 0;
    let all = async {
        while let Some(chunks) = started.output.recv().await {
            let waiting: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
            // The pipe's bound, whatever the guest writes.
            assert!(waiting <= 64 * 1024, "{waiting}");
            assert!(
                chunks
                    .iter()
                    .all(|chunk| chunk.data.iter().all(|byte| *byte == b'x'))
            );
            seen += waiting;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
    assert_eq!(seen, SIZE);
    assert_eq!(started.ended().await.end, End::Exited(0));
}

#[tokio::test]
async fn both_streams() {
    let seen = probe(&["stderr", "3"]).run().await;
    assert_eq!(seen.stderr, b"error 1\nerror 2\nerror 3\n");
    let seen = probe(&["lines", "2", "row"]).run().await;
    assert_eq!(seen.stdout, b"row 1\nrow 2\n");
}

#[tokio::test]
async fn nobody_reads() {
    let Started {
        mut guest,
        output,
        stdin,
    } = probe(&["flood", "1000000"]).start();
    drop((output, stdin));
    let ended =
        async { while guest.events.recv().await != Some(GuestEvent::Ended(End::Exited(0))) {} };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
}

#[tokio::test]
async fn only_what_was_given() {
    let guest = Ask {
        env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        ..probe(&["env"])
    };
    let seen = guest.run().await;
    assert_eq!(
        String::from_utf8(seen.stdout).unwrap(),
        "arg 0 guest\narg 1 env\nenv A=1\n"
    );
}

#[tokio::test]
async fn the_task() {
    let text = |text: &str| text.to_owned();
    let guest = Ask {
        task: Task {
            task: text("count"),
            context: text("here"),
            system_prompt: text("be kind"),
            model: text("none"),
            labels: BTreeMap::from([(text("k"), text("v"))]),
        },
        ..probe(&["task"])
    };
    assert_eq!(
        String::from_utf8(guest.run().await.stdout).unwrap(),
        "name: guest\ntask: count\ncontext: here\nsystem_prompt: be kind\nmodel: none\nlabel: k=v\n"
    );
}

#[tokio::test]
async fn progress_arrives() {
    let mut started = probe(&["progress"]).start();
    let stages = async {
        let mut last: Option<Progress> = None;
        while started.guest.progress.changed().await.is_ok() {
            last.clone_from(&started.guest.progress.borrow_and_update());
        }
        last.unwrap()
    };
    let last = tokio::time::timeout(DEADLINE, stages).await.unwrap();
    assert_eq!(
        (last.stage.as_str(), last.step, last.total),
        ("end", Some(3), Some(3))
    );
    assert_eq!(
        (last.fraction, last.eta_ms, last.note.as_deref()),
        (Some(1.0), Some(0), Some("all done"))
    );
    let preview = last.preview.unwrap();
    assert_eq!(
        (preview.mime.as_str(), preview.data.as_slice()),
        ("text/plain", &b"a preview"[..])
    );
    assert_eq!(started.ended().await.end, End::Exited(0));
}

fn dir(host: &std::path::Path, guest: &str, access: Access) -> Vec<GrantedDir> {
    vec![GrantedDir {
        host: host.to_owned(),
        guest: guest.to_owned(),
        access,
    }]
}

#[tokio::test]
async fn files_that_were_granted_and_no_others() {
    let outside = tempfile::tempdir().unwrap();
    let granted = outside.path().join("granted");
    std::fs::create_dir(&granted).unwrap();
    std::fs::write(outside.path().join("canary"), "outside").unwrap();
    std::fs::write(granted.join("file"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", granted.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../canary", granted.join("relative")).unwrap();
    std::os::unix::fs::symlink(".", granted.join("here")).unwrap();
    let with = |args: &[&str], access| Ask {
        dirs: dir(&granted, "/data", access),
        ..probe(args)
    };
    let seen = with(&["cat", "/data/file"], Access::Read).run().await;
    assert_eq!(
        (seen.end, seen.stdout),
        (End::Exited(0), b"inside".to_vec())
    );
    let seen = with(&["cat", "/data/here/here/file"], Access::Read)
        .run()
        .await;
    assert_eq!(seen.stdout, b"inside");
    for path in [
        "/data/../canary",
        "/data/here/../../canary",
        "/data/here/../canary",
        "/data/absolute",
        "/data/relative",
        "/etc/passwd",
        "../canary",
        "/canary",
        "/data/../data/../canary/",
    ] {
        let seen = with(&["cat", path], Access::Write).run().await;
        assert_eq!(seen.end, End::Exited(1), "{path}");
        assert_eq!(seen.stdout, b"", "{path}");
    }
    for path in ["/data/file", "/data/new"] {
        let seen = with(&["write", path, "changed"], Access::Read).run().await;
        assert_eq!(seen.end, End::Exited(1), "{path}");
    }
    assert_eq!(
        std::fs::read_to_string(granted.join("file")).unwrap(),
        "inside"
    );
    assert!(!granted.join("new").exists());
    let seen = with(&["write", "/data/new", "changed"], Access::Write)
        .run()
        .await;
    assert_eq!(seen.end, End::Exited(0));
    assert_eq!(
        std::fs::read_to_string(granted.join("new")).unwrap(),
        "changed"
    );
    let seen = with(&["write", "/data/relative", "changed"], Access::Write)
        .run()
        .await;
    assert_eq!(seen.end, End::Exited(1));
    assert_eq!(
        std::fs::read_to_string(outside.path().join("canary")).unwrap(),
        "outside"
    );
    still_runs().await;
}

#[tokio::test]
async fn scratch_is_the_root() {
    let scratch = tempfile::tempdir().unwrap();
    let with = |args: &[&str]| Ask {
        dirs: dir(scratch.path(), "/", Access::Scratch),
        ..probe(args)
    };
    assert_eq!(
        with(&["write", "/a", "text"]).run().await.end,
        End::Exited(0)
    );
    assert_eq!(with(&["ls", "/"]).run().await.stdout, b"a\n");
    let missing = Ask {
        dirs: dir(std::path::Path::new("/nowhere/at/all"), "/x", Access::Read),
        ..probe(&["ls", "/x"])
    };
    let End::StartFailed { code, message } = missing.end().await else {
        panic!()
    };
    assert_eq!(code, skep_protocol::ErrorCode::StorageUnavailable);
    assert!(!message.contains("nowhere"), "{message}");
}
