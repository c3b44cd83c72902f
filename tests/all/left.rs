//! What agents leave in their files: for how long, how much, and whatever it looks like.

use skep_client::Client;
use skep_client::protocol::op::FileKind;
use skep_client::protocol::receipt::CanonicalSpec;
use skep_client::protocol::{AgentId, ErrorCode, Outcome};
use skep_tests::{HostProcess, TestHost, eventually, probe, run, sh};

use crate::command::skep;
use crate::files_out::{directories, with_inputs, with_scratch};
use crate::{native, refusal, refused, running, written};

/// Spawns a script with scratch, and waits until it says something.
async fn at_work(client: &Client, script: &str) -> AgentId {
    let spec = with_scratch(sh(script));
    let agent = client.spawn(spec, None).await.unwrap().id;
    written(client, agent, 1).await;
    agent
}

async fn whole(client: &Client, agent: AgentId, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let take = |piece: &[u8], _| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    client.read_file(agent, path, take).await.unwrap().unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_leaves_is_there_until_it_is_forgotten() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, with_scratch(probe(&["write", "/note", "text"]))).await;
    let agent = ended.info.id;
    let files = client.all_files(agent, None).await.unwrap();
    let [note] = files.as_slice() else {
        panic!("{files:?}")
    };
    assert_eq!(
        (note.path.as_str(), note.size, note.kind),
        ("note", 4, FileKind::File)
    );
    assert!(note.modified_ms >= ended.info.created_ms - 1000);
    assert_eq!(whole(&client, agent, "note").await, b"text");
    let middle = client.file(agent, "note", 2).await.unwrap();
    assert_eq!((&middle.data[..], middle.eof), (&b"xt"[..], true));

    refused(client.file(agent, "nothing", 0).await, ErrorCode::NotFound);
    for path in ["../note", "/note", "", ".", "./note"] {
        let told = refusal(client.file(agent, path, 0).await);
        assert_eq!(told.code, ErrorCode::InvalidArgument, "{path:?}");
        assert_eq!(told.details.field.as_deref(), Some("path"));
        refused(
            client.files(agent, Some(path), None).await,
            ErrorCode::InvalidArgument,
        );
    }
    client.forget(agent).await.unwrap();
    refused(client.files(agent, None, None).await, ErrorCode::NotFound);
    eventually("a scratch directory that is gone", || async {
        (directories(&host.dir().join("scratch")) == 0).then_some(())
    })
    .await;
    // Without scratch, and with an empty one, nothing is kept.
    for spec in [probe(&["exit", "0"]), with_scratch(probe(&["ls", "/"]))] {
        let agent = run(&client, spec).await.info.id;
        refused(client.files(agent, None, None).await, ErrorCode::NotFound);
    }
    assert_eq!(directories(&host.dir().join("scratch")), 0);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_agents_leave_is_bounded() {
    let host = TestHost::with(|config| config.capacity.kept_files_bytes = 100_000).await;
    let client = host.client().await;
    let text = "x".repeat(40_000);
    let mut agents = Vec::new();
    for _ in 0..3 {
        let spec = with_scratch(probe(&["write", "/f", &text]));
        agents.push(run(&client, spec).await.info.id);
    }
    // Two have room; who ended first has made it.
    refused(
        client.files(agents[0], None, None).await,
        ErrorCode::NotFound,
    );
    assert!(client.get(agents[0]).await.is_ok());
    for agent in &agents[1..] {
        assert_eq!(whole(&client, *agent, "f").await.len(), 40_000);
    }
    assert_eq!(directories(&host.dir().join("scratch")), 2);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_tree_shows_nothing_of_the_host() {
    let host = native::host().await;
    let client = host.client().await;
    std::fs::write(host.dir().join("canary"), "secret").unwrap();
    let script = format!(
        "ln -s / root; ln -s {0}/canary canary; ln -s ../../canary up; mkdir d; ln -s ../d d/loop
         mkfifo pipe; printf 'a\\nb' > \"$(printf 'new\\nline')\"; touch \"$(printf '\\033[31m')\"
         touch \"$(printf '\\377')\"; echo ready; exec sleep 600",
        host.dir().display()
    );
    let agent = at_work(&client, &script).await;
    // While it runs, and when it has ended.
    for ended in [false, true] {
        if ended {
            client.kill(agent).await.unwrap();
        }
        let files = client.all_files(agent, None).await.unwrap();
        let seen: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), file.kind))
            .collect();
        assert_eq!(
            seen,
            [
                ("\u{1b}[31m", FileKind::File),
                ("canary", FileKind::Link),
                ("d", FileKind::Dir),
                ("new\nline", FileKind::File),
                ("pipe", FileKind::Other),
                ("root", FileKind::Link),
                ("up", FileKind::Link),
                ("\u{fffd}", FileKind::Other),
            ],
            "ended: {ended}"
        );
        for path in ["canary", "up", "root/etc/passwd", "d/loop/x"] {
            refused(client.file(agent, path, 0).await, ErrorCode::NotFound);
            refused(
                client.files(agent, Some(path), None).await,
                ErrorCode::NotFound,
            );
        }
        for path in ["pipe", "d"] {
            refused(
                client.file(agent, path, 0).await,
                ErrorCode::InvalidArgument,
            );
        }
        assert_eq!(whole(&client, agent, "new\nline").await, b"a\nb");
    }

    // Copied, it lies where it was asked for and nowhere else.
    let to = tempfile::tempdir().unwrap();
    let into = to.path().join("copy");
    let at = host.control().to_string();
    let from = format!("{agent}:");
    let ran = skep(&["--host", &at, "cp", "-r", &from, into.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("left out"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'));
    let mut names: Vec<_> = std::fs::read_dir(&into)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["\u{1b}[31m", "d", "new\nline"]);
    let listed = skep(&["--host", &at, "files", &agent.to_string()]).await;
    assert!(!listed.stdout.contains('\u{1b}'), "{}", listed.stdout);
    assert!(listed.stdout.contains("new\\nline"), "{}", listed.stdout);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_files_are_listed_in_pages() {
    let host = native::host().await;
    let client = host.client().await;
    let script = "i=0; while [ $i -lt 100 ]; do seq -f \"$i-%03g\" 0 999 | xargs touch; \
                  i=$((i + 1)); done; d=.; i=0; while [ $i -lt 200 ]; do d=$d/d; i=$((i + 1)); done
                  mkdir -p $d && echo deep > $d/bottom";
    let ended = run(&client, with_scratch(sh(script))).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    let agent = ended.info.id;
    let first = client.files(agent, None, None).await.unwrap();
    let after = first.next.unwrap();
    let second = client.files(agent, None, Some(&after)).await.unwrap();
    assert!(second.files[0].path > after);
    let from = Some("99-998");
    let last = client.files(agent, None, from).await.unwrap();
    let names: Vec<_> = last.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!((names.as_slice(), last.next), (&["99-999", "d"][..], None));
    let bottom = format!("{}bottom", "d/".repeat(200));
    assert_eq!(whole(&client, agent, &bottom).await, b"deep\n");
    client.forget(agent).await.unwrap();
    eventually("a scratch directory that is gone", || async {
        (directories(&host.dir().join("scratch")) == 0).then_some(())
    })
    .await;
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_it_is_read_ends() {
    let host = native::host().await;
    let client = host.client().await;
    let script = "while :; do head -c 3000000 /dev/zero > t; mv t f; \
                  head -c 100 /dev/zero > t; mv t f; echo round; done";
    let agent = at_work(&client, script).await;
    for _ in 0..20 {
        let bytes = whole(&client, agent, "f").await;
        assert!(bytes.len() <= 3_000_000 && bytes.iter().all(|byte| *byte == 0));
    }
    client.kill(agent).await.unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vanishes_while_it_is_copied_is_left_out() {
    let host = native::host().await;
    let client = host.client().await;
    let script = "echo stays > stays; echo ready; while :; do mkdir d; for f in $(seq 200); do \
                  : > $f; : > d/$f; done; rm -r d [0-9]*; done";
    let agent = at_work(&client, script).await;
    let (at, from) = (host.control().to_string(), format!("{agent}:"));
    let copy = async || {
        let to = tempfile::tempdir().unwrap();
        let into = to.path().to_str().unwrap();
        let ran = skep(&["--host", &at, "cp", "-r", &from, into]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let stays = std::fs::read(to.path().join("stays")).unwrap();
        assert_eq!(stays, b"stays\n");
        ran.stderr.contains("left out").then_some(())
    };
    eventually("a file that vanishes", copy).await;
    client.kill(agent).await.unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_receipts_outlive_the_host() {
    let mut host = HostProcess::start(&["--max-agents", "1"]).await;
    let client = host.client();
    let ended = run(&client, with_scratch(probe(&["write", "/note", "text"]))).await;
    let forgotten = run(&client, with_scratch(probe(&["write", "/note", "gone"]))).await;
    client.forget(forgotten.info.id).await.unwrap();
    let agent = ended.info.id;
    let sleeper = client
        .spawn(with_scratch(probe(&["sleep", "600000"])), None)
        .await
        .unwrap()
        .id;
    running(&client, sleeper).await;
    let cat = probe(&["cat", "/inputs/in"]);
    let queued = with_inputs(&client, cat, &[("in", b"still here\n")]).await;
    let spec_digest = CanonicalSpec::of(&queued).unwrap().digest();
    let queued = client.spawn(queued, None).await.unwrap().id;
    host.kill_9();
    host.start_again().await;

    let client = host.client();
    // It waited, and found its inputs on the next host.
    let came_back = skep_tests::end_of(&client, queued).await;
    assert_eq!(came_back.output.stdout(), "still here\n");
    assert_eq!(came_back.info.receipt.unwrap().spec_digest, spec_digest);
    // It ran, and nobody can tell what it had written.
    let lost = client.get(sleeper).await.unwrap();
    assert_eq!(
        (lost.outcome, lost.receipt),
        (Some(Outcome::HostLost), None)
    );
    assert_eq!(client.get(agent).await.unwrap().receipt, ended.info.receipt);
    assert_eq!(whole(&client, agent, "note").await, b"text");
    let at = host.control().to_string();
    let ran = skep(&["--host", &at, "verify", &agent.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    client.forget(agent).await.unwrap();
    refused(client.files(agent, None, None).await, ErrorCode::NotFound);
}
