//! From compiled code to a component that can be started.

use std::sync::Arc;

use skep_protocol::ErrorCode;
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::engine::{Backend, Engines, Place};
use super::inspect::Facts;
use super::linking::linked;
use super::memory::HostMemory;
use super::outside::Error;
use super::refusal::Refusal;
use super::store::Held;
use super::weight::weight;

/// A component that can be started.
pub(super) struct Compiled {
    pub(super) facts: Facts,
    pub(super) place: Place,
    pub(super) command: CommandPre<Held>,
    /// Bytes of its code, and of what is kept besides.
    pub(super) size: usize,
    _held: Loaded,
}

/// A place among all that is loaded, kept on the shelf or by agents.
struct Loaded {
    size: u64,
    all: Arc<HostMemory>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.all.give_back(self.size);
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Loads code that was compiled by our own helper, or kept in our own cache.
pub(super) fn load(engines: &Engines, facts: Facts, code: &[u8]) -> Result<Compiled, Error> {
    let fault = |error: wasmtime::Error| Error::Fault {
        incident: crate::incident(&format!("compiled code cannot be loaded: {error:#}")),
    };
    let size = weight(code);
    if !engines.loaded.take(size as u64) {
        return Err(Error::Refused(Refusal::of(
            ErrorCode::Capacity,
            "the code of other agents' components takes all the memory that this host has for \
             it: try again when some have ended",
        )));
    }
    let held = Loaded {
        size: size as u64,
        all: Arc::clone(&engines.loaded),
    };
    let place = engines.place(&facts);
    let (place, component) = match component(engines.at(place).map_err(fault)?, code) {
        Ok(component) => (place, component),
        // What the pool's engine has against it is its size, which cannot be
        // told beforehand.
        Err(_) if place == Place::Pool => {
            let backend = engines.at(Place::OnDemand).map_err(fault)?;
            let component = component(backend, code).map_err(fault)?;
            (Place::OnDemand, component)
        }
        Err(error) => return Err(fault(error)),
    };
    let linker = &engines.at(place).map_err(fault)?.linker;
    let command = linked(linker, &component).map_err(Error::Refused)?;
    Ok(Compiled {
        facts,
        place,
        command,
        size,
        _held: held,
    })
}

#[expect(
    unsafe_code,
    reason = "compiled elsewhere, to be bounded there and kept on disk"
)]
fn component(backend: &Backend, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code was made by `precompile_component`, in a process of the
    // operator's own binary that said so, or it lay in a directory that only
    // this user can write to and has not changed since. The engine checks that
    // it was made for an engine like this. Nothing of a client's comes here.
    unsafe { Component::deserialize(&backend.engine, code) }
}

#[cfg(test)]
mod tests {
    use super::super::engine::for_compiling;
    use super::super::inspect::describe;
    use super::super::tests::command;
    use super::super::{HostMemory, WasmConfig};
    use super::*;

    #[test]
    fn all_that_is_loaded_is_bounded_and_given_back() {
        let globals = "(global i32 (i32.const 0))".repeat(100_000);
        let component = command("i32.const 0", &globals);
        let facts = describe(&component).unwrap();
        let compiler = for_compiling(false).unwrap();
        let code = compiler.precompile_component(&component).unwrap();
        let mut engines = Engines::new(&WasmConfig {
            pooling: false,
            ..WasmConfig::default()
        })
        .unwrap();
        // The code alone would fit in many times.
        let size = weight(&code);
        assert!(size > 4 * code.len());
        engines.loaded = HostMemory::new(size as u64 * 3 / 2);
        let load = || load(&engines, facts.clone(), &code);
        let first = load().unwrap();
        match load() {
            Err(Error::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::Capacity),
            other => panic!("{other:?}"),
        }
        drop(first);
        load().unwrap();
        assert_eq!(engines.loaded.used(), 0);
    }
}
