//! What an agent is given before it starts, and what it leaves: files in and out.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use skep_client::Client;
use skep_client::protocol::op::FileKind;
use skep_client::protocol::receipt::CanonicalSpec;
use skep_client::protocol::{AgentId, AgentSpec, Digest, ErrorCode, Outcome};
use skep_tests::hostile::{core_module, preview1};
use skep_tests::{HostProcess, TestHost, eventually, probe, run, sh};

use crate::command::{prebuilt, skep};
use crate::{native, refusal, refused, running, written};

fn with_scratch(mut spec: AgentSpec) -> AgentSpec {
    spec.grants.scratch = true;
    spec
}

/// Spawns a script with scratch, and waits until it says something.
async fn at_work(client: &Client, script: &str) -> AgentId {
    let spec = with_scratch(sh(script));
    let agent = client.spawn(spec, None).await.unwrap().id;
    written(client, agent, 1).await;
    agent
}

async fn with_inputs(client: &Client, mut spec: AgentSpec, files: &[(&str, &[u8])]) -> AgentSpec {
    for (path, bytes) in files {
        let digest = client.upload(bytes).await.unwrap();
        spec.inputs.insert((*path).to_owned(), digest);
    }
    spec
}

fn directories(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
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
async fn inputs_are_there_before_the_agent_starts() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let big = vec![b'x'; 3 << 20];
    let files: &[(&str, &[u8])] = &[
        ("note.txt", b"to read\n"),
        ("data/set/big", &big),
        ("empty", b""),
    ];
    for scratch in [false, true] {
        let mut cat = probe(&["cat", "/inputs/note.txt"]);
        cat.grants.scratch = scratch;
        let spec = with_inputs(&client, cat, files).await;
        let ended = run(&client, spec).await;
        assert_eq!(ended.output.stdout(), "to read\n");
        assert_eq!(ended.info.spec.inputs["empty"], Digest::of(b""));
        let ls = probe(&["ls", "/inputs/data/set"]);
        let ended = run(&client, with_inputs(&client, ls, files).await).await;
        assert!(ended.output.stdout().contains("big"), "{:?}", ended.output);
        let env = with_inputs(&client, probe(&["env"]), files).await;
        let told = run(&client, env).await.output.stdout();
        assert!(told.contains("SKEP_INPUTS=/inputs"), "{told}");
    }
    // They go with their agent.
    assert_eq!(directories(&host.dir().join("inputs")), 0);
    host.end().await;
}

/// Every way of writing that WASI 0.1 has; each must fail.
fn vandal() -> AgentSpec {
    let (file, other) = (
        "(i32.const 1024) (i32.const 4)",
        "(i32.const 1028) (i32.const 5)",
    );
    let dir = "(i32.const 3)";
    let fails = |call: String| format!("(if (i32.eqz {call}) (then unreachable))");
    let open = |path: &str, flags: u32, rights: u32| {
        fails(format!(
            "(call $open {dir} (i32.const 0) {path} (i32.const {flags}) (i64.const {rights}) \
             (i64.const {rights}) (i32.const 0) (i32.const 512))"
        ))
    };
    let start = [
        // It can be read: what follows fails for its own sake.
        format!(
            "(if (call $open {dir} (i32.const 0) {file} (i32.const 0) (i64.const 2) (i64.const 2) \
             (i32.const 0) (i32.const 512)) (then unreachable))"
        ),
        open(file, 0, 64),
        open(file, 8, 2),
        open(file, 8, 64),
        open(other, 1, 64),
        open(other, 1, 2),
        fails(format!("(call $unlink {dir} {file})")),
        fails(format!("(call $rename {dir} {file} {dir} {other})")),
        fails(format!(
            "(call $link {dir} (i32.const 0) {file} {dir} {other})"
        )),
        fails(format!("(call $mkdir {dir} {other})")),
        fails(format!("(call $symlink {file} {dir} {other})")),
        fails(format!(
            "(call $times {dir} (i32.const 0) {file} (i64.const 0) (i64.const 0) (i32.const 5))"
        )),
        fails("(call $resize (i32.load (i32.const 512)) (i64.const 0))".to_owned()),
        "(call $write (i32.const 1024) (i32.const 4))".to_owned(),
    ]
    .concat();
    let imports = preview1(&[
        "rename", "link", "unlink", "mkdir", "symlink", "open", "times", "resize",
    ]);
    core_module(&imports, b"fileother", &start)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_cannot_change_its_inputs() {
    let host = native::host().await;
    let client = host.client().await;
    let files: &[(&str, &[u8])] = &[("file", b"the input")];
    let ended = run(&client, with_inputs(&client, vandal(), files).await).await;
    assert_eq!(
        ended.outcome,
        Outcome::Exited { code: 0 },
        "{:?}",
        ended.output
    );
    assert_eq!(ended.output.stdout(), "file");

    let script = "cd \"$SKEP_INPUTS\" || exit 9; cat file || exit 8
        for try in 'echo x > file' 'echo x > new' 'echo x >> file' 'rm -f file' 'mv file moved' \
            'ln -s / link' 'mkdir d' 'truncate -s 0 file'
        do sh -c \"$try\" 2>/dev/null && { echo \"could $try\"; exit 7; }; done; cat file";
    match client
        .spawn(with_inputs(&client, sh(script), files).await, None)
        .await
    {
        Ok(agent) => {
            let ended = skep_tests::end_of(&client, agent.id).await;
            assert_eq!(
                (ended.outcome, ended.output.stdout().as_str()),
                (Outcome::Exited { code: 0 }, "the inputthe input"),
                "{}",
                ended.output.stderr()
            );
        }
        // A machine that cannot keep them read-only gives none.
        Err(error) => assert_eq!(error.code(), Some(ErrorCode::UnsupportedFeature), "{error}"),
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_that_cannot_be_given_are_refused() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let missing = Digest::of(b"nowhere");
    let mut spec = probe(&["ls", "/"]);
    spec.inputs.insert("a".to_owned(), missing);
    let told = refusal(client.spawn(spec.clone(), None).await);
    assert_eq!(told.code, ErrorCode::NotFound);
    assert!(told.message.contains(&missing.to_string()), "{told}");
    assert_eq!(told.details.field.as_deref(), Some("spec.inputs"));

    for path in ["../a", "/a", "", "a//b", "a\0"] {
        let mut spec = probe(&["ls", "/"]);
        spec.inputs.insert(path.to_owned(), missing);
        let told = refusal(client.spawn(spec, None).await);
        assert_eq!(told.code, ErrorCode::InvalidArgument, "{path:?}");
    }
    for (bytes, fits) in [(10, true), (11, false)] {
        let input = vec![7; bytes];
        let mut spec = with_inputs(&client, probe(&["ls", "/inputs"]), &[("a", &input)]).await;
        spec.limits = serde_json::from_value(json!({"disk_bytes": 10})).unwrap();
        if fits {
            let ended = run(&client, spec).await;
            assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
        } else {
            let told = refusal(client.spawn(spec, None).await);
            assert_eq!(told.code, ErrorCode::LimitTooSmall);
            assert_eq!(told.details.limit.as_deref(), Some("disk_bytes"));
            assert_eq!(told.details.needed, Some(11));
        }
    }
    assert_eq!(directories(&host.dir().join("inputs")), 0);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_inputs_while_their_agent_lives() {
    let host = TestHost::with(|config| config.capacity.components_bytes = 5 << 20).await;
    let client = host.client().await;
    let big = vec![b'a'; 3 << 20];
    let spec = with_inputs(&client, probe(&["sleep", "600000"]), &[("big", &big)]).await;
    let digest = spec.inputs["big"];
    let agent = client.spawn(spec, None).await.unwrap().id;
    running(&client, agent).await;
    // There is no room beside it and the component, and neither is let go of.
    let other = vec![b'b'; 3 << 20];
    refused(client.upload(&other).await, ErrorCode::StorageUnavailable);
    assert!(client.stat_component(digest).await.is_ok());
    client.kill(agent).await.unwrap();
    client.upload(&other).await.unwrap();
    refused(client.stat_component(digest).await, ErrorCode::NotFound);
    host.end().await;
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
async fn so_deep_a_tree_is_copied_and_no_deeper() {
    const MOST: usize = 256;
    let host = native::host().await;
    let client = host.client().await;
    let at = host.control().to_string();
    for (depth, fits) in [(MOST, true), (MOST + 1, false)] {
        let bottom = "d/".repeat(depth);
        let script = format!("mkdir -p {bottom} && echo deep > {bottom}bottom");
        let agent = run(&client, with_scratch(sh(&script))).await.info.id;
        let to = tempfile::tempdir().unwrap();
        let (from, into) = (format!("{agent}:"), to.path().to_str().unwrap());
        let ran = skep(&["--host", &at, "cp", "-r", &from, into]).await;
        assert_eq!(ran.code, Some(if fits { 0 } else { 125 }), "{}", ran.stderr);
        assert_eq!(
            ran.stderr.contains("more than 256"),
            !fits,
            "{}",
            ran.stderr
        );
        assert_eq!(to.path().join(format!("{bottom}bottom")).exists(), fits);
    }
    host.end().await;
}

#[tokio::test]
async fn run_takes_files_in_and_brings_files_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("in.txt"), "from here\n").unwrap();
    let probe = prebuilt("probe");
    let input = format!("{}:d/in", path("in.txt"));
    let ran = skep(&["run", "--input", &input, &probe, "cat", "/inputs/d/in"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "from here\n"));

    let output = format!("out:{}", path("out.txt"));
    let ran = skep(&["run", "--output", &output, &probe, "write", "/out", "text"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(std::fs::read(dir.path().join("out.txt")).unwrap(), b"text");

    // What is missing is told, and counts where the agent itself did well.
    let missing = format!("none:{}", path("none.txt"));
    for (args, code) in [(&["write", "/out", "x"][..], 125), (&["exit", "7"], 7)] {
        let ran = skep(&[&["run", "--output", &missing, &probe], args].concat()).await;
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(ran.stderr.contains("`none`"), "{}", ran.stderr);
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["in.txt", "out.txt"], "nothing half written is left");
    // Before anything runs: no such place, no such file, no such path.
    for (flag, value, code) in [
        ("--output", format!("out:{}", path("no/dir")), 125),
        ("--input", format!("{}:a", path("none")), 127),
        ("--input", format!("{}:../a", path("in.txt")), 125),
    ] {
        let ran = skep(&["run", flag, &value, &probe, "lines", "1"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_copied_from_a_host() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let at = host.control().to_string();
    let agent = run(&client, with_scratch(probe(&["write", "/note", "text"])))
        .await
        .info
        .id
        .to_string();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    let from = format!("{agent}:/note");
    for (to, file) in [(to.to_owned(), "note"), (format!("{to}/other"), "other")] {
        let ran = skep(&["--host", &at, "cp", &from, &to]).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        assert_eq!(std::fs::read(dir.path().join(file)).unwrap(), b"text");
    }
    let ran = skep(&["--host", &at, "cp", &from, "-"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "text"));
    let ran = skep(&["--host", &at, "--json", "files", &agent]).await;
    let files: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&files[0]["path"], &files[0]["size"]),
        (&json!("note"), &json!(4))
    );
    for wrong in [
        &["cp", &agent, to][..],
        &["cp", &format!("{agent}:none"), to],
    ] {
        let ran = skep(&[&["--host", &at], wrong].concat()).await;
        assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    }
    // A link of the person's own, in the way, is not written through.
    let canary = dir.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    symlink(&canary, into.join("note")).unwrap();
    let all = format!("{agent}:");
    let ran = skep(&["--host", &at, "cp", "-r", &all, into.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
    assert_eq!(std::fs::read(into.join("note")).unwrap(), b"text");
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
