//! Compiling outside and keeping on disk, as agents and their hosts see it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use skep_protocol::ErrorCode;

use super::*;

/// A helper under a name of its own, so that its processes can be told from
/// those of other tests.
struct Helper {
    dir: tempfile::TempDir,
}

impl Helper {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let helper = Self { dir };
        std::os::unix::fs::symlink(crate::helper::tests::binary(), helper.path()).unwrap();
        helper
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("helper")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn config(&self) -> WasmConfig {
        WasmConfig {
            helper: self.path(),
            cache_dir: Some(self.cache()),
            compile_time: Duration::from_secs(2),
            max_agents: 16,
            guest_threads: 2,
            ..WasmConfig::default()
        }
    }

    fn runner(&self) -> WasmRunner {
        WasmRunner::new(self.config()).unwrap()
    }

    /// A runner that compiles for longer than a test waits.
    fn patient_runner(&self) -> WasmRunner {
        WasmRunner::new(WasmConfig {
            compile_time: DEADLINE * 2,
            ..self.config()
        })
        .unwrap()
    }

    /// A runner that can compile nothing.
    fn runner_without_helper(&self) -> WasmRunner {
        WasmRunner::new(WasmConfig {
            helper: "/nothing/here".into(),
            ..self.config()
        })
        .unwrap()
    }

    /// Its processes, zombies included.
    fn processes(&self) -> Vec<i32> {
        let own = std::process::id().to_string();
        let path = self.path();
        let is_child = |pid: &Path| {
            let status = std::fs::read_to_string(pid.join("status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.strip_prefix("PPid:").map(str::trim) == Some(&own))
        };
        let runs = |pid: &Path| {
            let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
            line.is_empty() || line.starts_with(path.as_os_str().as_encoded_bytes())
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let pid = path.file_name()?.to_str()?.parse().ok()?;
                (is_child(&path) && runs(&path)).then_some(pid)
            })
            .collect()
    }

    async fn process(&self) -> i32 {
        eventually("a process", || self.processes().first().copied()).await
    }

    /// A process that is the helper already: one that is about to be would stop
    /// whoever starts it.
    async fn computes(&self) -> i32 {
        let is_named = |process: &i32| {
            let line = std::fs::read(format!("/proc/{process}/cmdline"));
            line.is_ok_and(|line| !line.is_empty())
        };
        eventually("a helper", || self.processes().into_iter().find(is_named)).await
    }

    async fn has_none(&self) {
        eventually("the end of all processes", || {
            self.processes().is_empty().then_some(())
        })
        .await;
    }

    fn entry(&self) -> PathBuf {
        let entries: Vec<_> = std::fs::read_dir(self.cache())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let [entry] = &entries[..] else {
            panic!("{entries:?}")
        };
        entry.clone()
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "no {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn hello_on(runner: &WasmRunner) -> End {
    let started = ask(prebuilt("hello")).start_on(runner);
    started.stdin.close();
    started.ended().await.end
}

fn is_compile_limit(end: &End) -> bool {
    matches!(
        end,
        End::StartFailed {
            code: ErrorCode::CompileLimit,
            ..
        }
    )
}

/// The slowest of them.
fn bomb() -> Bytes {
    bombs()[0].1.clone()
}

/// One of many like it.
fn long_bomb(n: u8) -> Bytes {
    // A custom section, which changes nothing but the digest.
    [&bomb()[..], &[0, 2, 1, n]].concat().into()
}

#[tokio::test]
async fn what_was_compiled_once_needs_no_process_any_more() {
    let helper = Helper::new();
    let first = helper.runner();
    assert_eq!(hello_on(&first).await, End::Exited(0));
    let second = helper.runner_without_helper();
    let hello = prebuilt("hello");
    let digest = Digest::of(&hello);
    assert!(!second.is_compiled(&digest));
    let facts = second.check(digest, hello).await.unwrap();
    assert_eq!(facts.needs.memories, 1);
    assert!(second.is_compiled(&digest));
    assert_eq!(hello_on(&second).await, End::Exited(0));
    // An engine of another kind takes the same code.
    let without_pool = WasmRunner::new(WasmConfig {
        helper: "/nothing/here".into(),
        pooling: false,
        ..helper.config()
    })
    .unwrap();
    assert_eq!(hello_on(&without_pool).await, End::Exited(0));
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let helper = Helper::new();
    assert_eq!(hello_on(&helper.runner()).await, End::Exited(0));
    let entry = helper.entry();
    let mut bytes = std::fs::read(&entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&entry, &bytes).unwrap();
    let end = hello_on(&helper.runner_without_helper()).await;
    assert!(matches!(end, End::Fault { .. }), "{end:?}");
    assert_eq!(hello_on(&helper.runner()).await, End::Exited(0));
    assert_eq!(
        hello_on(&helper.runner_without_helper()).await,
        End::Exited(0)
    );
}

#[tokio::test]
async fn two_hosts_compile_the_same_at_once() {
    let helper = Helper::new();
    let (one, other) = (helper.runner(), helper.runner());
    let (one, other) = tokio::join!(hello_on(&one), hello_on(&other));
    assert_eq!((one, other), (End::Exited(0), End::Exited(0)));
    helper.entry();
    helper.has_none().await;
}

#[tokio::test]
async fn many_agents_of_one_component_wait_for_one_compilation() {
    let helper = Helper::new();
    let runner = helper.runner();
    let all: Vec<_> = (0..8)
        .map(|_| {
            let started = ask(prebuilt("hello")).start_on(&runner);
            started.stdin.close();
            started
        })
        .collect();
    for started in all {
        assert_eq!(started.ended().await.end, End::Exited(0));
    }
    assert_eq!((runner.compile_misses(), runner.compile_hits()), (1, 7));
}

#[tokio::test]
async fn bombs_disturb_nobody() {
    let helper = Helper::new();
    let runner = helper.runner();
    assert_eq!(hello_on(&runner).await, End::Exited(0));
    let bombs: Vec<_> = bombs()
        .into_iter()
        .map(|(name, bytes)| (name, ask(bytes).start_on(&runner)))
        .collect();
    let digest = Digest::of(&bomb());
    helper.process().await;
    assert!(!runner.is_compiled(&digest));
    assert_eq!(hello_on(&runner).await, End::Exited(0));
    // What it is, can be told of another while compilers are at work.
    let probe = prebuilt("probe");
    runner.check(Digest::of(&probe), probe).await.unwrap();
    for (name, started) in bombs {
        started.stdin.close();
        let end = started.ended().await.end;
        assert!(
            // The last where other tests keep the machine from it.
            is_compile_limit(&end) || end == End::Exited(0) || is_capacity(&end),
            "{name}: {end:?}"
        );
    }
    helper.has_none().await;
    assert_eq!(hello_on(&runner).await, End::Exited(0));
}

#[tokio::test]
async fn what_takes_long_holds_up_only_its_like() {
    let helper = Helper::new();
    let runner = WasmRunner::new(WasmConfig {
        compile_time: DEADLINE * 2,
        compile_workers: 1,
        ..helper.config()
    })
    .unwrap();
    let long: Vec<_> = (0..3)
        .map(|n| ask(long_bomb(n)).start_on(&runner))
        .collect();
    helper.process().await;
    // It is new here, and all before it would take longer than this test may.
    assert_eq!(hello_on(&runner).await, End::Exited(0));
    for mut started in long {
        assert!(started.guest.events.try_recv().is_err());
        started.guest.control.kill();
        assert_eq!(started.ended().await.end, End::Killed);
    }
    helper.has_none().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_takes_its_compilation_along() {
    let helper = Helper::new();
    let runner = helper.patient_runner();
    let started = ask(bomb()).start_on(&runner);
    helper.process().await;
    started.guest.control.kill();
    assert_eq!(started.ended().await.end, End::Killed);
    helper.has_none().await;
    // And so does a host that ends.
    let started = ask(bomb()).start_on(&runner);
    helper.process().await;
    drop(runner);
    helper.has_none().await;
    drop(started);
}

fn signal(process: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal).unwrap();
}

fn is_capacity(end: &End) -> bool {
    matches!(
        end,
        End::StartFailed {
            code: ErrorCode::Capacity,
            ..
        }
    )
}

#[tokio::test]
async fn a_helper_that_is_killed_may_be_tried_again() {
    let helper = Helper::new();
    let runner = helper.patient_runner();
    for killed in [Signal::SIGKILL, Signal::SIGTERM] {
        let started = ask(bomb()).start_on(&runner);
        signal(helper.computes().await, killed);
        let end = started.ended().await.end;
        assert!(is_capacity(&end), "{end:?}");
        helper.has_none().await;
    }
    assert_eq!(hello_on(&runner).await, End::Exited(0));
}

#[tokio::test]
async fn a_helper_that_gets_no_processor_may_be_tried_again() {
    let helper = Helper::new();
    // Nothing is begun anew there.
    let runner = WasmRunner::new(WasmConfig {
        compile_time: Duration::from_secs(1),
        pooling: false,
        ..helper.config()
    })
    .unwrap();
    let started = ask(bomb()).start_on(&runner);
    signal(helper.computes().await, Signal::SIGSTOP);
    let end = started.ended().await.end;
    assert!(is_capacity(&end), "{end:?}");
    helper.has_none().await;
    assert_eq!(hello_on(&runner).await, End::Exited(0));
}
