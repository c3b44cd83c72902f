//! The directories that a spec asks for: which of them an agent may be given.

use std::path::{Component as PathPart, Path, PathBuf};

use skep_protocol::spec::{DirGrant, DirMode};
use skep_protocol::{AgentSpec, RunnerKind};

use super::{Denied, Rules, invalid};
use crate::inputs::GUEST_DIR;
use crate::paths::without_links;
use crate::runner::{Access, GrantedDir};

pub(super) const MAX_DIRS: usize = 32;
pub(super) const MAX_PATH_BYTES: usize = 4096;

pub(super) fn check_dirs(spec: &AgentSpec, rules: &Rules) -> Result<Vec<GrantedDir>, Denied> {
    if spec.grants.dirs.len() > MAX_DIRS {
        return Err(invalid(
            "spec.grants.dirs",
            format!("at most {MAX_DIRS} directories"),
        ));
    }
    let mut granted: Vec<GrantedDir> = Vec::with_capacity(spec.grants.dirs.len());
    for (index, dir) in spec.grants.dirs.iter().enumerate() {
        let field = |name: &str| format!("spec.grants.dirs[{index}].{name}");
        let guest = guest_path(&dir.guest).ok_or_else(|| {
            invalid(
                field("guest"),
                "must be an absolute path without `.`, `..` or a double slash",
            )
        })?;
        if (guest == "/" && spec.grants.scratch)
            || (guest == GUEST_DIR && !spec.inputs.is_empty())
            || granted.iter().any(|other| other.guest == guest)
        {
            return Err(invalid(field("guest"), format!("`{guest}` is given twice")));
        }
        let host = host_dir(dir, rules).map_err(|message| Denied::NotAllowed {
            field: field("host"),
            message,
        })?;
        if meets(&host, rules.state_dir.as_ref()) {
            return Err(Denied::NotAllowed {
                field: field("host"),
                message: "it holds the host's state, or is part of it: grant a directory beside it"
                    .to_owned(),
            });
        }
        if dir.mode == DirMode::Rw && meets(&host, rules.cache_dir.as_ref()) {
            return Err(Denied::NotAllowed {
                field: field("host"),
                message: "it holds the host's compiled components: grant it read-only, or a \
                          directory beside them"
                    .to_owned(),
            });
        }
        // Programs of the machine use the machine's paths, and what they find
        // in there may hold some.
        if spec.runner == RunnerKind::Native && (Path::new(&guest) != host || guest == "/") {
            return Err(invalid(
                field("guest"),
                "a native agent finds a directory where the host has it: give the same path as \
                 `host`, without links in it, and not `/`",
            ));
        }
        if granted.iter().any(|other| {
            other.access != Access::from(dir.mode)
                && (other.host.starts_with(&host) || host.starts_with(&other.host))
        }) {
            return Err(invalid(
                field("mode"),
                "the same tree may not be given once read-only and once writable",
            ));
        }
        granted.push(GrantedDir {
            host,
            guest,
            access: dir.mode.into(),
        });
    }
    Ok(granted)
}

/// Whether a canonical directory contains a place of the host's or lies within it.
fn meets(dir: &Path, place: Option<&PathBuf>) -> bool {
    let Some(place) = place else {
        return false;
    };
    // It may not be there yet, and its parents may be links.
    let place = without_links(place);
    place.starts_with(dir) || dir.starts_with(&place)
}

/// The path without a trailing slash, if it is absolute and plain.
fn guest_path(path: &str) -> Option<String> {
    if path == "/" {
        return Some(path.to_owned());
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let plain = path.len() <= MAX_PATH_BYTES
        && !path.contains('\0')
        && path
            .strip_prefix('/')?
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
    plain.then(|| path.to_owned())
}

fn host_dir(dir: &DirGrant, rules: &Rules) -> Result<PathBuf, String> {
    let asked = Path::new(&dir.host);
    if !asked.is_absolute() || asked.components().any(|part| part == PathPart::ParentDir) {
        return Err("must be an absolute path without `..`".to_owned());
    }
    if rules.dir_roots.is_empty() {
        return Err(
            "this host grants no directories: the operator sets [grants] dir_roots".to_owned(),
        );
    }
    // One answer for what does not exist and for what lies elsewhere: a
    // stranger must not learn from it what is on the host.
    let not_here = || {
        format!(
            "`{}` is no directory under a root that the operator allows",
            dir.host
        )
    };
    let path = asked.canonicalize().map_err(|_| not_here())?;
    let allowed = path.is_dir() && rules.dir_roots.iter().any(|root| path.starts_with(root));
    allowed.then_some(path).ok_or_else(not_here)
}
