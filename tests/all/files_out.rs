//! What an agent is given before it starts, and what is copied of what it leaves:
//! files in and out.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use skep_client::Client;
use skep_client::protocol::{AgentSpec, Digest, ErrorCode, Outcome};
use skep_tests::hostile::{core_module, preview1};
use skep_tests::{TestHost, eventually, probe, run, sh};

use crate::command::{ended, prebuilt, signal, skep, start};
use crate::{native, refusal, refused, running};

pub(crate) fn with_scratch(mut spec: AgentSpec) -> AgentSpec {
    spec.grants.scratch = true;
    spec
}

pub(crate) async fn with_inputs(
    client: &Client,
    mut spec: AgentSpec,
    files: &[(&str, &[u8])],
) -> AgentSpec {
    for (path, bytes) in files {
        let digest = client.upload(bytes).await.unwrap();
        spec.inputs.insert((*path).to_owned(), digest);
    }
    spec
}

pub(crate) fn directories(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
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
    let pipe = format!("pipe:{}", path("pipe"));
    let native = ["--native", "--", "/bin/sh", "-c", "mkfifo pipe"];
    let ran = skep(&[&["run", "--output", &pipe], &native[..]].concat()).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    let told = "skep: the output `pipe` is not copied\nskep: `pipe`: it is no regular file";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
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
        ("--input", format!("{}:a", dir.path().display()), 125),
        ("--output", format!("out:{}", path("no/")), 125),
    ] {
        let ran = skep(&["run", flag, &value, &probe, "lines", "1"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{value}");
        assert!(!ran.stderr.contains("skep build"), "{}", ran.stderr);
    }
    assert!(!dir.path().join("no").exists());
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
    // As JSON, what was copied, and where to.
    let copied = json!([{"path": "note", "to": format!("{to}/note"), "bytes": 4}]);
    let all = format!("{agent}:");
    let tree = format!("{to}/tree");
    let tree_copied = json!([{"path": "note", "to": format!("{tree}/note"), "bytes": 4}]);
    for (args, copied) in [
        (&["cp", &from, to][..], copied),
        (&["cp", "-r", &all, &tree], tree_copied),
    ] {
        let ran = skep(&[&["--host", &at, "--json"], args].concat()).await;
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((told, ran.code), (copied, Some(0)), "{}", ran.stderr);
    }
    let refused = async |args: &[&str]| {
        let ran = skep(&[&["--host", &at], args].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{args:?}");
        ran.stderr
    };
    refused(&["cp", &agent, to]).await;
    // Stdout holds one file and nothing else.
    let told = refused(&["--json", "cp", &from, "-"]).await;
    assert!(told.contains("leave --json out"), "{told}");
    let told = refused(&["cp", "-r", &all, "-"]).await;
    assert!(told.contains("cannot be copied to stdout"), "{told}");
    assert!(!Path::new("-").exists());
    symlink("nowhere", dir.path().join("astray")).unwrap();
    let told = refused(&["cp", &from, &format!("{to}/astray")]).await;
    assert!(
        told.starts_with(&format!("skep: {to}/astray cannot be written")),
        "{told}"
    );
    // What is missing is named, and where to look for it.
    let none = format!("{agent}:a/none");
    for wrong in [
        &["cp", &none, to][..],
        &["cp", &none, "-"],
        &["cp", "-r", &none, &format!("{to}/missing")],
        &["files", &none],
    ] {
        let told = refused(wrong).await;
        assert!(
            told.starts_with("skep: `a/none`: there is no such"),
            "{told}"
        );
        let advice = format!("`skep files {agent}` lists what there is (not_found)\n");
        assert!(told.ends_with(&advice), "{told}");
    }
    let none = Digest::of(b"none").to_string();
    let told = refused(&["rm", &none]).await;
    let expected =
        format!("skep: there is no component {none}: `skep components` lists them (not_found)\n");
    assert_eq!(told, expected);
    // A directory that is missing is not made a file.
    for missing in ["missing/", "missing/."] {
        let told = refused(&["cp", &from, &format!("{to}/{missing}")]).await;
        assert!(told.contains("is no directory: make it first"), "{told}");
    }
    assert!(!dir.path().join("missing").exists());
    // Named once more by the person, it is replaced.
    let other = format!("{to}/other");
    std::fs::write(&other, "old").unwrap();
    let ran = skep(&["--host", &at, "cp", &from, &other]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read(&other).unwrap(), b"text");
    // What the agent named replaces nothing, and goes through no link.
    let canary = dir.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    symlink(&canary, into.join("note")).unwrap();
    let copy = async |into: &Path| {
        let ran = skep(&["--host", &at, "cp", "-r", &all, into.to_str().unwrap()]).await;
        assert_eq!(ran.code, Some(125), "{}", ran.stderr);
        assert!(ran.stderr.contains("note"), "{}", ran.stderr);
    };
    copy(&into).await;
    assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
    assert!(into.join("note").is_symlink());
    std::fs::remove_file(into.join("note")).unwrap();
    std::fs::write(into.join("note"), "mine").unwrap();
    copy(&into).await;
    assert_eq!(std::fs::read(into.join("note")).unwrap(), b"mine");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_interrupted_leaves_nothing() {
    let host = native::host().await;
    let client = host.client().await;
    let at = host.control().to_string();
    let spec = with_scratch(sh(
        "mkdir d; truncate -s 400000000 d/f; echo; exec sleep 600",
    ));
    let agent = client.spawn(spec, None).await.unwrap().id;
    crate::written(&client, agent, 1).await;
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for (args, from) in [
        (&["cp"][..], format!("{agent}:d/f")),
        (&["cp", "-r"], format!("{agent}:d")),
    ] {
        // It may be whole before the signal comes.
        let mut interrupted = false;
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().to_str().unwrap();
            let child = start(&[&["--host", &at], args, &[&from, to]].concat());
            eventually("a file that is begun", || {
                let begun = !names(dir.path()).is_empty();
                async move { begun.then_some(()) }
            })
            .await;
            signal(&child, Signal::SIGINT);
            let ran = ended(child).await;
            let left = names(dir.path());
            if left == ["f"] {
                continue;
            }
            assert_eq!((ran.code, left), (Some(130), vec![]), "{}", ran.stderr);
            interrupted = true;
            break;
        }
        assert!(interrupted, "always whole before the signal came");
    }
    client.kill(agent).await.unwrap();
    host.end().await;
}
