//! Checks of components against their sources, on packages made for it. Only
//! cargo is needed, and no network.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::manifest::Reason;
use super::*;

/// A workspace `agents` of two guests, of which `second` uses the package `sdk`
/// beside it, whose sources lie in `wit` too; and `prebuilt`, with a component
/// for each.
struct Repository {
    dir: TempDir,
}

const FILES: &[(&str, &str)] = &[
    (
        "agents/Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"first\", \"second\"]\n",
    ),
    (
        "agents/Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"first\"\nversion = \"0.1.0\"\n",
    ),
    (
        "agents/first/Cargo.toml",
        "[package]\nname = \"first\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    ),
    ("agents/first/src/main.rs", "fn main() {}\n"),
    ("agents/first/tests/all.rs", "#[test] fn test() {}\n"),
    (
        "agents/second/Cargo.toml",
        "[package]\nname = \"second\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [dependencies]\nsdk = { path = \"../../sdk\" }\nunknown-to-all = \"9\"\n",
    ),
    ("agents/second/src/main.rs", "fn main() {}\n"),
    (
        "sdk/Cargo.toml",
        "[package]\nname = \"sdk\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [package.metadata.skep]\nsources = [\"../wit\"]\n[workspace]\n",
    ),
    ("sdk/src/lib.rs", "pub fn f() {}\n"),
    ("wit/world.wit", "package a:b;\n"),
];

impl Repository {
    fn new() -> Self {
        let repository = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, content) in FILES {
            repository.write(name, content);
        }
        let hashes = source_hashes(&Workspace::offline(&repository.agents()).unwrap()).unwrap();
        let mut manifest = Manifest::default();
        for (name, sources) in hashes {
            let path = repository.write(&format!("prebuilt/{name}.wasm"), &name);
            let component = Component::of(&path, sources).unwrap();
            manifest.components.insert(name, component);
        }
        manifest.write(&repository.prebuilt()).unwrap();
        repository
    }

    fn agents(&self) -> PathBuf {
        self.dir.path().join("agents")
    }

    fn prebuilt(&self) -> PathBuf {
        self.dir.path().join("prebuilt")
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn stale(&self) -> Vec<(String, Reason)> {
        let stale = check(&self.agents(), &self.prebuilt()).unwrap();
        stale
            .into_iter()
            .map(|stale| (stale.name, stale.reason))
            .collect()
    }
}

fn one(name: &str, reason: Reason) -> Vec<(String, Reason)> {
    vec![(name.to_owned(), reason)]
}

#[test]
fn what_was_just_built_is_not_stale() {
    assert_eq!(Repository::new().stale(), []);
}

#[test]
fn a_changed_source_is_seen_in_its_guest_alone() {
    let repository = Repository::new();
    repository.write("agents/first/src/main.rs", "fn main() { }\n");
    assert_eq!(repository.stale(), one("first", Reason::SourcesChanged));
}

#[test]
fn a_new_source_file_is_seen() {
    let repository = Repository::new();
    repository.write("agents/first/src/deep/new.rs", "");
    assert_eq!(repository.stale(), one("first", Reason::SourcesChanged));
}

#[test]
fn a_changed_sdk_is_seen_in_those_that_use_it() {
    let repository = Repository::new();
    repository.write("sdk/src/lib.rs", "pub fn g() {}\n");
    assert_eq!(repository.stale(), one("second", Reason::SourcesChanged));
}

#[test]
fn sources_named_by_a_package_count() {
    let repository = Repository::new();
    repository.write("wit/world.wit", "package a:c;\n");
    assert_eq!(repository.stale(), one("second", Reason::SourcesChanged));
}

#[test]
fn a_changed_lock_file_is_seen_in_all() {
    let repository = Repository::new();
    repository.write("agents/Cargo.lock", "version = 4\n");
    let names: Vec<_> = repository
        .stale()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["first", "second"]);
}

#[test]
fn tests_and_line_ends_do_not_matter() {
    let repository = Repository::new();
    repository.write("agents/first/tests/all.rs", "");
    repository.write("agents/first/src/main.rs", "fn main() {}\r\n");
    assert_eq!(repository.stale(), []);
}

#[test]
fn a_missing_or_changed_component_is_seen() {
    let repository = Repository::new();
    repository.write("prebuilt/first.wasm", "something else");
    assert_eq!(repository.stale(), one("first", Reason::FileChanged));
    repository.remove("prebuilt/first.wasm");
    assert_eq!(repository.stale(), one("first", Reason::FileMissing));
}

#[test]
fn without_a_manifest_nothing_was_built() {
    let repository = Repository::new();
    repository.remove("prebuilt/manifest.json");
    let reasons: Vec<_> = repository
        .stale()
        .into_iter()
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(reasons, [Reason::NeverBuilt, Reason::NeverBuilt]);
}

#[test]
fn a_component_without_sources_is_seen() {
    let repository = Repository::new();
    repository.write(
        "agents/Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"second\"]\n",
    );
    assert!(
        repository
            .stale()
            .contains(&("first".to_owned(), Reason::BinaryGone))
    );
}

#[test]
fn publishing_removes_what_has_no_sources_any_more() {
    let repository = Repository::new();
    let from = repository.write("target/second.wasm", "built again");
    let compiled = [("second".to_owned(), from)].into();
    let hashes = [("second".to_owned(), "hash".to_owned())].into();
    let built = publish(&compiled, &hashes, &repository.prebuilt()).unwrap();
    assert_eq!(built.len(), 1);
    assert!(!repository.prebuilt().join("first.wasm").exists());
    let manifest = Manifest::read(&repository.prebuilt()).unwrap();
    assert_eq!(manifest.components.keys().collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_single_package_of_a_workspace_can_be_named() {
    let repository = Repository::new();
    let workspace = Workspace::offline(&repository.agents().join("first")).unwrap();
    let names: Vec<_> = workspace
        .guests()
        .iter()
        .map(|guest| guest.name.as_str())
        .collect();
    assert_eq!(names, ["first"]);
}

#[test]
fn a_package_without_binaries_is_refused() {
    let repository = Repository::new();
    let error = Workspace::offline(&repository.dir.path().join("sdk")).unwrap_err();
    assert!(error.to_string().contains("no binaries"), "{error}");
}

#[test]
fn the_command_to_run_is_named() {
    assert_eq!(
        command(Path::new("examples/agents"), Path::new("examples/prebuilt")),
        "skep build examples/agents --out examples/prebuilt"
    );
}
