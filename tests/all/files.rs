//! What a guest sees of the host's files: what was granted, and nothing else.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use skep_client::protocol::{AgentId, Outcome};
use skep_protocol::spec::{DirGrant, DirMode, Restart, RestartPolicy};
use skep_protocol::{AgentSpec, ErrorCode};
use skep_tests::hostile::{core_module, preview1};
use skep_tests::{Ended, HostProcess, TestHost, probe, run};

use crate::refusal;

fn granted(args: &[&str], host: &Path, guest: &str, mode: DirMode) -> AgentSpec {
    let mut spec = probe(args);
    let host = host.to_str().unwrap().to_owned();
    spec.grants.dirs = vec![DirGrant {
        host,
        guest: guest.to_owned(),
        mode,
    }];
    spec
}

/// Asserts that the guest was told no, and lived on to say so.
#[track_caller]
fn denied(ended: &Ended) {
    assert_eq!(
        ended.outcome,
        Outcome::Exited { code: 1 },
        "{}",
        ended.output.stdout()
    );
    assert!(
        ended.output.stderr().starts_with("probe: "),
        "{}",
        ended.output.stderr()
    );
    assert_eq!(ended.output.stdout(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_there_are_no_files() {
    let host = TestHost::start().await;
    let client = host.client().await;
    for args in [
        &["ls", "/"][..],
        &["ls", "."],
        &["cat", "/etc/passwd"],
        &["write", "/x", "y"],
    ] {
        denied(&run(&client, probe(args)).await);
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_is_private() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let scratch = |args: &[&str]| {
        let mut spec = probe(args);
        spec.grants.scratch = true;
        spec
    };
    let ended = run(&client, scratch(&["write", "/note", "text"])).await;
    assert_eq!(ended.output.stdout(), "wrote 4 bytes\n");
    // Another agent's is another, and who is told of the end finds it removed.
    let ended = run(&client, scratch(&["ls", "/"])).await;
    assert_eq!(
        (ended.outcome, ended.output.stdout().as_str()),
        (Outcome::Exited { code: 0 }, "")
    );
    let left = std::fs::read_dir(host.dir().join("scratch"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "what the first has left, and nothing of the other");

    let agent = client
        .spawn(scratch(&["sleep", "600000"]), None)
        .await
        .unwrap();
    crate::running(&client, agent.id).await;
    assert_eq!(
        std::fs::read_dir(host.dir().join("scratch"))
            .unwrap()
            .count(),
        2
    );
    client.kill(agent.id).await.unwrap();
    assert_eq!(
        std::fs::read_dir(host.dir().join("scratch"))
            .unwrap()
            .count(),
        1
    );
    for out in ["/../canary", "/..", "../canary"] {
        denied(&run(&client, scratch(&["cat", out])).await);
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_the_agents_own() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let write = |text: &str, limits: serde_json::Value| {
        let mut spec = probe(&["write", "/note", text]);
        spec.grants.scratch = true;
        spec.limits = serde_json::from_value(limits).unwrap();
        spec
    };
    let ended = run(&client, write("12345", json!({"disk_bytes": 5}))).await;
    assert_eq!(ended.output.stdout(), "wrote 5 bytes\n");
    assert_eq!(ended.info.usage.disk_bytes, Some(5));
    let ended = run(&client, write("123456", json!({"disk_bytes": 5}))).await;
    denied(&ended);
    assert_eq!(
        ended.output.stderr(),
        "probe: No space left on device (os error 51)\n"
    );
    assert_eq!(ended.info.usage.disk_bytes, Some(0));
    // What each has left, if only an empty file.
    let left = std::fs::read_dir(host.dir().join("scratch")).unwrap();
    assert_eq!(left.count(), 2);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_host_left_is_removed() {
    let mut host = HostProcess::start(&[]).await;
    host.kill_9();
    let scratch = host.state_dir().join("scratch");
    let stale = scratch.join(AgentId::random().to_string());
    std::fs::create_dir_all(stale.join("a/b/c")).unwrap();
    std::fs::write(stale.join("a/b/c/file"), "left").unwrap();
    std::fs::create_dir(scratch.join("notes")).unwrap();
    host.start_again().await;
    skep_tests::eventually("a scratch directory that is gone", || async {
        (!stale.exists()).then_some(())
    })
    .await;
    assert!(scratch.join("notes").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn granted_directories_are_read_and_written_as_granted() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let shared = host.shared().join("shared");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    std::fs::write(shared.join("given"), "from the host").unwrap();

    for mode in [DirMode::Ro, DirMode::Rw] {
        let ended = run(&client, granted(&["ls", "/data"], &shared, "/data", mode)).await;
        assert_eq!(ended.output.stdout(), "given\ninner/\n");
        let ended = run(
            &client,
            granted(&["cat", "/data/given"], &shared, "/data/", mode),
        )
        .await;
        assert_eq!(ended.output.stdout(), "from the host");
    }
    let write = ["write", "/data/inner/made", "by the guest"];
    denied(&run(&client, granted(&write, &shared, "/data", DirMode::Ro)).await);
    assert!(!shared.join("inner/made").exists());
    let over = ["write", "/data/given", "over it"];
    denied(&run(&client, granted(&over, &shared, "/data", DirMode::Ro)).await);
    assert_eq!(
        std::fs::read_to_string(shared.join("given")).unwrap(),
        "from the host"
    );

    let ended = run(&client, granted(&write, &shared, "/data", DirMode::Rw)).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(
        std::fs::read_to_string(shared.join("inner/made")).unwrap(),
        "by the guest"
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leads_out_of_a_granted_directory() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let shared = host.shared().join("shared");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    let canary = host.shared().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    symlink(&canary, shared.join("absolute")).unwrap();
    symlink("../canary", shared.join("relative")).unwrap();
    symlink("absolute", shared.join("chain")).unwrap();
    symlink("/", shared.join("root")).unwrap();

    let whole = canary.to_str().unwrap();
    let through_root = format!("/data/root{whole}");
    let ways = [
        "/data/../canary",
        "/data/inner/../../canary",
        "/data/absolute",
        "/data/relative",
        "/data/chain",
        &through_root,
        whole,
    ];
    for way in ways {
        denied(
            &run(
                &client,
                granted(&["cat", way], &shared, "/data", DirMode::Rw),
            )
            .await,
        );
        let write = ["write", way, "dead"];
        denied(&run(&client, granted(&write, &shared, "/data", DirMode::Rw)).await);
    }
    denied(
        &run(
            &client,
            granted(&["ls", "/data/.."], &shared, "/data", DirMode::Rw),
        )
        .await,
    );
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
    host.end().await;
}

/// Puts a link in the place of a directory that it was granted by itself besides
/// its parent, and empties `canary` in whatever it is granted there.
fn swaps_its_grant(shared: &Path) -> AgentSpec {
    let imports = preview1(&["rename", "symlink", "open"]);
    let text = |from: usize, length: usize| {
        let from = 1024 + from;
        format!("(i32.const {from}) (i32.const {length})")
    };
    let (inner, aside, outside, canary) = (text(0, 5), text(5, 5), text(10, 10), text(20, 6));
    let start = format!(
        "(drop (call $rename (i32.const 3) {inner} (i32.const 3) {aside}))
         (drop (call $symlink {outside} (i32.const 3) {inner}))
         (drop (call $open (i32.const 4) (i32.const 0) {canary} (i32.const 9) (i64.const 64)
            (i64.const 0) (i32.const 0) (i32.const 512)))
         unreachable"
    );
    let grant = |host: &Path, guest: &str| DirGrant {
        host: host.to_str().unwrap().to_owned(),
        guest: guest.to_owned(),
        mode: DirMode::Rw,
    };
    let mut spec = core_module(&imports, b"inneraside../outsidecanary", &start);
    spec.grants.dirs = vec![
        grant(shared, "/data"),
        grant(&shared.join("inner"), "/inner"),
    ];
    spec.restart = Restart {
        policy: RestartPolicy::OnFailure,
        max: Some(1),
        backoff_ms: Some(100),
        ..Restart::default()
    };
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_directory_that_became_a_link_leads_nowhere() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let shared = host.shared().join("shared");
    let outside = host.shared().join("outside");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "alive").unwrap();

    let ended = run(&client, swaps_its_grant(&shared)).await;

    // It did what it could: its first run had both directories.
    assert!(shared.join("inner").is_symlink());
    assert_eq!(
        std::fs::read_to_string(shared.join("aside/canary")).unwrap(),
        ""
    );
    assert_eq!(
        std::fs::read_to_string(outside.join("canary")).unwrap(),
        "alive"
    );
    match ended.outcome {
        Outcome::StartFailed { code, .. } => assert_eq!(code, ErrorCode::StorageUnavailable),
        other => panic!("{other:?}"),
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_that_may_not_be_are_refused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let shared = host.shared().join("shared");
    std::fs::create_dir(&shared).unwrap();
    symlink("/etc", host.shared().join("elsewhere")).unwrap();
    let refuse = async |spec: AgentSpec| {
        let refusal = refusal(client.spawn(spec, None).await);
        (refusal.code, refusal.details.field.unwrap())
    };
    for out in [
        "/etc",
        "/nowhere",
        "relative",
        host.shared().join("elsewhere").to_str().unwrap(),
    ] {
        let spec = granted(&["ls", "/data"], Path::new(out), "/data", DirMode::Ro);
        let expected = (ErrorCode::Denied, "spec.grants.dirs[0].host".to_owned());
        assert_eq!(refuse(spec).await, expected, "{out}");
    }
    for guest in ["data", "/a/../b", "/a//b", ""] {
        let spec = granted(&["ls", "/data"], &shared, guest, DirMode::Ro);
        let expected = (
            ErrorCode::InvalidArgument,
            "spec.grants.dirs[0].guest".to_owned(),
        );
        assert_eq!(refuse(spec).await, expected, "{guest}");
    }
    let mut twice = granted(&["ls", "/a"], &shared, "/a", DirMode::Ro);
    twice.grants.dirs.push(DirGrant {
        guest: "/b".to_owned(),
        mode: DirMode::Rw,
        ..twice.grants.dirs[0].clone()
    });
    let expected = (
        ErrorCode::InvalidArgument,
        "spec.grants.dirs[1].mode".to_owned(),
    );
    assert_eq!(refuse(twice).await, expected);
    host.end().await;
}
