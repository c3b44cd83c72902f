//! What is refused before anything is compiled, and what is adapted.

use skep_protocol::ErrorCode;

use super::inspect::{describe, examine};
use super::*;

fn facts(bytes: &[u8]) -> Facts {
    examine(bytes).unwrap().0
}

fn refused(bytes: &[u8]) -> Refusal {
    let refusal = examine(bytes).unwrap_err();
    assert!(!refusal.message.is_empty());
    refusal
}

#[test]
fn facts_of_real_guests() {
    let hello = facts(&prebuilt("hello"));
    assert_eq!(hello.kind, Kind::Command);
    assert!(!hello.asks_control);
    assert!(hello.missing.is_empty());
    assert!(
        hello
            .imports
            .iter()
            .any(|name| name.starts_with("wasi:cli/stdout@0.2.")),
        "{:?}",
        hello.imports
    );
    assert!(hello.needs.instances >= 1);
    assert_eq!(hello.needs.memories, 1);
    assert!(facts(&prebuilt("probe")).asks_control);
}

#[tokio::test]
async fn what_is_no_component() {
    let cwasm = {
        let engine = Engines::new(&WasmConfig {
            pooling: false,
            ..WasmConfig::default()
        })
        .unwrap();
        let backend = engine.at(engine::Place::OnDemand).unwrap();
        backend
            .engine
            .precompile_component(&command("i32.const 0", ""))
            .unwrap()
    };
    let mut forged = cwasm.clone();
    forged.truncate(200);
    let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for (bytes, word) in [
        (&cwasm[..], ".cwasm"),
        (&forged, "ELF"),
        (&elf, "ELF"),
        (b"", "empty"),
        (b"  ;; text\n(component)", "text"),
        (b"(module)", "text"),
        (b"\0asm\x07\0\x07\0", "version"),
        (b"\0asm", "version"),
        (b"#!/bin/sh\n", "not WebAssembly"),
        (&[0x5a; 4096], "not WebAssembly"),
    ] {
        let refusal = refused(bytes);
        assert_eq!(refusal.code, ErrorCode::InvalidComponent, "{word}");
        let bytes = Bytes::copy_from_slice(bytes);
        let told = RUNNER.check(Digest::of(&bytes), bytes).await;
        assert!(
            matches!(&told, Err(Failure::Refused(same)) if *same == refusal),
            "{word}: {told:?}"
        );
        assert!(
            refusal.message.contains(word),
            "{word}: {}",
            refusal.message
        );
    }
}

#[test]
fn every_prefix_is_refused() {
    let hello = prebuilt("hello");
    for at in (0..hello.len()).step_by(97) {
        assert_eq!(
            refused(&hello[..at]).code,
            ErrorCode::InvalidComponent,
            "{at}"
        );
    }
}

#[test]
fn imports_that_nothing_provides() {
    let component = wat(r#"(component
            (import "wasi:cli/exit@0.2.3" (instance
                (export "exit" (func (param "status" (result))))
                (export "leave" (func))))
            (import "wasi:http/types@0.2.0" (instance (export "f" (func))))
            (import "acme:tools/only-types@1.0.0" (instance (type $t u32) (export "t" (type (eq $t)))))
            (import "plain" (func))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#);
    let refusal = refused(&component);
    assert_eq!(refusal.code, ErrorCode::MissingImport);
    let missing = [
        "wasi:cli/exit@0.2.3#leave",
        "wasi:http/types@0.2.0",
        "plain",
    ];
    assert_eq!(refusal.imports, missing);
    assert!(
        refusal.message.contains("and 2 more"),
        "{}",
        refusal.message
    );
    assert_eq!(describe(&component).unwrap().missing, missing);
    assert_eq!(refusal.to_wire().details.imports.unwrap(), missing);
}

#[test]
fn other_worlds() {
    let p3 = wat(r#"(component
            (import "wasi:cli/stdout@0.3.0-rc-2025-09-16" (instance))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.3.0-rc-2025-09-16" (instance $e)))"#);
    let refusal = refused(&p3);
    assert_eq!(refusal.code, ErrorCode::UnsupportedWorld);
    assert_eq!(
        refusal.world.as_deref(),
        Some("wasi:cli@0.3.0-rc-2025-09-16")
    );
    let refusal = refused(&wat("(component)"));
    assert_eq!(refusal.code, ErrorCode::InvalidComponent);
    assert!(
        refusal.message.contains("wasi:cli/run"),
        "{}",
        refusal.message
    );
    let refusal = refused(&wat("(module (func (export \"add\")))"));
    assert_eq!(refusal.code, ErrorCode::InvalidComponent);
    assert!(refusal.message.contains("_start"), "{}", refusal.message);
}

/// It would only be told when it starts.
#[test]
fn programs_of_another_type() {
    let program = |result: &str, export: &str| {
        wat(&format!(
            r#"(component
                (core module $m (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func $run {result} (canon lift (core func $i "run")))
                (instance $e (export "run" (func $run)))
                (instance $empty)
                (export "wasi:cli/run@0.2.0" {export}))"#
        ))
    };
    let right = "(result (result))";
    facts(&program(right, "(instance $e)"));
    for (result, export) in [
        ("(result u32)", "(instance $e)"),
        ("(result bool)", "(instance $e)"),
        (right, "(instance $empty)"),
        (right, "(func $run)"),
    ] {
        let refusal = refused(&program(result, export));
        assert_eq!(
            refusal.code,
            ErrorCode::InvalidComponent,
            "{result} {export}"
        );
        assert!(refusal.message.contains("func() -> result"), "{refusal}");
    }
}

/// An interface has functions and resources here, and nothing else.
#[test]
fn modules_that_nothing_provides() {
    let component = wat(r#"(component
            (import "wasi:random/random@0.2.0" (instance (export "m" (core module))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#);
    let refusal = refused(&component);
    assert_eq!(refusal.code, ErrorCode::MissingImport);
    assert_eq!(refusal.imports, ["wasi:random/random@0.2.0#m"]);
}

#[test]
fn tables_of_branches_have_an_end() {
    let targets = |count: usize| {
        let targets = "0 ".repeat(count + 1);
        command(
            "i32.const 0",
            &format!("(func i32.const 0 br_table {targets})"),
        )
    };
    assert!(examine(&targets(65_520)).is_ok());
    let refusal = refused(&targets(65_521));
    assert_eq!(refusal.code, ErrorCode::CompileLimit);
    assert_eq!(refusal.bound.as_deref(), Some("br_table"));
}

#[tokio::test]
async fn what_the_linker_finds_wrong_is_told_as_invalid() {
    for import in [
        r#"(import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result u32)))))"#,
        r#"(import "wasi:io/poll@0.2.0" (instance (export "foo" (type (sub resource)))))"#,
    ] {
        let component = wat(&format!(
            r#"(component {import}
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
        ));
        match ask(component).end().await {
            End::StartFailed { code, .. } => assert_eq!(code, ErrorCode::InvalidComponent),
            end => panic!("{end:?}"),
        }
    }
}

#[test]
fn features_that_are_off() {
    for (module, feature) in [
        ("(memory 1 1 shared)", "threads"),
        (
            "(memory 1) (func i32.const 0 i32.atomic.load drop)",
            "threads",
        ),
        ("(memory i64 1)", "memory64"),
        ("(tag)", "exceptions"),
        ("(type (struct))", "gc"),
        (
            "(type $f (func)) (func (param (ref null $f)))",
            "function-references",
        ),
    ] {
        for bytes in [
            command("i32.const 0", module),
            wat(&format!("(module {module} (func (export \"_start\")))")),
        ] {
            let refusal = refused(&bytes);
            assert_eq!(
                refusal.code,
                ErrorCode::UnsupportedFeature,
                "{module}: {}",
                refusal.message
            );
            assert_eq!(
                refusal.feature.as_deref(),
                Some(feature),
                "{module}: {}",
                refusal.message
            );
        }
    }
}

#[test]
fn bombs_are_counted_and_not_compiled() {
    // Each of 40 levels makes two of the level below.
    let mut levels = "(component $c0 (core module $m) (core instance (instantiate $m)))".to_owned();
    for level in 1..40 {
        let below = level - 1;
        levels += &format!(
            "(component $c{level} (alias outer 1 $c{below} (component $b)) \
             (instance (instantiate $b)) (instance (instantiate $b)))"
        );
    }
    // The same, with the level below handed in.
    let handed = "(component $c0 (core module $m) (core instance (instantiate $m))) \
         (component $d (import \"c\" (component $c)) \
            (component $e (alias outer 1 $c (component $c)) \
                (instance (instantiate $c)) (instance (instantiate $c))) \
            (export \"e\" (component $e)))"
        .to_owned()
        + &(1..40)
            .map(|level| {
                let below = level - 1;
                format!(
                    "(instance $i{level} (instantiate $d (with \"c\" (component $c{below})))) \
                     (alias export $i{level} \"e\" (component $c{level}))"
                )
            })
            .collect::<String>();
    for bomb in [levels, handed] {
        let bytes = wat(&format!(
            r#"(component
                {bomb}
                (instance (instantiate $c39))
                (core module $m (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $e (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $e)))"#
        ));
        assert_eq!(refused(&bytes).code, ErrorCode::CompileLimit);
    }
    let large = command(
        "i32.const 0",
        &format!("(func {})", "i32.const 1 drop ".repeat(400_000)),
    );
    assert_eq!(refused(&large).code, ErrorCode::CompileLimit);
}

#[test]
fn what_is_kept_besides_the_code_is_bounded() {
    let items = |text: &str, count: usize| command("i32.const 0", &text.repeat(count));
    let globals = |count| items("(global i32 (i32.const 0))", count);
    let elements = |count| items(&format!("(elem func {})", "$run ".repeat(count)), 1);
    for (text, most, more) in [
        ("globals", globals(249_000), globals(251_000)),
        ("elements", elements(249_000), elements(251_000)),
    ] {
        facts(&most);
        let refusal = refused(&more);
        assert_eq!(refusal.code, ErrorCode::CompileLimit);
        assert_eq!(refusal.bound.as_deref(), Some("items"), "{text}");
    }
}

#[tokio::test]
async fn what_is_kept_besides_the_code_is_bounded_in_bytes() {
    let name = "x".repeat(99_000);
    let exports = |count: usize| -> Bytes {
        let exports: String = (0..count)
            .map(|n| format!("(export \"{name}{n}\" (func $run))"))
            .collect();
        command("i32.const 0", &exports)
    };
    match ask(exports(90)).end().await {
        End::StartFailed { code, message } => {
            assert_eq!(code, ErrorCode::CompileLimit);
            assert!(message.contains("8388608"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(exports(80)).end().await, End::Exited(0));
}

const CORE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 8) "\10\00\00\00\05\00\00\00core\0a")
    (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))))"#;

#[tokio::test]
async fn a_core_module_is_adapted_and_runs() {
    let bytes = wat(CORE);
    let facts = facts(&bytes);
    assert_eq!(facts.kind, Kind::CoreModule);
    assert_eq!(facts.imports, ["wasi_snapshot_preview1.fd_write"]);
    let seen = ask(bytes).run().await;
    assert_eq!(
        (seen.end, seen.stdout),
        (End::Exited(0), b"core\n".to_vec())
    );
    let foreign = wat(&CORE.replace("fd_write", "fd_scribble"));
    assert_eq!(
        refused(&foreign).imports,
        ["wasi_snapshot_preview1.fd_scribble"]
    );
    let foreign = wat(&CORE.replace("wasi_snapshot_preview1", "env"));
    assert_eq!(refused(&foreign).imports, ["env.fd_write"]);
}

#[tokio::test]
async fn the_runner_refuses_too() {
    let end = ask(Bytes::from_static(b"nonsense")).end().await;
    assert!(
        matches!(
            end,
            End::StartFailed {
                code: ErrorCode::InvalidComponent,
                ..
            }
        ),
        "{end:?}"
    );
    let mut small = ask(prebuilt("hello"));
    small.limits.component_bytes = 10;
    assert!(matches!(
        small.end().await,
        End::StartFailed {
            code: ErrorCode::TooLarge,
            ..
        }
    ));
}
