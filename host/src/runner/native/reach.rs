//! Landlock rules: what an agent may open, whatever it sees. They bind all
//! that descends from it, and nobody can take them off.

use std::ffi::CString;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::view::{DEVICES, SYSTEM};
use super::wire::as_path;
use crate::paths::open_without_links;

/// The least that is worth its name: before this, a file could be emptied that
/// could not be written to.
const LEAST: ABI = ABI::V3;

/// What else there is to be had: devices, TCP, abstract sockets and signals
/// beyond the agent.
const MOST: ABI = ABI::V6;

/// A directory that an agent was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reach {
    pub(super) path: CString,
    pub(super) writable: bool,
}

impl Reach {
    pub(super) fn path(&self) -> &Path {
        as_path(&self.path)
    }
}

/// Restricts this process, and what it becomes, to the system, `program` and
/// `granted`.
pub(super) fn restrict(program: Option<&Path>, granted: &[Reach]) -> nix::Result<()> {
    let rules = rules(program, granted);
    // Its errors are of many kinds, and what the kernel said is deep in them.
    let restricted = rules.map_err(|_| Errno::EACCES)?;
    match restricted {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(Errno::ENOSYS),
    }
}

fn rules(
    program: Option<&Path>,
    granted: &[Reach],
) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let read = AccessFs::from_read(LEAST);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(MOST))?
        .handle_access(AccessNet::from_all(MOST))?
        .scope(Scope::from_all(MOST))?
        .create()?;
    let always = SYSTEM.iter().map(|path| (path, read));
    let always = always.chain(DEVICES.iter().map(|path| (path, device)));
    // Its own alone where it has a root directory of its own.
    for (path, access) in always.chain([(&"/proc", read)]) {
        // Not every system has all of them.
        if Path::new(path).exists() {
            ruleset = ruleset.add_rule(rule(Path::new(path), access)?)?;
        }
    }
    // Without one, its execution says so.
    if let Some(program) = program.filter(|program| program.exists()) {
        ruleset = ruleset.add_rule(rule(program, read)?)?;
    }
    for reach in granted {
        let all = AccessFs::from_all(MOST);
        let access = if reach.writable { all } else { read };
        let dir = open_without_links(reach.path(), OFlags::empty())?;
        ruleset = ruleset.add_rule(PathBeneath::new(dir, access))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// A file takes no rights that only directories have.
fn rule(
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<PathBeneath<PathFd>, Box<dyn std::error::Error>> {
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(MOST)
    };
    Ok(PathBeneath::new(PathFd::new(path)?, access))
}
