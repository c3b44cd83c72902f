//! Components made of components: what they hand to each other is copied by code
//! of wasmtime's own, in one call.

use skep_protocol::{ErrorCode, LimitName};

use super::inspect::describe;
use super::*;

const MOST: u64 = 64 << 20;

/// What each of two components has in it.
const LIBC: &str = r#"(core module $libc (memory (export "memory") 16)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536))
    (core instance $libc (instantiate $libc))"#;
const IN_MEMORY: &str =
    r#"(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))"#;

/// A component that calls `f` of another, with this parameter; `joined` puts both
/// together.
fn composed(parameter: &str, flat: &str, given: &str, options: &str, joined: &str) -> Bytes {
    wat(&format!(
        r#"(component
            (component $callee {LIBC}
                (core module $m (func (export "f") (param {flat})))
                (core instance $i (instantiate $m))
                (func (export "f") {parameter} (canon lift (core func $i "f") {options})))
            (component $caller
                (import "f" (func $f {parameter})) {LIBC}
                (core func $f (canon lower (func $f) {options}))
                (core module $m
                    (import "" "f" (func $f (param {flat})))
                    (func (export "run") (result i32) (call $f {given}) i32.const 0))
                (core instance $i
                    (instantiate $m (with "" (instance (export "f" (func $f))))))
                (func (export "run") (result (result)) (canon lift (core func $i "run"))))
            {joined}
            (alias export $a "run" (func $run))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

const SIBLINGS: &str = r#"(instance $b (instantiate $callee))
    (instance $a (instantiate $caller (with "f" (func $b "f"))))"#;
/// By way of an instance that is handed into a third.
const NESTED: &str = r#"(instance $b (instantiate $callee))
    (component $outer
        (import "c" (component $c
            (import "f" (func (param "s" string))) (export "run" (func (result (result))))))
        (import "b" (instance $b (export "f" (func (param "s" string)))))
        (alias export $b "f" (func $f))
        (instance $a (instantiate $c (with "f" (func $f))))
        (export "run" (func $a "run")))
    (instance $exports (export "f" (func $b "f")))
    (instance $a (instantiate $outer
        (with "b" (instance $exports)) (with "c" (component $caller))))"#;

fn strings(joined: &str) -> Bytes {
    let given = "(i32.const 0) (i32.const 1000)";
    let string = r#"(param "s" string)"#;
    composed(string, "i32 i32", given, IN_MEMORY, joined)
}

fn numbers() -> Bytes {
    let number = r#"(param "n" u32)"#;
    composed(number, "i32", "(i32.const 0)", "", SIBLINGS)
}

#[tokio::test]
async fn what_components_hand_over_is_bounded_by_their_memory() {
    let with = |bytes: &Bytes, memory_bytes| {
        let mut ask = ask(bytes.clone());
        ask.limits.memory_bytes = memory_bytes;
        ask
    };
    for joined in [SIBLINGS, NESTED] {
        let guest = strings(joined);
        assert_eq!(with(&guest, MOST).end().await, End::Exited(0));
        match with(&guest, MOST + 1).end().await {
            End::StartFailed {
                code: ErrorCode::LimitExceedsCeiling,
                message,
            } => assert!(
                message.contains("67108865") && message.contains("67108864"),
                "{message}"
            ),
            other => panic!("{other:?}"),
        }
    }
    // The twins: who hands over nothing that lies in a memory, or calls nobody
    // but the host.
    for guest in [numbers(), prebuilt("hello"), prebuilt("probe")] {
        let facts = describe(&guest).unwrap();
        assert!(!facts.needs.hands_over);
        let lavish = Limits {
            memory_bytes: MOST + 1,
            ..Limits::default()
        };
        facts.admits(&lavish).unwrap();
    }
    assert_eq!(with(&numbers(), MOST + 1).end().await, End::Exited(0));
}

#[test]
fn the_refusal_names_the_limit_and_both_numbers() {
    let facts = describe(&strings(SIBLINGS)).unwrap();
    let lavish = Limits {
        memory_bytes: 2 * MOST,
        ..Limits::default()
    };
    let refusal = facts.admits(&lavish).unwrap_err().to_wire();
    assert_eq!(refusal.code, ErrorCode::LimitExceedsCeiling);
    let details = refusal.details;
    assert_eq!(
        details.limit.as_deref(),
        Some(LimitName::MemoryBytes.as_str())
    );
    assert_eq!(
        (details.asked, details.ceiling, details.needed),
        (Some(2 * MOST), Some(MOST), None)
    );
}

/// A component that takes `f` and has another, so many of them one after the other,
/// and one that calls the last.
fn chain(last: usize, link: &str) -> Bytes {
    let made = |n| {
        let before = n - 1;
        format!(r#"(instance $i{n} (instantiate $link (with "f" (func $i{before} "f"))))"#)
    };
    let links: String = (1..=last).map(made).collect();
    wat(&format!(
        r#"(component
            (component $first
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))
            (component $link (import "f" (func $f)) (core func $l (canon lower (func $f)))
                {link})
            (instance $i0 (instantiate $first))
            {links}
            (component $caller (import "f" (func $f)) (core func $l (canon lower (func $f)))
                (core module $m (import "" "f" (func $f))
                    (func (export "run") (result i32) (call $f) i32.const 0))
                (core instance $i (instantiate $m (with "" (instance (export "f" (func $l))))))
                (func (export "run") (result (result)) (canon lift (core func $i "run"))))
            (instance $a (instantiate $caller (with "f" (func $i{last} "f"))))
            (alias export $a "run" (func $run))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

/// What wasmtime makes between components is no instance of the guest's.
#[tokio::test]
async fn as_many_instances_as_it_has_are_enough() {
    let of_its_own = r#"(core module $m (import "" "f" (func $f))
            (func (export "f") (call $f)))
        (core instance $i (instantiate $m (with "" (instance (export "f" (func $l))))))
        (func (export "f") (canon lift (core func $i "f")))"#;
    let nothing_but_links = r#"(func (export "f") (canon lift (core func $l)))"#;
    for (guest, instances) in [
        (chain(1, of_its_own), 3),
        (chain(62, of_its_own), 64),
        (chain(40, nothing_but_links), 2),
    ] {
        let needs = describe(&guest).unwrap().needs;
        assert_eq!(needs.least_instances(), instances);
        let with = |instances| {
            let mut ask = ask(guest.clone());
            ask.limits.instances = instances;
            ask
        };
        assert_eq!(with(instances).end().await, End::Exited(0), "{instances}");
        assert!(matches!(
            with(instances - 1).end().await,
            End::StartFailed {
                code: ErrorCode::LimitTooSmall,
                ..
            }
        ));
    }
}

/// What a host before this one wrote down can be read.
#[test]
fn facts_that_do_not_say_it_are_facts() {
    let facts = describe(&numbers()).unwrap();
    let mut kept = serde_json::to_value(&facts).unwrap();
    let needs = kept["needs"].as_object_mut().unwrap();
    needs.remove("hands_over").unwrap();
    assert_eq!(serde_json::from_value::<Facts>(kept).unwrap(), facts);
}
