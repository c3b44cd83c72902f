//! Paths on the host that were looked at earlier than they are used.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// Opens a path that had no links when it was checked against the operator's
/// roots: whoever may write above it can have put one there since. It is opened
/// as a place alone, with [`OFlags::PATH`], and with `flags`.
///
/// # Errors
/// `ELOOP` where there is a link in it now, and those of the file system.
pub fn open_without_links(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// The same place without links, as far as it is there already.
#[must_use]
pub fn without_links(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|parent| Some((parent, parent.canonicalize().ok()?)));
    match there {
        Some((parent, canonical)) => match path.strip_prefix(parent) {
            // Joined with nothing, it would be told to be a directory.
            Ok(rest) if !rest.as_os_str().is_empty() => canonical.join(rest),
            Ok(_) | Err(_) => canonical,
        },
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_opened_as_it_was_and_not_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("dir/inner")).unwrap();
        symlink("dir", root.join("link")).unwrap();
        let open = |path: &str| open_without_links(&root.join(path), OFlags::DIRECTORY);
        assert!(open("dir/inner").is_ok());
        for linked in ["link", "link/inner"] {
            let error = open(linked).unwrap_err();
            assert_eq!(error, rustix::io::Errno::LOOP, "{linked}");
        }
    }

    #[test]
    fn links_are_resolved_as_far_as_there_is_something() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        symlink("dir", root.join("link")).unwrap();
        for (path, expected) in [
            ("dir", "dir"),
            ("link", "dir"),
            ("link/new/newer", "dir/new/newer"),
            ("new", "new"),
        ] {
            assert_eq!(
                without_links(&root.join(path)),
                root.join(expected),
                "{path}"
            );
        }
    }
}
