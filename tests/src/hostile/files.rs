//! Ways out of a granted directory.

use std::fs;
use std::os::unix::fs::symlink;

use skep_client::protocol::AgentSpec;
use skep_client::protocol::spec::{DirGrant, DirMode};
use tempfile::TempDir;

use super::wat::{core_module, preview1};
use super::{Case, Ends};
use crate::guests::probe;

const ALIVE: &str = "the canary sings";

/// A directory that is granted, with ways out of it, and a canary outside.
#[derive(Debug)]
pub struct Yard {
    dir: TempDir,
}

impl Yard {
    /// A new one.
    ///
    /// # Panics
    /// If there is no place for temporary files.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let yard = Self { dir };
        let (granted, canary) = (yard.granted(), yard.canary());
        let made = || -> std::io::Result<()> {
            fs::create_dir_all(granted.join("inner"))?;
            fs::write(&canary, ALIVE)?;
            fs::write(granted.join("file"), "a file")?;
            symlink(&canary, granted.join("absolute"))?;
            symlink("../canary", granted.join("relative"))?;
            symlink("absolute", granted.join("chain"))?;
            symlink("..", granted.join("up"))?;
            symlink("/", granted.join("root"))
        };
        made().expect("a yard");
        yard
    }

    /// How a host is started that lets in what the table has.
    #[must_use]
    pub fn host_args(&self) -> [String; 3] {
        let root = self.dir.path().display().to_string();
        ["--allow-native".to_owned(), "--dir-root".to_owned(), root]
    }

    fn granted(&self) -> std::path::PathBuf {
        self.dir.path().join("granted")
    }

    fn canary(&self) -> std::path::PathBuf {
        self.dir.path().join("canary")
    }

    /// What is wrong outside of the granted directory, if anything is.
    #[must_use]
    pub fn harm(&self) -> Option<String> {
        match fs::read_to_string(self.canary()) {
            Ok(text) if text == ALIVE => {}
            other => return Some(format!("the canary is {other:?}")),
        }
        let outside = fs::read_dir(self.dir.path()).expect("the yard");
        let mut names: Vec<_> = outside
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        names.sort();
        (names != ["canary", "granted"]).then(|| format!("outside there are {names:?}"))
    }

    fn grant(&self, mut spec: AgentSpec) -> AgentSpec {
        spec.grants.dirs = vec![DirGrant {
            host: self.granted().display().to_string(),
            guest: "/data".to_owned(),
            mode: DirMode::Rw,
        }];
        spec
    }
}

impl Default for Yard {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn cases(yard: &Yard) -> Vec<Case> {
    let canary = yard.canary().display().to_string();
    let ways = [
        "/data/../canary".to_owned(),
        "/data/../canary/".to_owned(),
        "/data/inner/../../canary".to_owned(),
        "/data/./inner//../..///canary".to_owned(),
        "/data/absolute".to_owned(),
        "/data/relative".to_owned(),
        "/data/relative/".to_owned(),
        "/data/chain".to_owned(),
        "/data/up/canary".to_owned(),
        "/data/up/granted/up/canary".to_owned(),
        format!("/data/root{canary}"),
        canary,
        "../canary".to_owned(),
        "/etc/passwd".to_owned(),
    ];
    let denied = |args: &[&str]| {
        let what = args.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        Case::new("paths", &what, yard.grant(probe(args)), Ends::Exited(1))
            .writing(Vec::new())
            .guarding()
    };
    let mut cases: Vec<Case> = ways
        .iter()
        .flat_map(|way| [denied(&["cat", way]), denied(&["write", way, "dead"])])
        .collect();
    cases.push(denied(&["ls", "/data/.."]));
    cases.push(denied(&["ls", "/data/root/"]));
    cases.push(denied(&["ls", "/data/up"]));
    cases.push(outwards(yard));
    let within = ["write", "/data/inner/own", "text"];
    cases.push(
        Case::new(
            "paths",
            "within",
            yard.grant(probe(&within)),
            Ends::Exited(0),
        )
        .writing(b"wrote 4 bytes\n".to_vec()),
    );
    cases
}

/// Renames, links and removes across the border, each of which must fail.
fn outwards(yard: &Yard) -> Case {
    let mut data = String::new();
    let mut place = |path: &str| {
        let at = 1024 + data.len();
        data += path;
        format!("(i32.const {at}) (i32.const {})", path.len())
    };
    let (file, canary, out, stolen, root) = (
        place("file"),
        place("../canary"),
        place("out"),
        place("../stolen"),
        place("/etc/passwd"),
    );
    let fails = |call: String| format!("(if (i32.eqz {call}) (then unreachable))");
    let dir = "(i32.const 3)";
    let open = |path: &str| {
        fails(format!(
            "(call $open {dir} (i32.const 1) {path} (i32.const 0) (i64.const 2) (i64.const 2) \
             (i32.const 0) (i32.const 512))"
        ))
    };
    let start = [
        fails(format!("(call $rename {dir} {file} {dir} {stolen})")),
        fails(format!("(call $rename {dir} {canary} {dir} {out})")),
        fails(format!(
            "(call $link {dir} (i32.const 0) {file} {dir} {stolen})"
        )),
        fails(format!(
            "(call $link {dir} (i32.const 0) {canary} {dir} {out})"
        )),
        fails(format!("(call $unlink {dir} {canary})")),
        fails(format!("(call $mkdir {dir} {stolen})")),
        // It may be made, as long as nothing follows it.
        format!("(drop (call $symlink {canary} {dir} {out}))"),
        open(&out),
        open(&canary),
        open(&root),
        fails(format!("(call $symlink {root} {dir} {stolen})")),
    ]
    .concat();
    let imports = preview1(&["rename", "link", "unlink", "mkdir", "symlink", "open"]);
    let spec = core_module(&imports, data.as_bytes(), &start);
    Case::new(
        "paths",
        "renames and links outwards",
        yard.grant(spec),
        Ends::Exited(0),
    )
    .guarding()
}
