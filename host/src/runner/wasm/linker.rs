//! What a guest can link against: WASI 0.2 and `skep:agent`, and nothing else.
//! Sockets and name lookup link, since toolchains import them unasked, and are
//! denied at each call.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use super::store::Held;
use super::{agent_api, files};

/// Everything that a host offers, for one engine.
pub(super) fn of(engine: &Engine) -> wasmtime::Result<Linker<Held>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    files::link(&mut linker)?;
    agent_api::bindings::Agent::add_to_linker::<_, HasSelf<_>>(&mut linker, |held| held)?;
    Ok(linker)
}
