//! How guests end by themselves.

use super::*;

#[tokio::test]
async fn hello_runs_and_is_compiled_once() {
    let runner = WasmRunner::new(WasmConfig {
        max_agents: 4,
        ..WasmConfig::default()
    })
    .unwrap();
    let hello = prebuilt("hello");
    let digest = Digest::of(&hello);
    assert!(!runner.is_compiled(&digest));
    let many: Vec<_> = (0..4)
        .map(|_| ask(hello.clone()).start_on(&runner))
        .collect();
    for started in many {
        let seen = started.ended().await;
        assert!(seen.ran);
        assert_eq!(seen.end, End::Exited(0));
        assert_eq!(seen.stdout, b"Hello, world!\n");
        assert!(seen.usage.fuel_used > 0);
        assert!(seen.usage.memory_peak_bytes > 64 * 1024);
        assert_eq!(seen.usage.memory_bytes, 0);
    }
    assert!(runner.is_compiled(&digest));
    assert_eq!((runner.compile_misses(), runner.compile_hits()), (1, 3));
}

#[tokio::test]
async fn without_a_pool_too() {
    let config = WasmConfig {
        max_agents: 1,
        pooling: false,
        ..WasmConfig::default()
    };
    let runner = WasmRunner::new(config).unwrap();
    let seen = ask(prebuilt("hello")).start_on(&runner).ended().await;
    assert_eq!(seen.end, End::Exited(0));
}

#[tokio::test]
async fn the_oldest_is_forgotten_first() {
    let config = WasmConfig {
        max_agents: 2,
        cached_components: 2,
        ..WasmConfig::default()
    };
    let runner = WasmRunner::new(config).unwrap();
    let guests: Vec<_> = (0..3)
        .map(|code| command(&format!("i32.const {code} drop i32.const 0"), ""))
        .collect();
    for at in [0, 1, 0, 2] {
        ask(guests[at].clone()).start_on(&runner).ended().await;
    }
    let kept: Vec<_> = guests
        .iter()
        .map(|guest| runner.is_compiled(&Digest::of(guest)))
        .collect();
    assert_eq!(kept, [true, false, true]);
}

#[tokio::test]
async fn exit_codes() {
    for code in [0, 1, 7, 255] {
        assert_eq!(
            probe(&["exit", &code.to_string()]).end().await,
            End::Exited(code)
        );
    }
    assert_eq!(ask(command("i32.const 0", "")).end().await, End::Exited(0));
    assert_eq!(ask(command("i32.const 1", "")).end().await, End::Exited(1));
}

#[tokio::test]
async fn a_panic_is_on_stderr_and_traps() {
    let seen = probe(&["panic"]).run().await;
    assert_eq!(trap_of(&seen.end), Trap::Unreachable);
    let stderr = String::from_utf8(seen.stderr).unwrap();
    assert!(stderr.contains("asked to panic"), "{stderr}");
}

#[tokio::test]
async fn traps_have_names() {
    let one_memory = "(memory 1)";
    let cases = [
        ("unreachable", "", Trap::Unreachable),
        (
            "i32.const 1 i32.const 0 i32.div_u",
            "",
            Trap::IntegerDivideByZero,
        ),
        (
            "i32.const 0x80000000 i32.const -1 i32.div_s",
            "",
            Trap::IntegerOverflow,
        ),
        ("f32.const nan i32.trunc_f32_s", "", Trap::BadConversion),
        (
            "i32.const 65536 i32.load",
            one_memory,
            Trap::MemoryOutOfBounds,
        ),
        ("call $run", "", Trap::StackOverflow),
        (
            "i32.const 0 call_indirect (type $t)",
            "(type $t (func (result i32))) (table 1 1 funcref)",
            Trap::NullReference,
        ),
        (
            "i32.const 7 call_indirect (type $t)",
            "(type $t (func (result i32))) (table 1 1 funcref)",
            Trap::TableOutOfBounds,
        ),
        (
            "i64.const 0 i32.const 0 call_indirect (type $t)",
            "(type $t (func (param i64) (result i32))) (table 1 1 funcref) (elem (i32.const 0) $run)",
            Trap::IndirectCallMismatch,
        ),
    ];
    for (body, module, expected) in cases {
        let end = ask(command(body, module)).end().await;
        assert_eq!(trap_of(&end), expected, "{body}");
    }
}

#[tokio::test]
async fn backtraces_have_short_readable_names() {
    let name = "_ZN5agent5parse17h0123456789abcdefE";
    let long = "x".repeat(5000);
    let guest = command(
        "call $a",
        &format!(
            "(func $a (@name \"{name}\") (result i32) call $b) (func $b (@name \"{long}\") (result i32) unreachable)"
        ),
    );
    let End::Trapped {
        message, backtrace, ..
    } = ask(guest).end().await
    else {
        panic!()
    };
    assert_eq!(
        message,
        "wasm trap: wasm `unreachable` instruction executed"
    );
    assert_eq!(backtrace.get(1).unwrap(), "agent::parse");
    assert_eq!(backtrace[0].len(), 256);
    let deep = ask(command("call $run", "")).end().await;
    let End::Trapped { backtrace, .. } = deep else {
        panic!()
    };
    assert_eq!(backtrace.len(), 20);
}

#[tokio::test]
async fn a_loop_runs_out_of_fuel_exactly() {
    let endless = command("(loop $l br $l) i32.const 0", "");
    for fuel in [1, 1000, 50_000_000] {
        let mut guest = ask(endless.clone());
        guest.limits.fuel = fuel;
        let seen = guest.run().await;
        assert_eq!(seen.end, End::OutOfFuel);
        assert_eq!(
            (seen.usage.fuel_used, seen.usage.fuel_left),
            (fuel, Some(0))
        );
    }
    still_runs().await;
}

/// What the guest ran since its count was read last is missing, and no more.
#[tokio::test]
async fn of_a_trap_the_fuel_is_told_to_an_interval() {
    let interval = super::fuel::INTERVAL;
    let traps = |trap: &str| {
        let counts = "(local $n i32) i32.const 1000000 local.set $n \
             (loop $l local.get $n i32.const 1 i32.sub local.tee $n br_if $l)";
        ask(command(&format!("{counts} {trap}"), "(memory 1)"))
    };
    let exact = traps("unreachable").run().await;
    assert_eq!(trap_of(&exact.end), Trap::Unreachable);
    let exact = exact.usage.fuel_used;
    assert!(exact > 10 * interval, "{exact}");
    let divides = "i32.const 1 local.get $n i32.div_s";
    let reads = "local.get $n i32.const -8 i32.add i32.load";
    for (trap, expected) in [
        (divides, Trap::IntegerDivideByZero),
        (reads, Trap::MemoryOutOfBounds),
    ] {
        let seen = traps(trap).run().await;
        assert_eq!(trap_of(&seen.end), expected);
        let used = seen.usage.fuel_used;
        let most = exact + 10;
        assert!((exact - interval..=most).contains(&used), "{used} {exact}");
    }
}

#[tokio::test]
async fn fuel_is_the_same_from_run_to_run() {
    let counting = command(
        "(local $n i32) i32.const 1000000 local.set $n \
         (loop $l local.get $n i32.const 1 i32.sub local.tee $n br_if $l) i32.const 0",
        "",
    );
    let first = ask(counting.clone()).run().await;
    assert_eq!(first.end, End::Exited(0));
    let used = first.usage.fuel_used;
    assert!(used > 4_000_000, "{used}");
    let mut enough = ask(counting.clone());
    enough.limits.fuel = used + 1;
    let seen = enough.run().await;
    assert_eq!((seen.end, seen.usage.fuel_used), (End::Exited(0), used));
    let mut short = ask(counting);
    short.limits.fuel = used - 10;
    assert_eq!(short.run().await.end, End::OutOfFuel);
}

#[tokio::test]
async fn fuel_can_be_read_while_it_runs() {
    let mut started = probe(&["spin"]).start();
    started.running().await;
    let control = Arc::clone(&started.guest.control);
    let progress = async {
        while control.usage().fuel_used < 100_000_000 || control.usage().cpu_ms < 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, progress).await.unwrap();
    control.kill();
    assert_eq!(started.ended().await.end, End::Killed);
}

#[tokio::test]
async fn fuel_is_known_after_a_trap() {
    let guest = command(
        "(local $n i32) i32.const 1000 local.set $n \
         (loop $l local.get $n i32.const 1 i32.sub local.tee $n br_if $l) unreachable",
        "",
    );
    let seen = ask(guest).run().await;
    assert_eq!(trap_of(&seen.end), Trap::Unreachable);
    assert!(seen.usage.fuel_used > 4000, "{}", seen.usage.fuel_used);
}
