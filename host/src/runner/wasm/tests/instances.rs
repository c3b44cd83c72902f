//! What instances take besides their memories.

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::inspect::describe;
use super::*;

/// A module of so many globals, made so often.
fn globals(count: usize, times: usize) -> Bytes {
    let globals = "(global (mut i64) (i64.const 0))".repeat(count);
    let made = "(core instance (instantiate $g))".repeat(times);
    wat(&format!(
        r#"(component
            (core module $g {globals})
            {made}
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

/// Components each of which has much of something that instances have room for.
fn large() -> Vec<(&'static str, Bytes)> {
    let many = |what: &dyn Fn(usize) -> String| (0..5_000).map(what).collect::<String>();
    let functions = many(&|n| format!("(func $f{n})"));
    let of = |module: String| command("i32.const 0", &module);
    let items = many(&|n| format!("$f{n} "));
    let exports = many(&|n| format!("(export \"e{n}\" (func $f{n}))"));
    let expressions = many(&|n| format!("(ref.func $f{n}) "));
    let data = "(data \"x\")".repeat(5_000);
    let importing = |count: usize, kind: &str, given: &str, taken: &str| {
        let each = |what: &dyn Fn(usize) -> String| (0..count).map(what).collect::<String>();
        let exports = each(&|n| format!("(export \"e{n}\" ({kind} 0))"));
        let imports = each(&|n| format!("(import \"\" \"e{n}\" ({taken}))"));
        wat(&format!(
            r#"(component
                (core module $giver {given} {exports})
                (core instance $given (instantiate $giver))
                (core module $m {imports} (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m (with "" (instance $given))))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $e (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $e)))"#
        ))
    };
    // Two that call each other: wasmtime makes a module between them.
    let lifted = |n| {
        format!(
            r#"(func $l{n} (param "x" string) (canon lift (core func $i "f")
                (memory $memory) (realloc $realloc)))
               (export "f{n}" (func $l{n}))"#
        )
    };
    let lowered =
        |n| format!(r#"(core func $c{n} (canon lower (func $inner "f{n}") (memory $memory)))"#);
    let calling = wat(&format!(
        r#"(component
            (component $inner
                (core module $m (memory (export "memory") 1)
                    (func (export "f") (param i32 i32))
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
                (core instance $i (instantiate $m))
                (alias core export $i "memory" (core memory $memory))
                (alias core export $i "realloc" (core func $realloc))
                {})
            (instance $inner (instantiate $inner))
            (core module $m (memory (export "memory") 1)
                (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            {}
            (core module $last {})
            (core instance (instantiate $last (with "" (instance {}))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#,
        (0..300).map(lifted).collect::<String>(),
        (0..300).map(lowered).collect::<String>(),
        (0..300)
            .map(|n| format!("(import \"\" \"e{n}\" (func (param i32 i32)))"))
            .collect::<String>(),
        (0..300)
            .map(|n| format!("(export \"e{n}\" (func $c{n}))"))
            .collect::<String>(),
    ));
    vec![
        ("hello", prebuilt("hello")),
        ("probe", prebuilt("probe")),
        ("globals", globals(5_000, 7)),
        (
            "functions that are exported",
            of(format!("{functions}{exports}")),
        ),
        (
            "functions in a table",
            of(format!(
                "(table 5000 funcref) {functions} (elem (i32.const 0) func {items})"
            )),
        ),
        (
            "functions in no table",
            of(format!("{functions} (elem declare func {items})")),
        ),
        (
            "functions in expressions",
            of(format!("{functions} (elem funcref {expressions})")),
        ),
        (
            "functions in globals",
            of(format!(
                "{functions} {}",
                many(&|n| format!("(global funcref (ref.func $f{n}))"))
            )),
        ),
        ("tables", of("(table 1 funcref)".repeat(90))),
        ("memories", of("(memory 1)".repeat(90))),
        ("segments of data", of(format!("(memory 1) {data}"))),
        (
            "imported globals",
            importing(5_000, "global", "(global i32 (i32.const 0))", "global i32"),
        ),
        (
            "imported functions",
            importing(5_000, "func", "(func)", "func"),
        ),
        (
            "imported memories",
            importing(90, "memory", "(memory 1)", "memory 1"),
        ),
        (
            "imported tables",
            importing(90, "table", "(table 1 funcref)", "table 1 funcref"),
        ),
        ("functions between components", calling),
    ]
}

/// What the engine says that all instances of this component take.
fn told_by_engine(bytes: &Bytes) -> u64 {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(1)
        .total_component_instances(1)
        .total_memories(200)
        .total_tables(200)
        .total_stacks(1)
        .max_memories_per_module(100)
        .max_tables_per_module(100)
        .max_core_instances_per_component(1_000)
        .max_memories_per_component(1_000)
        .max_tables_per_component(1_000)
        .max_memory_size(4 << 20)
        .max_core_instance_size(1 << 30)
        .max_component_instance_size(0);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).unwrap();
    let error = wasmtime::component::Component::new(&engine, bytes).unwrap_err();
    let text = format!("{error:#}");
    let (_, number) = text
        .split_once("for this component requires ")
        .expect(&text);
    number.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn no_instance_takes_more_than_is_counted() {
    for (name, bytes) in large() {
        let needs = describe(&bytes).unwrap().needs;
        let counted = needs.instance_bytes + super::census::UNCOUNTED;
        let taken = told_by_engine(&bytes);
        assert!(taken <= counted, "{name}: {taken} of {counted}");
    }
}

#[test]
fn of_ordinary_programs_nothing_is_counted() {
    for name in ["hello", "probe"] {
        assert_eq!(describe(&prebuilt(name)).unwrap().needs.instance_bytes, 0);
    }
}
