//! Guests that take what a call to the host gives.

use super::*;

/// A guest that calls an imported function for ever, with one memory.
fn calls(imports: &str, lower: &str, body: &str) -> Bytes {
    wat(&format!(
        r#"(component
            {imports}
            (core module $libc
                (memory (export "memory") 20)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $libc (instantiate $libc))
            {lower}
            (core module $m
                (import "" "f" (func $f {body})
            (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

#[tokio::test]
async fn handles_up_to_the_limit() {
    let waits = |count: u32| {
        let mut waits = ask(waits_for(count));
        waits.limits.handles = 100;
        waits
    };
    // Each holds two: the time, and that it is waited for.
    assert_eq!(waits(50).end().await, End::Exited(0));
    for count in [51, u32::MAX] {
        assert_eq!(trap_of(&waits(count).end().await), Trap::Other);
    }
    still_runs().await;
}

/// Waits for so many times, and never drops that.
fn waits_for(count: u32) -> Bytes {
    let count = format!(
        "(param i64) (result i32)))
            (func (export \"run\") (result i32) (local $i i32)
                (loop $l i64.const 0 call $f drop
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $l (i32.lt_u (local.get $i) (i32.const {count}))))
                i32.const 0)"
    );
    calls(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
           (alias export $poll "pollable" (type $pollable))
           (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $p)) (export "pollable" (type $q (eq $p)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $q))))))"#,
        r#"(core func $f (canon lower (func $clock "subscribe-duration")))"#,
        &count,
    )
}

const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#;
const LOWER_RANDOM: &str = r#"(core func $f (canon lower (func $random "get-random-bytes")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#;

#[tokio::test]
async fn a_gigabyte_of_randomness() {
    let guest = |bytes: u64| {
        let body = format!(
            "(param i64 i32))) (func (export \"run\") (result i32) \
             i64.const {bytes} i32.const 0 call $f i32.const 0)"
        );
        ask(calls(RANDOM, LOWER_RANDOM, &body))
    };
    assert_eq!(trap_of(&guest(1 << 30).end().await), Trap::Other);
    assert_eq!(guest(1000).end().await, End::Exited(0));
    // However much may go through a call, randomness is made byte by byte.
    let lavish = |bytes| {
        let mut lavish = guest(bytes);
        lavish.limits.hostcall_bytes = 64 << 20;
        lavish
    };
    assert_eq!(trap_of(&lavish((1 << 20) + 1).end().await), Trap::Other);
    assert_eq!(lavish(1 << 20).end().await, End::Exited(0));
}

/// The import of `skep:agent/progress` as `$progress`.
const PROGRESS: &str = include_str!("progress.wat");

/// A guest that reports progress, with a stage of so many letters; `then` calls
/// `$f`, also as the function 0 of a table.
fn reports(bytes: u32, then: &str) -> Bytes {
    wat(&format!(
        r#"(component
            {PROGRESS}
            (core module $libc (memory (export "memory") 200))
            (core instance $libc (instantiate $libc))
            (core func $f (canon lower (func $progress "report") (memory (core memory $libc "memory"))))
            (core module $m
                (type $report (func (param i32)))
                (import "" "f" (func $f (type $report)))
                (import "" "memory" (memory 1))
                (table funcref (elem $f))
                (func (export "run") (result i32)
                    (memory.fill (i32.const 1024) (i32.const 97) (i32.const 13000000))
                    (i32.store (i32.const 0) (i32.const 1024))
                    (i32.store (i32.const 4) (i32.const {bytes}))
                    {then} i32.const 0))
            (core instance $i (instantiate $m
                (with "" (instance (export "f" (func $f)) (export "memory" (memory $libc "memory"))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

#[tokio::test]
async fn a_string_as_long_as_a_call_may_take() {
    let guest = |bytes: u32, limit: u64| {
        let mut guest = ask(reports(bytes, "(call $f (i32.const 0))"));
        guest.limits.hostcall_bytes = limit;
        guest
    };
    for limit in [1000, 4 << 20] {
        let bytes = u32::try_from(limit).unwrap();
        assert_eq!(guest(bytes, limit).end().await, End::Exited(0));
        assert_eq!(trap_of(&guest(bytes + 1, limit).end().await), Trap::Other);
    }
}

#[tokio::test]
async fn a_string_that_is_too_long() {
    let guest = |bytes: u32| ask(reports(bytes, "(call $f (i32.const 0))"));
    assert_eq!(trap_of(&guest(10_000_000).end().await), Trap::Other);
    let seen = guest(1_000_000).start();
    let progress = seen.guest.progress.clone();
    assert_eq!(seen.ended().await.end, End::Exited(0));
    assert_eq!(progress.borrow().as_ref().unwrap().stage.len(), 128);
}

#[tokio::test]
async fn calls_in_a_row_are_no_single_turn() {
    let config = WasmConfig {
        max_agents: 4,
        guest_threads: 1,
        ..WasmConfig::default()
    };
    let runner = WasmRunner::new(config).unwrap();
    let hello = || ask(prebuilt("hello")).start_on(&runner).ended();
    // Compiled by now.
    assert_eq!(hello().await.end, End::Exited(0));
    for call in [
        "(call $f (i32.const 0))",
        "(call_indirect (type $report) (i32.const 0) (i32.const 0))",
    ] {
        // Some hundred microseconds each, and no loop or function in between.
        let mut busy = ask(reports(2_000_000, &call.repeat(4000))).start_on(&runner);
        busy.running().await;
        // It has filled its memory, and gave way meanwhile, before the first.
        let first = busy.guest.progress.changed();
        tokio::time::timeout(DEADLINE, first)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(hello().await.end, End::Exited(0));
        let ended = busy.guest.events.try_recv();
        assert!(ended.is_err(), "all of it was one turn: {ended:?}");
        busy.guest.control.kill();
        assert_eq!(busy.ended().await.end, End::Killed);
    }
}

#[tokio::test]
async fn sockets_are_denied() {
    // The error code of `access-denied` is the first.
    let guest = wat(r#"(component
            (import "wasi:sockets/network@0.2.0" (instance $network
                (type $code' (enum "unknown" "access-denied" "not-supported" "invalid-argument"
                    "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
                    "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
                    "remote-unreachable" "connection-refused" "connection-reset"
                    "connection-aborted" "datagram-too-large" "name-unresolvable"
                    "temporary-resolver-failure" "permanent-resolver-failure"))
                (export "error-code" (type (eq $code')))
                (type $family' (enum "ipv4" "ipv6"))
                (export "ip-address-family" (type (eq $family')))))
            (alias export $network "error-code" (type $code))
            (alias export $network "ip-address-family" (type $family))
            (import "wasi:sockets/tcp@0.2.0" (instance $tcp
                (export "tcp-socket" (type (sub resource)))))
            (alias export $tcp "tcp-socket" (type $socket))
            (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
                (alias outer 1 $code (type $c)) (export "error-code" (type $cc (eq $c)))
                (alias outer 1 $family (type $f)) (export "ip-address-family" (type $ff (eq $f)))
                (alias outer 1 $socket (type $s)) (export "tcp-socket" (type $ss (eq $s)))
                (export "create-tcp-socket"
                    (func (param "address-family" $ff) (result (result (own $ss) (error $cc)))))))
            (core module $libc (memory (export "memory") 1))
            (core instance $libc (instantiate $libc))
            (core func $f (canon lower (func $create "create-tcp-socket") (memory (core memory $libc "memory"))))
            (core module $m
                (import "" "f" (func $f (param i32 i32)))
                (import "" "memory" (memory 1))
                (func (export "run") (result i32)
                    (call $f (i32.const 0) (i32.const 16))
                    (if (i32.eqz (i32.load8_u (i32.const 16))) (then unreachable))
                    (i32.ne (i32.load8_u (i32.const 20)) (i32.const 1))))
            (core instance $i (instantiate $m
                (with "" (instance (export "f" (func $f)) (export "memory" (memory $libc "memory"))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#);
    assert_eq!(ask(guest).end().await, End::Exited(0));
}
