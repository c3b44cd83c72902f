//! What a directory of components was built from, and whether it still is.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::sources::sha256;

const FILE: &str = "manifest.json";

/// The content of `manifest.json`, sorted by name so that its diffs are small.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) components: BTreeMap<String, Component>,
}

/// One component, and what it was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Component {
    /// The SHA-256 of the component itself, in hexadecimal.
    pub(super) sha256: String,
    /// The size of the component in bytes.
    pub(super) size: u64,
    /// One hash over all of its sources, as [`super::sources::hash`] makes it.
    pub(super) sources: String,
}

/// A component that doesn't fit its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    /// The name of the binary.
    pub(crate) name: String,
    /// What doesn't fit.
    pub(crate) reason: Reason,
}

/// Why a component doesn't fit its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The manifest doesn't know the binary.
    NeverBuilt,
    /// The sources are not those that it was built from.
    SourcesChanged,
    /// The component's file isn't there.
    FileMissing,
    /// The component's file is not the one that was built.
    FileChanged,
    /// The binary isn't there any more, its component is.
    BinaryGone,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::NeverBuilt => "was never built",
            Reason::SourcesChanged => "was built from other sources",
            Reason::FileMissing => "has no component",
            Reason::FileChanged => "is not the component that was built",
            Reason::BinaryGone => "has no sources any more",
        };
        write!(f, "{} {why}", self.name)
    }
}

/// Where the component of that name is in a directory.
pub(super) fn component_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.wasm"))
}

impl Component {
    pub(super) fn of(path: &Path, sources: String) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            sha256: sha256(&bytes),
            size: bytes.len() as u64,
            sources,
        })
    }
}

impl Manifest {
    /// Reads the manifest of a directory. One without a manifest has no
    /// components.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("{} is not a manifest", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Compares with the hashes of the sources, and with the files in `dir`.
    pub(super) fn stale(
        &self,
        sources: &BTreeMap<String, String>,
        dir: &Path,
    ) -> Result<Vec<Stale>> {
        let mut stale = Vec::new();
        for name in sources.keys().chain(self.gone(sources)) {
            if let Some(reason) = self.reason(name, sources.get(name), dir)? {
                let name = name.clone();
                stale.push(Stale { name, reason });
            }
        }
        Ok(stale)
    }

    fn gone<'a>(&'a self, sources: &BTreeMap<String, String>) -> impl Iterator<Item = &'a String> {
        self.components
            .keys()
            .filter(|name| !sources.contains_key(*name))
    }

    fn reason(&self, name: &str, sources: Option<&String>, dir: &Path) -> Result<Option<Reason>> {
        let Some(sources) = sources else {
            return Ok(Some(Reason::BinaryGone));
        };
        let Some(component) = self.components.get(name) else {
            return Ok(Some(Reason::NeverBuilt));
        };
        if component.sources != *sources {
            return Ok(Some(Reason::SourcesChanged));
        }
        let path = component_path(dir, name);
        if !path.exists() {
            return Ok(Some(Reason::FileMissing));
        }
        let found = Component::of(&path, sources.clone())?;
        Ok((found != *component).then_some(Reason::FileChanged))
    }
}
