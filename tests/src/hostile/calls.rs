//! Taking what calls to the host give: waits, handles, randomness, strings.

use skep_client::protocol::{AgentSpec, Trap};

use super::wat::{PROGRESS, calling};
use super::{Case, Ends, MIB, SOON_MS};
use crate::guests::probe;

pub(super) fn cases() -> Vec<Case> {
    [waits(), handles(), randomness(), strings()].concat()
}

const POLLS: &str = r#"
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))
        (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $p)) (export "pollable" (type $q (eq $p)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $q))))))"#;
const LOWER_POLLS: &str = r#"
    (core func $after (canon lower (func $clock "subscribe-duration")))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core func $poll-all (canon lower (func $poll "poll")
        (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
    (core func $drop (canon resource.drop $pollable))"#;
const CORE_POLLS: &str = r#"
    (import "" "memory" (memory 1))
    (import "" "after" (func $after (param i64) (result i32)))
    (import "" "block" (func $block (param i32)))
    (import "" "poll-all" (func $poll (param i32 i32 i32)))
    (import "" "drop" (func $drop (param i32)))"#;

fn polling(pages: u32, body: &str) -> AgentSpec {
    let module = format!("{CORE_POLLS} (func (export \"run\") (result i32) {body})");
    let given = ["after", "block", "poll-all", "drop"];
    calling(POLLS, LOWER_POLLS, &given, pages, &module)
}

/// Polls the same handle, which is ready after so many nanoseconds, so often at
/// once, `times` times.
pub(super) fn poll_many(ready_ns: i64, handles: u32, times: &str) -> AgentSpec {
    let body = format!(
        "(local $h i32) (local $n i32) \
         (local.set $h (call $after (i64.const {ready_ns}))) \
         (loop $fill \
            (i32.store offset=4194304 (i32.shl (local.get $n) (i32.const 2)) (local.get $h)) \
            (local.set $n (i32.add (local.get $n) (i32.const 1))) \
            (br_if $fill (i32.lt_u (local.get $n) (i32.const {handles})))) \
         (loop $again (call $poll (i32.const 4194304) (i32.const {handles}) (i32.const 16)) {times}) \
         i32.const 0"
    );
    polling(140, &body)
}

fn waits() -> Vec<Case> {
    let case = |what, spec, ends| Case::new("waits", what, spec, ends);
    let never = polling(1, "(call $block (call $after (i64.const -1))) i32.const 0");
    let busy = "(local $h i32) (local $left i32) (local.set $left (i32.const 1000)) \
         (loop $again (local.set $h (call $after (i64.const 0))) (call $block (local.get $h)) \
            (call $drop (local.get $h)) \
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))";
    let busy_for_ever = polling(1, &format!("{busy} (br $again)) i32.const 0"));
    let busy_for_a_while = polling(
        1,
        &format!("{busy} (br_if $again (local.get $left))) i32.const 0"),
    );
    // A handle that is lent counts as one that is held.
    let lent = |what, spec, ends| {
        let mut case = case(what, spec, ends);
        case.spec.limits.handles = Some(10_000);
        case
    };
    vec![
        case(
            "sleeps for ever",
            probe(&["sleep", "600000"]),
            Ends::Deadline,
        )
        .wall_ms(SOON_MS)
        .writing(Vec::new()),
        case(
            "sleeps until it is killed",
            probe(&["sleep", "600000"]),
            Ends::Killed,
        ),
        case("sleeps a little", probe(&["sleep", "10"]), Ends::Exited(0))
            .writing(b"slept\n".to_vec()),
        case("waits for what never comes", never, Ends::Deadline).wall_ms(SOON_MS),
        case(
            "polls a million handles",
            poll_many(-1, 1_000_000, ""),
            Ends::Trapped(Trap::Other),
        ),
        lent(
            "polls too many in a loop",
            poll_many(0, 9_000, "(br $again)"),
            Ends::Deadline,
        )
        .wall_ms(SOON_MS),
        lent(
            "polls many that never come",
            poll_many(-1, 9_000, ""),
            Ends::Deadline,
        )
        .wall_ms(SOON_MS),
        lent(
            "polls many until it is killed",
            poll_many(-1, 9_000, ""),
            Ends::Killed,
        ),
        case("polls many once", poll_many(0, 1000, ""), Ends::Exited(0)),
        case(
            "polls in a busy loop",
            busy_for_ever.clone(),
            Ends::Deadline,
        )
        .wall_ms(SOON_MS),
        case("polls until it is killed", busy_for_ever, Ends::Killed),
        case("polls for a while", busy_for_a_while, Ends::Exited(0)),
    ]
}

fn handles() -> Vec<Case> {
    let take = |count: u32, then: &str| {
        let body = format!(
            "(local $left i32) (local.set $left (i32.const {count})) \
             (loop $again (call $after (i64.const 0)) {then} \
                (local.set $left (i32.sub (local.get $left) (i32.const 1))) \
                (br_if $again (local.get $left))) i32.const 0"
        );
        polling(1, &body)
    };
    let case = |what, spec, ends| {
        let mut case = Case::new("handles", what, spec, ends);
        case.spec.limits.handles = Some(100);
        case
    };
    vec![
        case(
            "keeps all",
            take(u32::MAX, "drop"),
            Ends::Trapped(Trap::Other),
        ),
        case("keeps forty", take(40, "drop"), Ends::Exited(0)),
        case(
            "gives each back",
            take(10_000, "call $drop"),
            Ends::Exited(0),
        ),
    ]
}

fn randomness() -> Vec<Case> {
    let random = |bytes: u64, again: &str| {
        let module = format!(
            "(import \"\" \"random\" (func $random (param i64 i32))) \
             (func (export \"run\") (result i32) \
                (loop $l (call $random (i64.const {bytes}) (i32.const 0)) {again}) i32.const 0)"
        );
        calling(
            r#"(import "wasi:random/random@0.2.0" (instance $source
                (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#,
            r#"(core func $random (canon lower (func $source "get-random-bytes")
                (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#,
            &["random"],
            40,
            &module,
        )
    };
    let case = |what, spec, ends| Case::new("randomness", what, spec, ends);
    vec![
        case(
            "a gigabyte at once",
            random(1 << 30, ""),
            Ends::Trapped(Trap::Other),
        ),
        case("without end", random(1 << 16, "(br $l)"), Ends::Deadline).wall_ms(SOON_MS),
        case("a mebibyte", random(MIB, ""), Ends::Exited(0)),
    ]
}

fn strings() -> Vec<Case> {
    let say = |bytes: u32, pages: u32| {
        let module = format!(
            "(import \"\" \"report\" (func $report (param i32))) \
             (import \"\" \"memory\" (memory 1)) \
             (func (export \"run\") (result i32) \
                (i32.store (i32.const 4) (i32.const {bytes})) \
                (call $report (i32.const 0)) i32.const 0)"
        );
        calling(
            PROGRESS,
            r#"(core func $report (canon lower (func $progress "report")
                (memory (core memory $libc "memory"))))"#,
            &["report"],
            pages,
            &module,
        )
    };
    let case = |what, spec, ends| Case::new("strings", what, spec, ends).memory(256 * MIB);
    vec![
        case(
            "200 MiB to the host",
            say(200 << 20, 3300),
            Ends::Trapped(Trap::Other),
        ),
        case(
            "beyond its memory",
            say(200 << 20, 20),
            Ends::Trapped(Trap::Other),
        ),
        case(
            "a megabyte to the host",
            say(1_000_000, 20),
            Ends::Exited(0),
        ),
    ]
}
