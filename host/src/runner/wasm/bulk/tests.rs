//! What a module does with its bulk instructions in portions is what it did
//! before.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, Instance, Store, Trap, Val};

use super::function::{BYTES, ELEMENTS};
use super::*;
use crate::runner::wasm::modules::MAX_NESTING;

/// Memory of four portions and one page, which holds a different number in each
/// word; tables of some portions of functions and of nothing.
const MODULE_TEXT: &str = r#"
(module $named
  (type $i (func (result i32)))
  (import "host" "table" (table $imported 10 funcref))
  (import "host" "function" (func $first (result i32)))
  (memory $m (export "m") 65)
  (memory $other (export "other") 65)
  (table $t (export "t") 200000 funcref)
  (table $u (export "u") 200000 funcref)
  (data $d "SEGMENT")
  (elem declare func $f $g)
  (func $f (type $i) i32.const 1)
  (func $g (type $i) i32.const 2)
  (func (export "prepare") (local $n i32)
    (loop $l
      (i32.store (local.get $n) (i32.mul (local.get $n) (i32.const 0x9e3779b1)))
      (local.set $n (i32.add (local.get $n) (i32.const 4)))
      (br_if $l (i32.lt_u (local.get $n) (i32.const 4259840))))
    (local.set $n (i32.const 0))
    (loop $l
      (table.set $t (local.get $n) (ref.func $f))
      (local.set $n (i32.add (local.get $n) (i32.const 7)))
      (br_if $l (i32.lt_u (local.get $n) (i32.const 200000)))))
  (func (export "memory.copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "memory.copy between") (param i32 i32 i32)
    (memory.copy $other $m (local.get 0) (local.get 1) (local.get 2)))
  (func (export "memory.fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.copy") (param i32 i32 i32)
    (table.copy $t $t (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.copy between") (param i32 i32 i32)
    (table.copy $u $t (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.fill") (param i32 i32 i32)
    (table.fill $t (local.get 0) (ref.func $g) (local.get 2)))
  (func (export "short") (param i32 i32 i32)
    (memory.init $d (local.get 0) (local.get 1) (local.get 2))
    (memory.fill (local.get 0) (local.get 1) (i32.const 8)))
  ;; What tables hold, as bytes of a memory.
  (func (export "tell") (local $n i32)
    (loop $l
      (i32.store8 (local.get $n) (call $kind (table.get $t (local.get $n))))
      (i32.store8 offset=1000000 (local.get $n) (call $kind (table.get $u (local.get $n))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $n) (i32.const 200000)))))
  (table $one 1 funcref)
  (func $kind (param funcref) (result i32)
    (if (result i32) (ref.is_null (local.get 0))
      (then (i32.const 0))
      (else (table.set $one (i32.const 0) (local.get 0))
            (call_indirect $one (type $i) (i32.const 0))))))
"#;

const OPERATIONS: [&str; 7] = [
    "memory.copy",
    "memory.copy between",
    "memory.fill",
    "table.copy",
    "table.copy between",
    "table.fill",
    "short",
];

/// What is left of a module after it was called: its trap, and its memories and
/// tables.
fn left(engine: &Engine, module: &wasmtime::Module, call: &str, args: [u32; 3]) -> String {
    let mut store = Store::new(engine, ());
    let none = wasmtime::Ref::Func(None);
    let functions = wasmtime::TableType::new(wasmtime::RefType::FUNCREF, 10, None);
    let table = wasmtime::Table::new(&mut store, functions, none).unwrap();
    let function = wasmtime::Func::wrap(&mut store, || 0);
    let imports = [table.into(), function.into()];
    let instance = Instance::new(&mut store, module, &imports).unwrap();
    let mut run = |name: &str, args: &[Val]| {
        let function = instance.get_func(&mut store, name).unwrap();
        let result = function.call(&mut store, args, &mut []);
        result.err().map(|error| error.downcast::<Trap>().unwrap())
    };
    assert_eq!(run("prepare", &[]), None);
    let args = args.map(|value| Val::I32(value.cast_signed()));
    let trap = run(call, &args);
    let mut hash = Sha256::new();
    let names = if call.starts_with("table") {
        assert_eq!(run("tell", &[]), None);
        vec!["m"]
    } else {
        vec!["m", "other"]
    };
    for name in names {
        hash.update(instance.get_memory(&mut store, name).unwrap().data(&store));
    }
    format!("{trap:?} {:x?}", hash.finalize())
}

fn engine() -> Engine {
    let mut config = Config::new();
    config.wasm_features(
        super::super::engine::features() & wasmparser::WasmFeatures::WASM3,
        true,
    );
    Engine::new(&config).unwrap()
}

fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    Module::read(bytes).unwrap().rewrite().unwrap()
}

/// Values on both sides of everything that matters.
fn value(portion: u32, whole: u32) -> impl Strategy<Value = u32> {
    let near = move |at: u32| (0u32..=6).prop_map(move |by| at.wrapping_add(by).wrapping_sub(3));
    prop_oneof![
        near(0),
        near(portion),
        near(portion * 2),
        near(whole),
        near(whole - portion),
        near(u32::MAX),
        0..whole,
        0..portion,
    ]
}

#[test]
fn a_module_does_the_same_in_portions() {
    let bytes = wat::parse_str(MODULE_TEXT).unwrap();
    let engine = engine();
    let before = wasmtime::Module::new(&engine, &bytes).unwrap();
    let after = wasmtime::Module::new(&engine, rewritten(&bytes).unwrap()).unwrap();
    let args = (0..OPERATIONS.len()).prop_flat_map(|operation| {
        let (portion, whole) = if OPERATIONS[operation].starts_with("table") {
            (ELEMENTS, 200_000)
        } else {
            (BYTES, 65 << 16)
        };
        let value = || value(portion, whole);
        (Just(OPERATIONS[operation]), [value(), value(), value()])
    });
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        ..ProptestConfig::default()
    });
    let done = runner.run(&args, |(call, args)| {
        prop_assert_eq!(
            left(&engine, &before, call, args),
            left(&engine, &after, call, args)
        );
        Ok(())
    });
    done.unwrap();
}

/// What is imported twice has two numbers.
#[test]
fn one_memory_by_two_names_is_copied_as_one() {
    let text = r#"(module
        (import "" "m" (memory $a 65)) (import "" "m" (memory $b 65))
        (import "" "t" (table $t 200000 funcref)) (import "" "t" (table $u 200000 funcref))
        (func $f) (elem declare func $f)
        (func (export "memory") (param i32 i32 i32)
            (memory.copy $a $b (local.get 0) (local.get 1) (local.get 2)))
        (func (export "table") (param i32 i32 i32)
            (table.set $t (i32.const 0) (ref.func $f))
            (table.copy $t $u (local.get 0) (local.get 1) (local.get 2))))"#;
    let bytes = wat::parse_str(text).unwrap();
    let engine = engine();
    let module = wasmtime::Module::new(&engine, rewritten(&bytes).unwrap()).unwrap();
    let mut store = Store::new(&engine, ());
    let memory = wasmtime::MemoryType::new(65, None);
    let memory = wasmtime::Memory::new(&mut store, memory).unwrap();
    let table = wasmtime::TableType::new(wasmtime::RefType::FUNCREF, 200_000, None);
    let table = wasmtime::Table::new(&mut store, table, wasmtime::Ref::Func(None)).unwrap();
    let imports = [memory.into(), memory.into(), table.into(), table.into()];
    let instance = Instance::new(&mut store, &module, &imports).unwrap();
    let words: Vec<u8> = (0..65_u32 << 14).flat_map(u32::to_le_bytes).collect();
    for (to, from) in [(65_536, 0), (0, 65_536)] {
        memory.write(&mut store, 0, &words).unwrap();
        let copy = instance.get_func(&mut store, "memory").unwrap();
        let length = 4_000_000;
        let args = [to, from, length].map(Val::I32);
        copy.call(&mut store, &args, &mut []).unwrap();
        let [to, from, length] = [to, from, length].map(|value| usize::try_from(value).unwrap());
        assert!(memory.data(&store)[to..][..length] == words[from..][..length]);
    }
    let copy = instance.get_func(&mut store, "table").unwrap();
    let args = [1, 0, 199_999].map(Val::I32);
    copy.call(&mut store, &args, &mut []).unwrap();
    let filled = |at| !table.get(&mut store, at).unwrap().is_null();
    let filled: Vec<u64> = (0..200_000)
        .filter({
            let mut filled = filled;
            move |&at| filled(at)
        })
        .collect();
    assert_eq!(filled, [0, 1]);
}

/// A memory of 4 GiB has an end that no number of 32 bits tells.
#[test]
fn what_ends_at_four_gibibytes_is_in_portions_too() {
    const LENGTH: u32 = 3 * BYTES + 5;
    const START: u32 = LENGTH.wrapping_neg();
    let text = |pages: u32| {
        format!(
            r#"(module
            (memory $m (export "m") {pages}) (memory $other (export "other") 65)
            (func (export "fill") (param i32 i32 i32)
                (memory.fill (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param i32 i32 i32)
                (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "in") (param i32 i32 i32)
                (memory.copy $m $other (local.get 0) (local.get 1) (local.get 2)))
            (func (export "out") (param i32 i32 i32)
                (memory.copy $other $m (local.get 0) (local.get 1) (local.get 2))))"#
        )
    };
    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config).unwrap();
    // How often it looked at the clock, its trap, and what is in the memories then.
    let done = |bytes: &[u8], call: &str, args: [u32; 3]| {
        let module = wasmtime::Module::new(&engine, bytes).unwrap();
        let mut store = Store::new(&engine, 0_u32);
        store.epoch_deadline_callback(|mut store| {
            *store.data_mut() += 1;
            Ok(wasmtime::UpdateDeadline::Continue(0))
        });
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "m").unwrap();
        let other = instance.get_memory(&mut store, "other").unwrap();
        let tail = memory.data_size(&store) - (65 << 16);
        for (memory, from) in [(memory, tail), (other, 0)] {
            let data = &mut memory.data_mut(&mut store)[from..];
            for (word, number) in data.as_chunks_mut::<4>().0.iter_mut().zip(0_u32..) {
                *word = number.wrapping_mul(0x9e37_79b1).to_le_bytes();
            }
        }
        let function = instance.get_func(&mut store, call).unwrap();
        let args = args.map(|value| Val::I32(value.cast_signed()));
        let result = function.call(&mut store, &args, &mut []);
        let trap = result.err().map(|error| error.downcast::<Trap>().unwrap());
        let mut hash = Sha256::new();
        hash.update(&memory.data(&store)[tail..]);
        hash.update(other.data(&store));
        (*store.data(), trap, hash.finalize().to_vec())
    };
    for (pages, call, args, traps) in [
        (65_536, "fill", [START, 7, LENGTH], false),
        (65_536, "copy", [START, START - 9, LENGTH], false),
        (65_536, "copy", [START - 9, START, LENGTH], false),
        (65_536, "in", [START, 9, LENGTH], false),
        (65_536, "out", [9, START, LENGTH], false),
        (65_536, "fill", [START + 1, 7, LENGTH], true),
        (65_536, "in", [START, 3 * BYTES, LENGTH], true),
        (65_536, "in", [START + 1, 9, LENGTH], true),
        (65_536, "out", [START, START, LENGTH], true),
        (65_535, "fill", [START, 7, LENGTH], true),
        (65_535, "copy", [START - 65_536, START, LENGTH], true),
        (65_535, "in", [START, 9, LENGTH], true),
    ] {
        let bytes = wat::parse_str(text(pages)).unwrap();
        let before = done(&bytes, call, args);
        let after = done(&rewritten(&bytes).unwrap(), call, args);
        let trap = traps.then_some(Trap::MemoryOutOfBounds);
        assert_eq!(after.1, trap, "{pages} {call} {args:?}");
        assert_eq!(after.1, before.1);
        assert!(after.2 == before.2, "{pages} {call} {args:?}");
        if !traps {
            // As often as one that ends a page before.
            let [to, from, length] = args;
            let args = match call {
                "fill" | "in" => [to - 65_536, from, length],
                "out" => [to, from - 65_536, length],
                _ => [to - 65_536, from - 65_536, length],
            };
            let elsewhere = done(&rewritten(&bytes).unwrap(), call, args);
            assert_eq!(after.0, elsewhere.0, "{pages} {call} {args:?}");
            assert!(after.0 > before.0 + 3, "{pages} {call} {args:?}");
        }
    }
}

#[test]
fn only_what_may_be_long_is_replaced() {
    let calls = |body: &str| {
        let text = format!(
            "(module (memory 1) (data $d \"short\") (func (param i32) \
             i32.const 0 i32.const 0 {body}))"
        );
        rewritten(&wat::parse_str(text).unwrap()).is_some()
    };
    assert!(calls("local.get 0 memory.copy"));
    assert!(calls("i32.const 1048577 memory.fill"));
    assert!(calls("i32.const -1 memory.fill"));
    assert!(!calls("i32.const 4096 memory.fill"));
    assert!(!calls("drop drop"));
}

#[test]
fn what_comes_out_as_long_as_it_was_is_replaced_all_the_same() {
    // The call is as long as the instruction from so many functions on.
    for (functions, body) in [
        (0x80, "memory.fill"),
        (0x4000, "memory.copy"),
        (
            0x4000,
            "memory.fill (memory.copy (i32.const 0) (i32.const 0) (local.get 0))",
        ),
    ] {
        let others = "(func)".repeat(functions);
        let text = format!(
            "(module (memory 1) {others} (func (param i32) \
             i32.const 0 i32.const 0 local.get 0 {body}))"
        );
        assert!(
            rewritten(&wat::parse_str(text).unwrap()).is_some(),
            "{body}"
        );
    }
    // Two become shorter by as much as a look makes the third longer.
    let text = "(module (import \"\" \"f\" (func $host)) (memory 1) (func (param i32) call $host \
         (memory.copy (i32.const 0) (i32.const 0) (local.get 0)) \
         (memory.fill (i32.const 0) (i32.const 0) (local.get 0))))";
    assert!(rewritten(&wat::parse_str(text).unwrap()).is_some());
}

#[test]
fn what_may_take_long_is_looked_up_before() {
    // How many empty loops there are in the last function.
    let looks = |body: &str| {
        let text = format!(
            "(module (type $t (func)) (import \"\" \"f\" (func $host)) (memory 1) (table 1 funcref) \
             (data $d \"short\") (func $own) (func (param i32) {body}))"
        );
        let bytes = wat::parse_str(text).unwrap();
        let after = rewritten(&bytes).unwrap_or(bytes);
        wasmparser::Validator::new().validate_all(&after).unwrap();
        after
            .windows(3)
            .filter(|ops| ops == &[0x03, 0x40, 0x0b])
            .count()
    };
    assert_eq!(looks("call $host call $own call $host"), 2);
    assert_eq!(looks("i32.const 0 call_indirect (type $t)"), 1);
    assert_eq!(looks("call $own"), 0);
    let bulk = |length: &str| format!("i32.const 0 i32.const 0 {length} ");
    assert_eq!(looks(&(bulk("i32.const 1048576") + "memory.fill")), 1);
    assert_eq!(looks(&(bulk("local.get 0") + "memory.init $d")), 1);
    assert_eq!(looks(&(bulk("i32.const 4096") + "memory.copy")), 0);
    assert_eq!(looks("ref.null func i32.const 1 table.grow drop"), 1);
    assert_eq!(looks("i32.const 1 memory.grow drop"), 1);
    // In code that is never reached, as in any other.
    assert_eq!(looks("unreachable call $host"), 1);
}

#[test]
fn a_backtrace_names_the_instruction() {
    let names = |text: &str| {
        let engine = engine();
        let bytes = rewritten(&wat::parse_str(text).unwrap()).unwrap();
        let module = wasmtime::Module::new(&engine, bytes).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance.get_func(&mut store, "run").unwrap();
        let error = run.call(&mut store, &[], &mut []).unwrap_err();
        let trace = error.downcast_ref::<wasmtime::WasmBacktrace>().unwrap();
        let name = |frame: &wasmtime::FrameInfo| frame.func_name().map(str::to_owned);
        trace.frames().iter().map(name).collect::<Vec<_>>()
    };
    let body = "(memory 1) (func $caller (export \"run\") (param) (local $n i32) \
                (memory.fill (i32.const 0) (i32.const 0) (i32.sub (local.get $n) (i32.const 1))))";
    let named = names(&format!("(module $m {body})"));
    assert_eq!(
        named,
        [Some("memory.fill".to_owned()), Some("caller".to_owned())]
    );
    let unnamed = names(&format!(
        "(module {})",
        body.replace("$caller", "")
            .replace("$n", "")
            .replace("local.get ", "local.get 0")
    ));
    assert_eq!(unnamed, [Some("memory.fill".to_owned()), None]);
}

#[test]
fn what_lies_deep_in_a_component_is_reached() {
    let inner = "(core module (memory 1) (func (param i32) \
                 local.get 0 local.get 0 local.get 0 memory.fill))";
    let nest = |depth: usize| {
        let text = format!(
            "{}{inner}{}",
            "(component ".repeat(depth + 1),
            ")".repeat(depth + 1)
        );
        wat::parse_str(text).unwrap()
    };
    for depth in [0, 3, MAX_NESTING] {
        let component = nest(depth);
        let portioned = in_portions(&component).unwrap();
        assert!(portioned.len() > component.len());
        wasmparser::Validator::new()
            .validate_all(&portioned)
            .unwrap();
        // There is nothing left to replace but in the function that was added.
        assert_eq!(portioned[..8], component[..8]);
    }
    let refused = in_portions(&nest(MAX_NESTING + 1)).unwrap_err();
    assert!(refused.message.contains("nested deeper"), "{refused:?}");
    let plain = wat::parse_str("(component (core module (func)))").unwrap();
    assert!(matches!(in_portions(&plain), Ok(Cow::Borrowed(_))));
}
