//! Runs cargo, and learns from it what it built.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::toolchain::Toolchain;
use super::workspace::{Workspace, cargo};

/// One line of cargo's `--message-format=json`.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<MessageTarget>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct MessageTarget {
    name: String,
    kind: Vec<String>,
}

/// Builds all guests of a workspace: the component of each, by name.
pub(super) fn compile(
    workspace: &Workspace,
    toolchain: &Toolchain,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = Command::new(cargo());
    command
        .args(["build", "--release", "--bins"])
        .args(["--target", Toolchain::TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace.root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // Flags meant for programs of this machine break those of another.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    for guest in workspace.guests() {
        command.args(["-p", &guest.package_id]);
    }
    toolchain.prepare(&mut command, workspace)?;

    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "cargo could not build the agents in {}",
            workspace.root().display()
        );
    }
    let components = components(&String::from_utf8_lossy(&output.stdout))?;
    for guest in workspace.guests() {
        if !components.contains_key(&guest.name) {
            bail!("cargo built no component for `{}`", guest.name);
        }
    }
    Ok(components)
}

fn components(messages: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).context("cargo build says something unknown")?;
        let Some(target) = message.target else {
            continue;
        };
        if message.reason != "compiler-artifact" || !target.kind.iter().any(|kind| kind == "bin") {
            continue;
        }
        let component = message.filenames.into_iter().find(|file| {
            file.extension()
                .is_some_and(|extension| extension == "wasm")
        });
        found.extend(component.map(|component| (target.name, component)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_among_the_messages() {
        let messages = r#"
not json, printed by a build script
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"sdk"},"filenames":["/t/libsdk.rlib"]}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"hello"},"filenames":["/t/hello.d","/t/hello.wasm"]}
{"reason":"build-finished","success":true}
"#;
        let found = components(messages).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["hello"], PathBuf::from("/t/hello.wasm"));
    }
}
