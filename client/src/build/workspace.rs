//! What cargo knows of a directory: its binaries, and what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::sources::files_below;

/// A cargo workspace, or a package within one, that holds guests.
#[derive(Debug)]
pub(super) struct Workspace {
    metadata: Metadata,
    guests: Vec<Guest>,
}

/// A binary that becomes a component.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) name: String,
    /// The package as cargo's `-p` takes it.
    pub(super) package_id: String,
    package_dir: PathBuf,
}

impl Workspace {
    /// Reads what a build needs, and writes `Cargo.lock` if there is none.
    pub(super) fn locked(dir: &Path) -> Result<Self> {
        Self::of(dir, Metadata::read(dir, &[])?)
    }

    /// Reads what the sources alone can tell, without network or registry.
    pub(super) fn offline(dir: &Path) -> Result<Self> {
        Self::of(dir, Metadata::read(dir, &["--no-deps"])?)
    }

    fn of(dir: &Path, metadata: Metadata) -> Result<Self> {
        let guests = guests(dir, &metadata)?;
        if guests.is_empty() {
            bail!(
                "no binaries in {}: an agent is a cargo package with a `src/main.rs`",
                dir.display()
            );
        }
        Ok(Self { metadata, guests })
    }

    pub(super) fn root(&self) -> &Path {
        &self.metadata.workspace_root
    }

    pub(super) fn target_dir(&self) -> &Path {
        &self.metadata.target_directory
    }

    pub(super) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// The directories of the packages that guests are made of, with their
    /// names. Those of registries are pinned by `Cargo.lock`, and not among them.
    pub(super) fn local_packages(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut all = BTreeMap::new();
        for guest in &self.guests {
            for package in self.closure(guest)? {
                all.insert(package.dir().to_path_buf(), package.name);
            }
        }
        Ok(all)
    }

    /// All files that a guest is made of: its package, the packages that it
    /// names by path, what these name as `package.metadata.skep.sources`, and
    /// what pins the rest.
    pub(super) fn sources(&self, guest: &Guest) -> Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        files.insert(self.root().join("Cargo.toml"));
        let lock = self.root().join("Cargo.lock");
        if lock.exists() {
            files.insert(lock);
        }
        for package in self.closure(guest)? {
            files.extend(package.files()?);
        }
        Ok(files)
    }

    fn closure(&self, guest: &Guest) -> Result<Vec<Package>> {
        let mut open = vec![guest.package_dir.clone()];
        let mut seen = BTreeMap::new();
        while let Some(dir) = open.pop() {
            if seen.contains_key(&dir) {
                continue;
            }
            let package = match self.metadata.package_in(&dir) {
                Some(package) => package.clone(),
                None => outside_package(&dir)?,
            };
            open.extend(package.local_dependencies());
            seen.insert(dir, package);
        }
        Ok(seen.into_values().collect())
    }
}

fn outside_package(dir: &Path) -> Result<Package> {
    let metadata = Metadata::read(dir, &["--no-deps"])?;
    metadata
        .package_in(dir)
        .cloned()
        .with_context(|| format!("no package in {}", dir.display()))
}

/// The binaries of the package in `dir`, or else of the workspace's packages.
fn guests(dir: &Path, metadata: &Metadata) -> Result<Vec<Guest>> {
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))?;
    let own = metadata.package_in(&dir);
    let mut guests: BTreeMap<&str, Guest> = BTreeMap::new();
    for package in &metadata.packages {
        let chosen = match own {
            Some(own) => own.id == package.id,
            None => metadata.workspace_default_members.contains(&package.id),
        };
        for target in package.targets.iter().filter(|_| chosen) {
            if !target.is("bin") || !target.required_features.is_empty() {
                continue;
            }
            let guest = Guest {
                name: target.name.clone(),
                package_id: package.id.clone(),
                package_dir: package.dir().to_path_buf(),
            };
            if guests.insert(&target.name, guest).is_some() {
                bail!("two binaries are named `{}`: rename one", target.name);
            }
        }
    }
    Ok(guests.into_values().collect())
}

/// The part of `cargo metadata` that matters here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_default_members: Vec<String>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
    metadata: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    kind: Option<String>,
    path: Option<PathBuf>,
}

impl Metadata {
    fn read(dir: &Path, flags: &[&str]) -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version=1"])
            .args(flags)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run cargo in {}", dir.display()))?;
        if !output.status.success() {
            bail!("cargo finds no package in {}", dir.display());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata says something unknown")
    }

    fn package_in(&self, dir: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| package.dir() == dir)
    }
}

impl Package {
    fn dir(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    fn local_dependencies(&self) -> impl Iterator<Item = PathBuf> {
        self.dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .filter_map(|dependency| dependency.path.clone())
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = vec![self.manifest_path.clone()];
        for target in &self.targets {
            match target.src_path.parent() {
                // Tests, benches and examples are no part of a guest.
                _ if !target.is_built() => {}
                Some(dir) if !target.is("custom-build") => files.extend(files_below(dir)?),
                _ => files.push(target.src_path.clone()),
            }
        }
        for extra in self.extra_sources() {
            let path = self.dir().join(extra);
            let path = path
                .canonicalize()
                .with_context(|| format!("{} names sources that are not there", self.name))?;
            if path.is_dir() {
                files.extend(files_below(&path)?);
            } else {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// `package.metadata.skep.sources`: files and directories beside `src`.
    fn extra_sources(&self) -> impl Iterator<Item = &str> {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.pointer("/skep/sources"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }
}

impl Target {
    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|own| own == kind)
    }

    fn is_built(&self) -> bool {
        !["test", "bench", "example"]
            .iter()
            .any(|kind| self.is(kind))
    }
}

/// The cargo to call: the one that called us, if one did.
pub(super) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
