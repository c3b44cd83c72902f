//! An agent's own root directory: the system's programs and libraries, a few
//! devices, a `/proc` that shows its own processes, and what it was granted,
//! each where the host has it. It runs in the shim alone, within namespaces.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use rustix::fs::{CWD, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use super::enclosure::{from_io, from_rustix};
use super::wire::as_path;
use crate::paths::{open_without_links, without_links};

/// Where programs, their libraries and their settings lie: readable for every
/// agent, and writable for none.
pub(super) const SYSTEM: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// The tree of those in which this path lies, if it does.
pub(super) fn system_tree(path: &Path) -> Option<&'static str> {
    let path = without_links(path);
    let holds = |tree: &&&str| path.starts_with(without_links(Path::new(tree)));
    SYSTEM.iter().find(holds).copied()
}

/// Devices that hold nothing.
pub(super) const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Over this the new root is put before it becomes one: it is always there,
/// and nothing of it is needed any more.
const STAGE: &str = "/proc";

/// How a file system is made in which only mount points and links lie.
const MOUNT_POINTS: &CStr = c"mode=755,size=1m,nr_inodes=1k";

/// What may be done in a tree. The mounts themselves say so, since Landlock
/// leaves permissions, owners, times and attributes to who owns the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Read,
    Write,
    Device,
}

impl Use {
    pub(super) fn of_grant(writable: bool) -> Self {
        if writable { Self::Write } else { Self::Read }
    }

    fn forbidden(self) -> u64 {
        let forbidden = match self {
            Self::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
            Self::Write => libc::MOUNT_ATTR_NODEV,
            // Written to all the same, as devices are.
            Self::Device => libc::MOUNT_ATTR_RDONLY,
        };
        forbidden | libc::MOUNT_ATTR_NOSUID
    }
}

/// A part of the host's file system, taken before it is out of sight.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    mount: OwnedFd,
    usage: Use,
}

impl Tree {
    pub(super) fn take(path: &Path, usage: Use) -> nix::Result<Self> {
        // With what is mounted below it: a part that hides another may not be
        // taken away.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        Ok(Self {
            path: path.to_owned(),
            mount: open_tree(CWD, path, flags).map_err(from_rustix)?,
            usage,
        })
    }

    /// Like [`Self::take`], but of that very path, see [`open_without_links`].
    pub(super) fn take_plain(path: &Path, usage: Use) -> nix::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self {
            path: path.to_owned(),
            mount: open_without_links(path, OFlags::empty())
                .and_then(|place| open_tree(place, "", flags))
                .map_err(from_rustix)?,
            usage,
        })
    }

    fn is_dir(&self) -> nix::Result<bool> {
        let stat = rustix::fs::fstat(&self.mount).map_err(from_rustix)?;
        Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
    }

    /// Puts it in its place below the stage.
    fn put(self) -> nix::Result<()> {
        let place = staged(&self.path);
        if self.is_dir()? {
            fs::create_dir_all(&place).map_err(from_io)?;
        } else {
            let parent = place.parent().unwrap_or(Path::new(STAGE));
            fs::create_dir_all(parent).map_err(from_io)?;
            if !place.exists() {
                File::create(&place).map_err(from_io)?;
            }
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(self.mount.as_fd(), "", CWD, place.as_path(), flags).map_err(from_rustix)?;
        let forbidden = self.usage.forbidden();
        forbid(&self.mount, forbidden, libc::AT_RECURSIVE)
    }
}

/// Adds to what may not be done in a mount, with `AT_RECURSIVE` also in those below
/// it. Nothing is taken off: what the host itself may not do stays as it is, and
/// may not be changed in a user namespace.
#[expect(unsafe_code, reason = "mount_setattr, which no library here has")]
fn forbid(mount: &OwnedFd, attributes: u64, flags: libc::c_int) -> nix::Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path and the attributes outlive the call, which only
    // reads them, and their size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// Whether every agent sees this anyway.
pub(super) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
}

/// Makes the root directory, with `granted` and `program` in it, and nothing of
/// what lies in `covered` but those. Only the init of a pid namespace can: the new
/// `/proc` is that of its own.
pub(super) fn enter(
    covered: &[CString],
    mut granted: Vec<Tree>,
    program: Option<Tree>,
) -> nix::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(from_rustix)?;
    let mut trees = Vec::new();
    let mut links = Vec::new();
    let system = SYSTEM.into_iter().map(|path| (path, Use::Read));
    let devices = DEVICES.into_iter().map(|path| (path, Use::Device));
    for (path, usage) in system.chain(devices) {
        let path = Path::new(path);
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => links.push((fs::read_link(path), path)),
            Ok(_) => trees.push(Tree::take(path, usage)?),
            Err(_not_here) => {}
        }
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", STAGE, "tmpfs", plain, MOUNT_POINTS).map_err(from_rustix)?;
    for (to, path) in links {
        let place = staged(path);
        symlink(to.map_err(from_io)?, place).map_err(from_io)?;
    }
    for tree in trees {
        tree.put()?;
    }
    let mut covers = Vec::new();
    for path in covered {
        covers.extend(cover(as_path(path))?);
    }
    // What lies within another is put over that one's.
    granted.sort_by_key(|tree| tree.path.components().count());
    for tree in granted.into_iter().chain(program) {
        tree.put()?;
    }
    for cover in covers {
        // It alone, and not what was put into it.
        forbid(&cover, libc::MOUNT_ATTR_RDONLY, 0)?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, staged(Path::new("/dev")).join(name)).map_err(from_io)?;
    }
    let proc = staged(Path::new("/proc"));
    fs::create_dir(&proc).map_err(from_io)?;
    // Written to, it would let an agent change what its session, which may be the
    // host's, gets of the processors.
    let flags = plain | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("proc", &proc, "proc", flags, None).map_err(from_rustix)?;
    turn()
}

/// Makes the stage the root, and forgets the old one.
fn turn() -> nix::Result<()> {
    rustix::process::chdir(STAGE).map_err(from_rustix)?;
    // The old root comes to lie over the new one, and is then taken off.
    rustix::process::pivot_root(".", ".").map_err(from_rustix)?;
    unmount(".", UnmountFlags::DETACH).map_err(from_rustix)?;
    rustix::process::chdir("/").map_err(from_rustix)?;
    let still = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount("/", still, "").map_err(from_rustix)
}

/// Puts an empty directory over one of the host's, if it can be reached from here:
/// the agent reaches no more.
fn cover(path: &Path) -> nix::Result<Option<OwnedFd>> {
    let place = staged(path);
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    match mount("tmpfs", &place, "tmpfs", plain, MOUNT_POINTS).map_err(from_rustix) {
        Ok(()) => open_without_links(&place, OFlags::DIRECTORY)
            .map(Some)
            .map_err(from_rustix),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn staged(path: &Path) -> PathBuf {
    Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_are_shown_is_known_by_any_name() {
        let tree = |path: &str| system_tree(Path::new(path));
        assert_eq!(tree("/opt/skep/state"), Some("/opt"));
        assert_eq!(tree("/usr/local/state"), Some("/usr"));
        assert_eq!(tree("/nix/store/state"), Some("/nix/store"));
        for elsewhere in ["/var/lib/skep", "/home/me", "/optional", "/nix/state", "/"] {
            assert_eq!(tree(elsewhere), None, "{elsewhere}");
        }
        // By a link that is there, to a directory that is not.
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).unwrap();
        assert_eq!(system_tree(&link.join("state")), Some("/usr"));
    }
}
