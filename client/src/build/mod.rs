//! `skep build`: makes components of the binaries of a cargo package or
//! workspace, and checks components kept in a repository against their sources.
//!
//! Components are not the same from build to build, so a repository that keeps
//! them also keeps a [`manifest`] of what they were built from, and
//! [`check`] compares that: it needs no toolchain for WebAssembly, nor network.
//!
//! Nothing here prints. Cargo does, to the stderr that it inherits.

mod compile;
mod manifest;
mod sources;
mod toolchain;
mod workspace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) use manifest::Stale;
use manifest::{Component, Manifest};
use toolchain::Toolchain;
use workspace::Workspace;

/// A component that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    /// The name of the binary.
    pub(crate) name: String,
    /// Where the component is now.
    pub(crate) path: PathBuf,
    /// How large it is, in bytes.
    pub(crate) size: u64,
}

/// Builds each binary of the package or workspace in `dir` as a component.
///
/// Components are put into `out`, with a manifest, or without it into `skep/`
/// in cargo's target directory.
pub(crate) fn build(dir: &Path, out: Option<&Path>) -> Result<Vec<Built>> {
    let toolchain = Toolchain::find(dir)?;
    let workspace = Workspace::locked(dir)?;
    // Hashed before the build: an edit made meanwhile then shows as stale.
    let hashes = source_hashes(&workspace)?;
    let compiled = compile::compile(&workspace, &toolchain)?;
    match out {
        Some(out) => publish(&compiled, &hashes, out),
        None => copy_all(&compiled, &workspace.target_dir().join("skep")),
    }
}

/// What of the components in `out` no longer fits the sources in `dir`.
pub(crate) fn check(dir: &Path, out: &Path) -> Result<Vec<Stale>> {
    let hashes = source_hashes(&Workspace::offline(dir)?)?;
    Manifest::read(out)?.stale(&hashes, out)
}

/// The command that brings `out` up to date with `dir`.
pub(crate) fn command(dir: &Path, out: &Path) -> String {
    format!("skep build {} --out {}", dir.display(), out.display())
}

fn source_hashes(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    workspace
        .guests()
        .iter()
        .map(|guest| {
            let files = workspace.sources(guest)?;
            let hash = sources::hash(workspace.root(), &files)?;
            Ok((guest.name.clone(), hash))
        })
        .collect()
}

fn publish(
    compiled: &BTreeMap<String, PathBuf>,
    hashes: &BTreeMap<String, String>,
    out: &Path,
) -> Result<Vec<Built>> {
    let before = Manifest::read(out)?;
    let built = copy_all(compiled, out)?;
    let mut manifest = Manifest::default();
    for component in &built {
        let Some(sources) = hashes.get(&component.name) else {
            bail!("cargo built `{}`, which it had not named", component.name);
        };
        let entry = Component::of(&component.path, sources.clone())?;
        manifest.components.insert(component.name.clone(), entry);
    }
    for gone in before.components.keys() {
        if !manifest.components.contains_key(gone) {
            // It may be gone already, which is what is wanted.
            let _ = fs::remove_file(manifest::component_path(out, gone));
        }
    }
    manifest.write(out)?;
    Ok(built)
}

fn copy_all(compiled: &BTreeMap<String, PathBuf>, to: &Path) -> Result<Vec<Built>> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    compiled
        .iter()
        .map(|(name, from)| {
            let path = manifest::component_path(to, name);
            let size =
                replace(from, &path).with_context(|| format!("cannot write {}", path.display()))?;
            let name = name.clone();
            Ok(Built { name, path, size })
        })
        .collect()
}

/// Copies aside and renames, so that a host never loads half a component.
fn replace(from: &Path, to: &Path) -> std::io::Result<u64> {
    let aside = to.with_extension("wasm.new");
    let size = fs::copy(from, &aside)?;
    fs::rename(&aside, to)?;
    Ok(size)
}

#[cfg(test)]
mod tests;
