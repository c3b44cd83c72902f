//! The limit of memory: the sum, however it is asked for.

use super::inspect::describe;
use super::*;
use crate::config::{Config, RawConfig};

const MIB: u64 = 1024 * 1024;

/// Grows memory `$m` by 16 MiB until that fails, then does `then`.
fn greedy(then: &str) -> String {
    format!("(loop $l i32.const 256 memory.grow i32.const -1 i32.ne br_if $l) {then}")
}

#[tokio::test]
async fn a_guest_that_allocates_without_end() {
    let seen = probe(&["alloc"]).run().await;
    let End::OutOfMemory { asked_bytes } = seen.end else {
        panic!("{:?}", seen.end)
    };
    assert!(asked_bytes > 64 * MIB);
    assert!(seen.usage.memory_peak_bytes <= 64 * MIB);
    assert!(seen.usage.memory_peak_bytes > 32 * MIB);
    still_runs().await;
}

#[tokio::test]
async fn a_refused_growth_is_no_end_by_itself() {
    let seen = ask(command(&greedy("i32.const 0"), "(memory 1)"))
        .run()
        .await;
    assert_eq!(seen.end, End::Exited(0));
    assert_eq!(seen.usage.memory_peak_bytes, 48 * MIB + 64 * 1024);
    let end = ask(command(&greedy("unreachable"), "(memory 1)"))
        .end()
        .await;
    assert_eq!(
        end,
        End::OutOfMemory {
            asked_bytes: 64 * MIB + 64 * 1024
        }
    );
    // It took the refusal well, and went on to grow by less.
    let recovered = greedy("i32.const 1 memory.grow drop unreachable");
    assert_eq!(
        trap_of(&ask(command(&recovered, "(memory 1)")).end().await),
        Trap::Unreachable
    );
    let divided = greedy("i32.const 0 i32.const 0 i32.div_u");
    assert_eq!(
        trap_of(&ask(command(&divided, "(memory 1)")).end().await),
        Trap::IntegerDivideByZero
    );
    // Its own maximum is its own affair.
    let modest = command(&greedy("unreachable"), "(memory 1 2)");
    assert_eq!(trap_of(&ask(modest).end().await), Trap::Unreachable);
}

#[tokio::test]
async fn many_memories_each_below_the_limit() {
    let memories: String = (0..4).map(|n| format!("(memory $m{n} 1)")).collect();
    let grow: String =
        (0..4).map(|n| format!("(if (i32.eq (memory.grow $m{n} (i32.const 319)) (i32.const -1)) (then unreachable))")).collect();
    let seen = ask(command(&format!("{grow} i32.const 0"), &memories))
        .run()
        .await;
    // 20 MiB each: the fourth is one too many.
    assert_eq!(
        seen.end,
        End::OutOfMemory {
            asked_bytes: 80 * MIB
        }
    );
    assert!(seen.usage.memory_peak_bytes <= 64 * MIB);
    still_runs().await;
}

#[tokio::test]
async fn tables_count() {
    // Neither table fits the pool, and the sum is more than 7 MiB.
    let guest = command(
        &grow_tables(470_000),
        "(table 30000 funcref) (table 30000 funcref)",
    );
    let mut small = ask(guest.clone());
    small.limits.memory_bytes = 7 * MIB;
    assert_eq!(
        small.end().await,
        End::OutOfMemory {
            asked_bytes: 1_000_000 * 8
        }
    );
    let mut enough = ask(guest);
    enough.limits.memory_bytes = 8 * MIB;
    assert_eq!(enough.end().await, End::Exited(0));
}

/// Grows two tables by so much, and gives up where that fails.
fn grow_tables(by: u32) -> String {
    let grow = |table| {
        format!(
            "(if (i32.eq (table.grow {table} (ref.null func) (i32.const {by})) (i32.const -1)) \
             (then unreachable)) "
        )
    };
    grow(0) + &grow(1) + "i32.const 0"
}

/// All of them come about in one call, which nothing interrupts.
#[tokio::test]
async fn tables_have_so_many_elements_and_no_more() {
    const MOST: u32 = 1 << 20;
    const HALF: u32 = MOST / 2;
    for (tables, by, end) in [
        ("(table 1 funcref) (table 1 funcref)", HALF - 1, None),
        (
            "(table 1 funcref) (table 2 funcref)",
            HALF - 1,
            Some(Trap::Unreachable),
        ),
        // It is in nobody's way that one of them is in the pool.
        (
            "(table 1 20000 funcref) (table 1 funcref)",
            MOST,
            Some(Trap::Unreachable),
        ),
        (
            "(table 1 400000000 funcref) (table 1 funcref)",
            300_000_000,
            Some(Trap::Unreachable),
        ),
    ] {
        let mut grows = ask(command(&grow_tables(by), tables));
        // There is memory enough.
        grows.limits.memory_bytes = 4096 * MIB;
        let seen = grows.end().await;
        match end {
            None => assert_eq!(seen, End::Exited(0), "{tables}"),
            Some(trap) => assert_eq!(trap_of(&seen), trap, "{tables}"),
        }
    }
    let whole = |more| {
        let tables = format!("(table {HALF} funcref) (table {more} funcref)");
        command("i32.const 0", &tables)
    };
    assert_eq!(ask(whole(HALF)).end().await, End::Exited(0));
    match ask(whole(HALF + 1)).end().await {
        End::StartFailed {
            code: skep_protocol::ErrorCode::CompileLimit,
            message,
        } => assert!(
            message.contains("1048577") && message.contains("1048576"),
            "{message}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_even_start() {
    let too_small = |seen: &Seen, number: &str| match &seen.end {
        End::StartFailed {
            code: skep_protocol::ErrorCode::LimitTooSmall,
            message,
        } => {
            assert!(message.contains(number), "{message}");
            assert!(!seen.ran);
            assert_eq!(seen.usage.memory_peak_bytes, 0);
        }
        other => panic!("{other:?}"),
    };
    let gib = command("i32.const 0", "(memory 16384)");
    too_small(&ask(gib).run().await, "1073741824");
    let mut tables = ask(command("i32.const 0", &"(table 100000 funcref)".repeat(10)));
    tables.limits.memory_bytes = 7 * MIB;
    too_small(&tables.run().await, "8000000");
    let memories = "(memory 0)".repeat(100);
    too_small(&ask(command("i32.const 0", &memories)).run().await, "100");
    let instances: String = (0..1000)
        .map(|_| "(core instance (instantiate $m))")
        .collect();
    let many = wat(&format!(
        r#"(component
            (core module $m (func (export "run") (result i32) i32.const 0))
            (component $c {instances})
            (instance (instantiate $c)) (instance (instantiate $c))
            (instance (instantiate $c)) (instance (instantiate $c))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ));
    too_small(&ask(many).run().await, "4001");
    // Just enough is enough.
    let mut exact = ask(command("i32.const 0", "(memory 16)"));
    exact.limits.memory_bytes = MIB;
    exact.limits.instances = 1;
    assert_eq!(exact.end().await, End::Exited(0));
}

/// A module of many globals is small, and an instance of it is not.
#[tokio::test]
async fn instances_count_as_what_they_take() {
    const GLOBALS: u64 = 50_000;
    const TIMES: u64 = 10;
    let globals = "(global (mut i64) (i64.const 0))".repeat(50_000);
    let instances = |times| "(core instance (instantiate $g))".repeat(times);
    let many = |times, body: &str| {
        let instances = instances(times);
        ask(wat(&format!(
            r#"(component
                (core module $g {globals}) {instances}
                (core module $m (func (export "run") (result i32) {body}))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $e (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $e)))"#
        )))
    };
    let least = TIMES * GLOBALS * 16;
    let needed = {
        let needs = describe(&many(10, "i32.const 0").bytes).unwrap().needs;
        assert!(needs.memory_bytes.abs_diff(least) < MIB);
        needs.memory_bytes
    };
    let with = |memory_bytes, body| {
        let mut ask = many(10, body);
        ask.limits.memory_bytes = memory_bytes;
        ask
    };
    let seen = with(needed, "i32.const 0").run().await;
    assert_eq!(seen.end, End::Exited(0));
    assert_eq!(seen.usage.memory_peak_bytes, needed);
    match with(needed - 1, "i32.const 0").end().await {
        End::StartFailed {
            code: skep_protocol::ErrorCode::LimitTooSmall,
            message,
        } => assert!(message.contains(&needed.to_string()), "{message}"),
        other => panic!("{other:?}"),
    }
    // So many are not made at all: nobody goes between.
    let more = many(11, "i32.const 0");
    match more.end().await {
        End::StartFailed {
            code: skep_protocol::ErrorCode::CompileLimit,
            message,
        } => assert!(message.contains("8388608"), "{message}"),
        other => panic!("{other:?}"),
    }
    // They are of what all agents have together.
    let runner = WasmRunner::new(WasmConfig {
        max_agents: 4,
        memory_bytes: needed * 3 / 2,
        ..WasmConfig::default()
    })
    .unwrap();
    let mut holds = with(needed, "(loop $l br $l) i32.const 0").start_on(&runner);
    holds.running().await;
    assert_eq!(runner.memory_bytes(), needed);
    let second = with(needed, "i32.const 0").start_on(&runner);
    assert!(matches!(
        second.ended().await.end,
        End::StartFailed {
            code: skep_protocol::ErrorCode::Capacity,
            ..
        }
    ));
    holds.guest.control.kill();
    assert_eq!(holds.ended().await.end, End::Killed);
    assert_eq!(runner.memory_bytes(), 0);
    let third = with(needed, "i32.const 0").start_on(&runner);
    assert_eq!(third.ended().await.end, End::Exited(0));
}

#[tokio::test]
async fn start_functions_are_under_the_limits() {
    let start = |body: &str| {
        ask(command(
            "i32.const 0",
            &format!("(memory 1) (func $s {body}) (start $s)"),
        ))
    };
    let seen = start(&greedy("unreachable")).run().await;
    assert!(!seen.ran);
    assert_eq!(
        seen.end,
        End::OutOfMemory {
            asked_bytes: 64 * MIB + 64 * 1024
        }
    );
    assert_eq!(
        trap_of(&start("unreachable").end().await),
        Trap::Unreachable
    );
    let mut spins = start("(loop $l br $l)");
    spins.limits.fuel = 100_000_000;
    assert_eq!(spins.end().await, End::OutOfFuel);
}

/// A component with so many memories, more than the pool has for one.
fn with_memories(memories: usize, body: &str) -> Ask {
    // A module has a hundred at most.
    const IN_ONE: usize = 100;
    let module = |name: &str, memories: usize| {
        let memories = "(memory 0)".repeat(memories);
        format!("(core module ${name} {memories})")
    };
    let full = "(core instance (instantiate $full))".repeat(memories / IN_ONE);
    let text = format!(
        r#"(component
            {} {full}
            {} (core instance (instantiate $rest))
            (core module $m (func (export "run") (result i32) {body}))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#,
        module("full", IN_ONE),
        module("rest", memories % IN_ONE),
    );
    let mut ask = ask(wat(&text));
    ask.limits.instances = memories as u64;
    ask
}

/// However little memory it is.
#[tokio::test]
async fn a_few_agents_leave_memories_to_others() {
    const FEW: usize = 16;
    let config = WasmConfig {
        max_agents: FEW + 1,
        guest_threads: 2,
        ..WasmConfig::default()
    };
    let runner = WasmRunner::new(config).unwrap();
    let ceilings = Config::try_from(RawConfig::default()).unwrap().ceilings;
    let most = usize::try_from(ceilings.instances).unwrap();
    let mut held = Vec::new();
    for _ in 0..FEW {
        let mut holds = with_memories(most, "(loop $l br $l) i32.const 0");
        holds.limits.fuel = 1000;
        holds.on_fuel_exhausted = OnFuelExhausted::Pause;
        let mut holds = holds.start_on(&runner);
        holds.running().await;
        held.push(holds);
    }
    let other = with_memories(most, "i32.const 0").start_on(&runner);
    assert_eq!(other.ended().await.end, End::Exited(0));
    for holds in held {
        holds.guest.control.kill();
        assert_eq!(holds.ended().await.end, End::Killed);
    }
}

/// Each reserves some gibibytes of addresses.
#[tokio::test]
async fn memories_beyond_the_pool_are_bounded() {
    const ALL: usize = 4096;
    const HELD: usize = 4000;
    let config = WasmConfig {
        max_agents: 4,
        guest_threads: 2,
        ..WasmConfig::default()
    };
    let runner = WasmRunner::new(config).unwrap();
    let ends = |memories| {
        let guest = with_memories(memories, "i32.const 0").start_on(&runner);
        async { guest.ended().await.end }
    };
    let full = |end| match end {
        End::StartFailed { code, .. } => code == skep_protocol::ErrorCode::Capacity,
        _ => false,
    };
    // It stands still and holds what it has.
    let mut holds = with_memories(HELD, "(loop $l br $l) i32.const 0");
    holds.limits.fuel = 1000;
    holds.on_fuel_exhausted = OnFuelExhausted::Pause;
    let mut holds = holds.start_on(&runner);
    holds.running().await;
    assert!(full(ends(ALL - HELD + 1).await));
    assert_eq!(ends(ALL - HELD).await, End::Exited(0));
    // The pool's are others.
    let hello = ask(prebuilt("hello")).start_on(&runner);
    assert_eq!(hello.ended().await.end, End::Exited(0));
    holds.guest.control.kill();
    assert_eq!(holds.ended().await.end, End::Killed);
    assert_eq!(ends(ALL - HELD + 1).await, End::Exited(0));
    assert!(full(ends(ALL + 1).await));
}
