//! Whether a component links, told before it is compiled. Of the interfaces that a host
//! offers, the functions' types and the resources are compared by the linker alone, and
//! it takes compiled code. So it gets the component with the shells of its modules, which
//! compile in a few milliseconds.

use std::borrow::Cow;
use std::cell::Cell;

use wasmtime::component::{Component, Linker};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::inspect::validate;
use super::modules::changed;
use super::refusal::Refusal;
use super::shell::shell;
use super::store::Held;
use super::{engine, linker};

/// What can be started of this component.
///
/// # Errors
///
/// `invalid_component`, where what it imports is there under that name, and is of another
/// type.
pub(super) fn linked(
    linker: &Linker<Held>,
    component: &Component,
) -> Result<CommandPre<Held>, Refusal> {
    let links = linker.instantiate_pre(component).and_then(CommandPre::new);
    links.map_err(|error| Refusal::invalid(format!("{error:#}")))
}

/// Functions of shells that are compiled for it, each some 60 µs: ordinary components
/// have some dozens.
const MAX_FUNCTIONS: usize = 500;

/// What the shells tell of a component.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Links,
    /// It does not link, or cannot be compiled whatever its code is.
    Refused(Refusal),
    /// That would take long to find out: compiling it will tell.
    Nothing,
}

/// Whether a validated component links. `refused` judges what the compiler says.
pub(super) fn told(component: &[u8], refused: impl Fn(&str) -> Refusal) -> Told {
    let (shells, functions) = match shells(component) {
        Ok(shells) => shells,
        Err(refusal) => return Told::Refused(refusal),
    };
    // What is wrong with the shells alone is our mistake, and nobody's refusal.
    if functions > MAX_FUNCTIONS || validate(&shells).is_err() {
        return Told::Nothing;
    }
    let Ok(engine) = engine::for_compiling(false) else {
        return Told::Nothing;
    };
    let Ok(linker) = linker::of(&engine) else {
        return Told::Nothing;
    };
    let links = Component::from_binary(&engine, &shells)
        .map_err(|error| refused(&format!("{error:#}")))
        .and_then(|shells| linked(&linker, &shells));
    match links {
        Ok(_) => Told::Links,
        Err(refusal) => Told::Refused(refusal),
    }
}

/// The component with the shells of its modules, and how many functions these have.
pub(super) fn shells(component: &[u8]) -> Result<(Cow<'_, [u8]>, usize), Refusal> {
    let functions = Cell::new(0);
    let change = |module: &[u8]| {
        let shell = shell(module)?;
        functions.set(functions.get() + shell.functions);
        Ok(Some(shell.bytes))
    };
    let shells = changed(component, &change)?.map_or(Cow::Borrowed(component), Cow::Owned);
    Ok((shells, functions.get()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{command, prebuilt, wat};
    use super::*;

    fn judge(error: &str) -> Refusal {
        Refusal::invalid(error)
    }

    #[test]
    fn what_people_build_links() {
        for name in ["hello", "probe", "echo", "log-errors"] {
            assert_eq!(told(&prebuilt(name), judge), Told::Links, "{name}");
        }
        let module = r#"(memory 1) (data "x") (elem declare func $f) (global funcref (ref.func $f))
            (func $f (data.drop 0))"#;
        assert_eq!(told(&command("i32.const 0", module), judge), Told::Links);
    }

    #[test]
    fn many_exports_of_a_type_are_one_and_many_types_are_not_looked_at() {
        let bytes = |functions: usize, params: fn(usize) -> usize| {
            let export = |n| {
                let bits = (0..10).map(|bit| ["i32 ", "i64 "][params(n) >> bit & 1]);
                let params = bits.collect::<String>();
                format!("(func (export \"f{n}\") (param {params}))")
            };
            let exports = (0..functions).map(export).collect::<String>();
            wat(&format!(
                r#"(component (core module {exports})
                    (import "wasi:random/random@0.2.0" (instance $r
                        (export "get-random-u64" (func (result u64)))))
                    (export "again" (instance $r)))"#
            ))
        };
        let no_program = |told| matches!(told, Told::Refused(_));
        assert!(no_program(told(&bytes(MAX_FUNCTIONS, |n| n), judge)));
        assert_eq!(told(&bytes(MAX_FUNCTIONS + 1, |n| n), judge), Told::Nothing);
        assert!(no_program(told(&bytes(20 * MAX_FUNCTIONS, |_| 0), judge)));
    }

    #[test]
    fn an_import_of_another_type_does_not() {
        let bytes = wat(r#"(component
            (import "wasi:random/random@0.2.0" (instance
                (export "get-random-u64" (func (result u32)))))
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#);
        let Told::Refused(refusal) = told(&bytes, judge) else {
            panic!("it links");
        };
        assert_eq!(refusal.code, skep_protocol::ErrorCode::InvalidComponent);
        assert!(refusal.message.contains("get-random-u64"), "{refusal}");
    }
}
