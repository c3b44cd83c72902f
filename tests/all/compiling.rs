//! Compiling in processes of their own, and what is kept of it on disk.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_bytes::ByteBuf;
use skep_client::protocol::{AgentSpec, Outcome};
use skep_protocol::spec::ComponentRef;
use skep_protocol::{AgentName, ErrorCode};
use skep_tests::{HostProcess, TestHost, eventually, guest, run, spec};
use tokio::process::Child;

use crate::command::{ended, prebuilt, start_with_cache};
use crate::refused;

fn agent(module: &str) -> AgentSpec {
    let text = format!(
        r#"(component
            (core module $m
                (func (export "run") (result i32) i32.const 0)
                {module})
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    );
    let mut spec = AgentSpec::named(AgentName::from_lossy("bomb"));
    spec.component = Some(ComponentRef::Data(ByteBuf::from(
        wat::parse_str(text).unwrap(),
    )));
    spec
}

/// Loops within loops, all of which carry all locals: 40 KB that take a compiler
/// many seconds.
fn bomb(depth: usize) -> AgentSpec {
    let carry: String = (0..300)
        .map(|n| format!("local.get {n} local.set {} ", (n + 1) % 300))
        .collect();
    agent(&format!(
        "(func (local {}) {}{}{})",
        "i64 ".repeat(300),
        "loop local.get 0 local.get 1 i64.add local.set 2 ".repeat(depth),
        carry,
        "i32.const 1 br_if 0 end ".repeat(depth),
    ))
}

fn children(host: &HostProcess) -> usize {
    skep_tests::Resources::of(host.pid()).children
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_fail_to_start_and_hold_up_nobody() {
    let sets = ["capacity.compile_ms=1000", "capacity.compile_workers=1"];
    let host = HostProcess::start(&["--set", sets[0], "--set", sets[1]]).await;
    let client = host.client();
    let hello = spec("hello", &[]);
    let first = run(&client, hello.clone()).await;
    assert_eq!(first.outcome, Outcome::Exited { code: 0 });
    let mut bombs = Vec::new();
    for depth in 3000..3006 {
        bombs.push(client.spawn(bomb(depth), None).await.unwrap());
    }
    eventually("a process that compiles", || {
        let compiles = children(&host) > 0;
        async move { compiles.then_some(()) }
    })
    .await;
    let neighbour = run(&client, hello.clone()).await;
    assert_eq!(neighbour.outcome, Outcome::Exited { code: 0 });
    let still = client.get(bombs.last().unwrap().id).await.unwrap();
    assert_eq!(still.outcome, None, "the neighbour had to wait for them");
    let mut most = 0;
    for bomb in bombs {
        let end = client.wait(bomb.id, Some(skep_tests::DEADLINE));
        let mut end = std::pin::pin!(end);
        let mut look = tokio::time::interval(Duration::from_millis(5));
        let ended = loop {
            tokio::select! {
                ended = &mut end => break ended.unwrap(),
                _ = look.tick() => most = most.max(children(&host)),
            }
        };
        let Some(Outcome::StartFailed { code, message }) = ended.outcome else {
            panic!("{:?}", ended.outcome)
        };
        assert_eq!(code, ErrorCode::CompileLimit);
        assert!(message.contains("1000"), "{message}");
    }
    // One that checks, one that compiles, and one that compiles for long.
    assert!((1..=3).contains(&most), "{most} of six at once");
    eventually("the end of all processes", || {
        let none = children(&host) == 0;
        async move { none.then_some(()) }
    })
    .await;
    // One that is just small enough, and the next agent.
    let small = run(&client, bomb(10)).await;
    assert_eq!(small.outcome, Outcome::Exited { code: 0 });
    let next = run(&client, hello).await;
    assert_eq!(next.outcome, Outcome::Exited { code: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_takes_its_compilers_along() {
    // Under a name of its own, by which they are found.
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("skep");
    std::os::unix::fs::symlink(skep_tests::skep_binary(), &helper).unwrap();
    let helper = helper.to_str().unwrap();
    let mut host = HostProcess::start(&["--set", &format!("server.helper={helper}")]).await;
    let client = host.client();
    client.spawn(bomb(3000), None).await.unwrap();
    eventually("a process that compiles", || async {
        (!skep_tests::processes_with(&format!("{helper}\0__compile")).is_empty()).then_some(())
    })
    .await;
    host.kill_9();
    eventually("its end", || async {
        skep_tests::processes_with(&format!("{helper}\0__compile"))
            .is_empty()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_of_7_mb_is_refused_at_its_start() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let large = agent(&format!("(func {})", "i32.const 1 drop ".repeat(2_400_000)));
    let ended = run(&client, large).await;
    assert!(
        matches!(
            ended.outcome,
            Outcome::StartFailed {
                code: ErrorCode::CompileLimit,
                ..
            }
        ),
        "{:?}",
        ended.outcome
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_uploads_of_one_component_are_compiled_once() {
    let host = TestHost::start().await;
    let (one, other) = (host.client().await, host.client().await);
    let hello = guest("hello");
    let (first, second) = tokio::join!(one.upload(&hello), other.upload(&hello));
    assert_eq!(first.unwrap(), second.unwrap());
    let (first, second) = tokio::join!(
        run(&one, spec("hello", &[])),
        run(&other, spec("hello", &[]))
    );
    assert_eq!(first.outcome, Outcome::Exited { code: 0 });
    assert_eq!(second.outcome, Outcome::Exited { code: 0 });
    let stats = one.stats().await.unwrap();
    assert_eq!((stats.compile_misses, stats.compile_hits), (1, 1));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_is_none_is_the_operators_mistake() {
    let host = TestHost::with(|config| config.helper = Some("/bin/true".into())).await;
    let client = host.client().await;
    refused(client.upload(&guest("hello")).await, ErrorCode::Internal);
    host.end().await;
}

fn run_with(cache: &Path) -> Child {
    start_with_cache(&["run", &prebuilt("hello")], cache)
}

async fn says_hello(child: Child) {
    let ran = ended(child).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "Hello, world!\n")
    );
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_hosts_share_what_was_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (one, other) = (run_with(&cache), run_with(&cache));
    says_hello(one).await;
    says_hello(other).await;
    let [entry] = &entries(&cache)[..] else {
        panic!("{:?}", entries(&cache))
    };
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(entry)), (0o700, 0o600));
    let used = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let before = used(entry);
    let shared = cache.clone();
    let host = TestHost::with(|config| {
        config.cache_dir = Some(shared);
        // So that nothing can be compiled.
        config.helper = Some("/bin/true".into());
    })
    .await;
    let client = host.client().await;
    let ended = run(&client, spec("hello", &[])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert!(used(entry) > before);
    host.end().await;

    let whole = std::fs::read(entry).unwrap();
    std::fs::write(entry, &whole[..whole.len() / 2]).unwrap();
    says_hello(run_with(&cache)).await;
    assert_eq!(std::fs::read(entry).unwrap().len(), whole.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_others_may_write_to_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o777)).unwrap();
    says_hello(run_with(&cache)).await;
    assert!(entries(&cache).is_empty());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    says_hello(run_with(&file)).await;
}
