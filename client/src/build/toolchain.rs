//! Finds what builds components on this machine.
//!
//! The ordinary way is a toolchain that has the target's standard library.
//! Where it cannot be downloaded, Debian's compiler builds that library from
//! source, against Debian's C library for WASI.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::workspace::Workspace;

/// What Debian's C library of 2022 lacks: see the file itself.
const START_SOURCE: &str = include_str!("debian_start.rs");

/// Between flags, in `CARGO_ENCODED_RUSTFLAGS`: paths may hold spaces.
const FLAG_SEPARATOR: &str = "\x1f";

const HOW_TO_INSTALL: &str = "\
nothing here builds components. Install one of
  the target, with rustup:  rustup target add wasm32-wasip2
  or Debian's packages:     apt-get install --no-install-recommends rustc-web rust-web-src wasi-libc";

/// A way to build components.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// The active toolchain has the target.
    Target,
    /// Debian's compiler and C library, driven by the active cargo.
    Debian(Debian),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Debian {
    rustc: PathBuf,
    libc: PathBuf,
    /// Makes components of modules. Part of rustup's toolchains.
    component_linker: PathBuf,
    /// Makes modules of objects. Part of rustup's toolchains.
    module_linker: PathBuf,
}

impl Toolchain {
    pub(super) const TARGET: &'static str = "wasm32-wasip2";

    /// Finds the toolchain that is active in `dir`, or else Debian's.
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = ask(&rustc, &["--print", "sysroot"], dir)?;
        let sysroot = Path::new(&sysroot);
        if sysroot
            .join("lib/rustlib")
            .join(Self::TARGET)
            .join("lib")
            .is_dir()
        {
            return Ok(Self::Target);
        }
        let host = ask(&rustc, &["--print", "host-tuple"], dir)?;
        match Debian::find(Path::new("/"), &sysroot.join("lib/rustlib").join(host)) {
            Ok(debian) => Ok(Self::Debian(debian)),
            Err(missing) => bail!(
                "{HOW_TO_INSTALL}\n(of the latter, these are missing: {})",
                missing.join(", ")
            ),
        }
    }

    /// Makes a `cargo build` use this toolchain.
    pub(super) fn prepare(&self, cargo: &mut Command, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Target => Ok(()),
            Self::Debian(debian) => debian.prepare(cargo, workspace),
        }
    }
}

impl Debian {
    /// Looks for all parts below `root`, and for the linkers in `rustlib`, or
    /// says what isn't there.
    fn find(root: &Path, rustlib: &Path) -> Result<Self, Vec<&'static str>> {
        let debian = Self {
            rustc: root.join("usr/bin/rustc"),
            libc: root.join("usr/lib/wasm32-wasi"),
            component_linker: rustlib.join("bin/wasm-component-ld"),
            module_linker: rustlib.join("bin/gcc-ld/wasm-ld"),
        };
        let std_source = root.join("usr/lib/rustlib/src/rust/library/std/Cargo.toml");
        let parts = [
            ("rustc-web", debian.rustc.clone()),
            ("rust-web-src", std_source),
            ("wasi-libc", debian.libc.join("libc.a")),
            ("wasm-component-ld", debian.component_linker.clone()),
            ("wasm-ld", debian.module_linker.clone()),
        ];
        let missing: Vec<&str> = parts
            .into_iter()
            .filter(|(_, path)| !path.exists())
            .map(|(name, _)| name)
            .collect();
        if missing.is_empty() {
            Ok(debian)
        } else {
            Err(missing)
        }
    }

    fn prepare(&self, cargo: &mut Command, workspace: &Workspace) -> Result<()> {
        let start = self.compile_start(&workspace.target_dir().join("skep"))?;
        let mut flags: Vec<OsString> = vec![
            // The start file of Debian's library is the one to leave out.
            "-Clink-self-contained=no".into(),
            joined("-Lnative=", &self.libc),
            joined("-Clinker=", &self.component_linker),
            "-Clink-arg=--wasm-ld-path".into(),
            joined("-Clink-arg=", &self.module_linker),
            joined("-Clink-arg=", &start),
        ];
        flags.extend(remapped_paths(workspace)?);
        cargo
            .args(["-Z", "build-std=std,panic_abort"])
            .env("RUSTC", &self.rustc)
            // Building std is an unstable feature of a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                flags.join(FLAG_SEPARATOR.as_ref()),
            );
        Ok(())
    }

    fn compile_start(&self, dir: &Path) -> Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let source = dir.join("debian_start.rs");
        let object = dir.join("debian_start.o");
        fs::write(&source, START_SOURCE)
            .with_context(|| format!("cannot write {}", source.display()))?;
        let status = Command::new(&self.rustc)
            .args(["--target", Toolchain::TARGET])
            .args(["--crate-type=lib", "--emit=obj", "-Copt-level=s"])
            .args(["-Cpanic=abort", "-o"])
            .arg(&object)
            .arg(&source)
            .env("RUSTC_BOOTSTRAP", "1")
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {}", self.rustc.display()))?;
        if !status.success() {
            bail!(
                "{} cannot compile {}",
                self.rustc.display(),
                source.display()
            );
        }
        Ok(object)
    }
}

/// A component is sent to strangers: where its author's files lie is not theirs
/// to know. Panics would tell.
fn remapped_paths(workspace: &Workspace) -> Result<Vec<OsString>> {
    let mut remapped = workspace.local_packages()?;
    if let Some(home) = cargo_home() {
        remapped.insert(home, "cargo".to_owned());
    }
    let remapped = remapped.into_iter().map(|(path, name)| {
        let mut flag = joined("--remap-path-prefix=", &path);
        flag.push("=/");
        flag.push(name);
        flag
    });
    Ok(remapped.collect())
}

fn cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Some(home.into()),
        None => Some(std::env::home_dir()?.join(".cargo")),
    }
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push(path);
    joined
}

fn ask(rustc: &OsString, question: &[&str], dir: &Path) -> Result<String> {
    let output = Command::new(rustc)
        .args(question)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    if !output.status.success() {
        bail!(
            "{} fails: {}",
            rustc.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (root, rustlib) = (dir.path().join("root"), dir.path().join("rustlib"));
        let touch = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        touch(root.join("usr/bin/rustc"));
        touch(rustlib.join("bin/wasm-component-ld"));
        touch(rustlib.join("bin/gcc-ld/wasm-ld"));
        assert_eq!(
            Debian::find(&root, &rustlib),
            Err(vec!["rust-web-src", "wasi-libc"])
        );

        touch(root.join("usr/lib/rustlib/src/rust/library/std/Cargo.toml"));
        touch(root.join("usr/lib/wasm32-wasi/libc.a"));
        let debian = Debian::find(&root, &rustlib).unwrap();
        assert_eq!(debian.rustc, root.join("usr/bin/rustc"));
    }
}
