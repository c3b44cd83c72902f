use std::sync::mpsc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::super::engine::for_compiling;
use super::super::inspect::describe;
use super::super::tests::{DEADLINE, command};
use super::super::{HostMemory, WasmConfig};
use super::*;

#[test]
fn what_nobody_uses_makes_room_for_what_is_to_be_loaded() {
    let globals = "(global i32 (i32.const 0))".repeat(100_000);
    let component = command("i32.const 0", &globals);
    let facts = describe(&component).unwrap();
    let code = for_compiling(false)
        .unwrap()
        .precompile_component(&component)
        .unwrap();
    let config = WasmConfig {
        pooling: false,
        ..WasmConfig::default()
    };
    let mut engines = Engines::new(&config).unwrap();
    engines.loaded = HostMemory::new(weight(&code) as u64 * 5 / 2);
    let compiler = Compiler::new(&config, Arc::new(engines)).unwrap();
    let shared = &compiler.shared;
    let keep = |name: &[u8]| {
        let compiled = Arc::new(shared.load(&facts, &code).unwrap());
        shared.shelf.keep(Digest::of(name), Arc::clone(&compiled));
        compiled
    };
    let used = keep(b"in use");
    drop(keep(b"idle"));
    let third = shared.load(&facts, &code).unwrap();
    assert!(shared.shelf.ready(&Digest::of(b"in use")).is_some());
    assert!(shared.shelf.ready(&Digest::of(b"idle")).is_none());
    // What is in use stays, whoever comes.
    match shared.load(&facts, &code) {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::Capacity),
        other => panic!("{other:?}"),
    }
    drop((used, third));
}

/// With one thread of each kind, of which these are busy until the sender is dropped.
fn busy_compiler(threads: fn(&Compiler) -> &Workers) -> (Compiler, mpsc::Sender<()>) {
    let config = WasmConfig {
        max_agents: 1,
        pooling: false,
        compile_workers: 1,
        ..WasmConfig::default()
    };
    let engines = Arc::new(Engines::new(&config).unwrap());
    let compiler = Compiler::new(&config, engines).unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let blocked = threads(&compiler).push(move || {
        begun.send(()).unwrap();
        let _ = gate.recv();
    });
    assert!(blocked.is_ok());
    has_begun.recv_timeout(DEADLINE).unwrap();
    (compiler, go)
}

fn numbered(number: usize) -> (Digest, Bytes) {
    let bytes = command(&format!("i32.const {number} drop i32.const 0"), "");
    (Digest::of(&bytes), bytes)
}

fn is_refused_for_room(compiled: Result<(), Failure>) -> bool {
    matches!(compiled, Err(Failure::Refused(refusal)) if refusal.code == ErrorCode::Capacity)
}

#[tokio::test]
async fn components_that_wait_to_be_compiled_are_bounded() {
    let (compiler, _go) = busy_compiler(|compiler| &compiler.compiling);
    let start = async |number| {
        let (digest, bytes) = numbered(number);
        compiler.compiled(digest, &bytes).await.map(drop)
    };
    let mut starts: FuturesUnordered<_> = (0..70).map(start).collect();
    for _ in 0..6 {
        let refused = tokio::time::timeout(DEADLINE, starts.next()).await.unwrap();
        assert!(is_refused_for_room(refused.unwrap()));
    }
    assert!(starts.next().now_or_never().is_none());
}

#[tokio::test]
async fn checks_that_compile_leave_room_for_starts() {
    let (compiler, go) = busy_compiler(|compiler| &compiler.compiling);
    let trial = |number| {
        let (digest, bytes) = numbered(number);
        let compiler = &compiler;
        Box::pin(async move { compiler.trial(digest, &bytes).await })
    };
    let mut trials: Vec<_> = (0..64).map(trial).collect();
    for trial in &mut trials {
        assert!(trial.now_or_never().is_none());
    }
    assert!(is_refused_for_room(trial(64).await));
    // All but one place are left, and the starts wait for one trial alone.
    let start = async |number| {
        let (digest, bytes) = numbered(number);
        compiler.compiled(digest, &bytes).await.map(drop)
    };
    let starts: FuturesUnordered<_> = (100..104).map(start).collect();
    drop(go);
    let all = starts.all(async |started| started.is_ok());
    assert!(tokio::time::timeout(DEADLINE, all).await.unwrap());
    let [first, second, ..] = &mut trials[..] else {
        panic!("no trials")
    };
    for trial in [first, second] {
        let tried = tokio::time::timeout(DEADLINE, trial).await.unwrap();
        assert!(tried.is_ok(), "{tried:?}");
    }
}

#[tokio::test]
async fn only_so_many_components_wait_to_be_checked() {
    let (compiler, go) = busy_compiler(|compiler| &compiler.checking);
    let check = |number: usize| {
        let (digest, bytes) = numbered(number);
        Box::pin(compiler.check(digest, bytes))
    };
    let mut waiting: Vec<_> = (0..64).map(check).collect();
    for check in &mut waiting {
        assert!(check.now_or_never().is_none());
    }
    match check(64).now_or_never() {
        Some(Err(Failure::Refused(refusal))) => assert_eq!(refusal.code, ErrorCode::Capacity),
        other => panic!("{other:?}"),
    }
    // For the others a process would be begun each.
    waiting.truncate(1);
    drop(go);
    for check in waiting.into_iter().chain([check(64)]) {
        let facts = tokio::time::timeout(DEADLINE, check).await.unwrap();
        assert!(facts.is_ok(), "{facts:?}");
    }
}
