//! Guests, and specs that run them.

use std::path::PathBuf;

use serde_bytes::ByteBuf;
use skep_protocol::spec::ComponentRef;
use skep_protocol::{AgentName, AgentSpec, RunnerKind};

/// The bytes of a prebuilt guest.
///
/// # Panics
/// With the command that builds it, if it is not there.
#[must_use]
pub fn guest(name: &str) -> Vec<u8> {
    let path = prebuilt(name);
    match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => panic!(
            "{}: {error}; run: skep build examples/agents --out examples/prebuilt",
            path.display()
        ),
    }
}

fn prebuilt(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("../examples/prebuilt/{name}.wasm"))
}

/// A spec that runs a prebuilt guest, which comes with it.
#[must_use]
pub fn spec(guest_name: &str, args: &[&str]) -> AgentSpec {
    let mut spec = AgentSpec::named(AgentName::from_lossy(guest_name));
    spec.component = Some(ComponentRef::Data(ByteBuf::from(guest(guest_name))));
    spec.args = args.iter().map(|&arg| arg.to_owned()).collect();
    spec
}

/// A spec that runs `probe` with these arguments.
#[must_use]
pub fn probe(args: &[&str]) -> AgentSpec {
    spec("probe", args)
}

/// A spec that runs a program of this system.
#[must_use]
pub fn native(command: &[&str]) -> AgentSpec {
    let mut spec = AgentSpec::named(AgentName::from_lossy("native"));
    spec.runner = RunnerKind::Native;
    spec.command = command.iter().map(|&arg| arg.to_owned()).collect();
    spec
}

/// A spec that runs a script.
#[must_use]
pub fn sh(script: &str) -> AgentSpec {
    native(&["/bin/sh", "-c", script])
}
