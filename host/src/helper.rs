//! Processes that the host makes of its own binary: to compile strangers'
//! components, and to confine native programs. The binary is called again with
//! a first argument that tells which.
//!
//! A program that is not `skep` and starts hosts is its own helper if its
//! `main` begins with [`serve_if_asked`]; otherwise its configuration names a
//! `skep`. Without that word nothing is called: a program that knows nothing of
//! helpers would start all over again, and its host with it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

use crate::runner::native::SHIM_ARG;
use crate::runner::native::shim::shim_main;
use crate::runner::wasm::compile_main;

/// The argument that makes the binary check or compile a component.
pub(crate) const COMPILE_ARG: &str = "__compile";

static SERVES: AtomicBool = AtomicBool::new(false);

/// Does a helper's work and exits, if this process was started as one. To be
/// called before anything else in `main`: a helper must have one thread and
/// nothing open.
pub fn serve_if_asked() {
    match asked().as_deref() {
        Some(COMPILE_ARG) => compile_main(),
        Some(SHIM_ARG) => shim_main(),
        _ => SERVES.store(true, Ordering::Relaxed),
    }
}

/// The helper that this process is asked to be.
pub(crate) fn asked() -> Option<String> {
    let first = std::env::args_os().nth(1)?.into_string().ok()?;
    [COMPILE_ARG, SHIM_ARG]
        .contains(&first.as_str())
        .then_some(first)
}

/// This process's binary, also after another was installed in its place; if it
/// is a helper.
pub(crate) fn own_binary() -> Option<PathBuf> {
    #[cfg(test)]
    return Some(tests::binary());
    #[cfg(not(test))]
    SERVES
        .load(Ordering::Relaxed)
        .then(|| PathBuf::from("/proc/self/exe"))
}

/// Closes this descriptor and all above it.
#[expect(unsafe_code, reason = "close_range")]
pub(crate) fn close_from(first: libc::c_uint) -> nix::Result<()> {
    // SAFETY: called where nothing that lives on owns such a descriptor: at the
    // start of main, when they were inherited from whoever started the host
    // carelessly, and in a guard, which uses none.
    Errno::result(unsafe { libc::close_range(first, libc::c_uint::MAX, 0) }).map(drop)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The example `helper`, which `cargo test` builds.
    pub(crate) fn binary() -> PathBuf {
        let test = std::env::current_exe().unwrap();
        // target/debug/deps/skep_host-… and target/debug/examples/helper
        let binary = test.ancestors().nth(2).unwrap().join("examples/helper");
        assert!(
            binary.exists(),
            "no {}: run `cargo build -p skep-host --examples`",
            binary.display()
        );
        binary
    }
}
