//! From compiled code to a component that can be started.

use skep_protocol::ErrorCode;
use wasmtime::component::Component;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::engine::{Backend, Engines, Place};
use super::inspect::Facts;
use super::outside::Error;
use super::refusal::Refusal;
use super::store::Held;

/// A component that can be started.
pub(super) struct Compiled {
    pub(super) facts: Facts,
    pub(super) place: Place,
    pub(super) command: CommandPre<Held>,
    /// The bytes of its code.
    pub(super) size: usize,
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
    let command = (engines.at(place).map_err(fault)?)
        .linker
        .instantiate_pre(&component)
        .and_then(CommandPre::new)
        // The offer said that all is there, and the linker finds otherwise.
        .map_err(|error| {
            let message = format!("{error:#}");
            Error::Refused(Refusal::of(ErrorCode::InvalidComponent, message))
        })?;
    Ok(Compiled {
        facts,
        place,
        command,
        size: code.len(),
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
