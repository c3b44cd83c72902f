//! Namespaces of an agent's own, and its user. It runs in the shim alone.
//!
//! ```text
//! shim (guard) ── first process of the pid namespace (init) ── program ── …
//! ```
//! The guard does nothing but wait: what kills it kills the init, and the
//! kernel then kills all that is in the namespace. In there, nobody sees the
//! init's parent, and no signal of theirs reaches the init.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, getpid, seteuid, setgroups, setresgid,
    setresuid,
};

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::account::Account;

/// What the kernel counts for a user in the namespace, and for whom that belongs to
/// as well, see [`Founder`]: one agent could have all that this user may. Programs
/// that watch files have one instance, and a watch for each directory.
const COUNTS: [(&str, &str); 5] = [
    ("inotify_instances", "16"),
    ("inotify_watches", "8192"),
    ("fanotify_groups", "0"),
    ("fanotify_marks", "0"),
    // Without which nobody without capabilities makes others. Not those of mounts:
    // the kernel counts each tree that is yet to be put in its place as one.
    ("user_namespaces", "0"),
];

/// Enters namespaces of its own, in which it may do anything and outside of which
/// nothing; who fails has maybe some of them, and is of no use. The pid namespace
/// begins with the next fork.
pub(super) fn separate(account: Option<Account>) -> nix::Result<()> {
    Founder::fork(account)?.follow(account)?;
    unshare(
        CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
}

/// Becomes the agents' user, for good where there is no namespace in which it
/// may be more.
pub(super) fn become_account(account: Option<Account>) -> nix::Result<()> {
    let Some(Account { uid, gid }) = account else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // The change has set it.
    prctl::set_dumpable(false)
}

/// Forks the init: gives its number to the guard, and `None` to the init.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn fork_init() -> nix::Result<Option<Pid>> {
    // SAFETY: the shim has one thread, see `child::start`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            // If the guard died before this, the host sees that and closes the
            // socket, which the init sees.
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(None)
        }
    }
}

/// Bounds what the kernel counts for another, in the namespace of this process, as
/// long as it may say so and sees the host's `/proc`. Where that cannot be written
/// to, the other's own limits hold alone.
pub(super) fn bound_counts() {
    for (what, most) in COUNTS {
        let _refused = fs::write(format!("/proc/sys/user/max_{what}"), most);
    }
}

/// What the guard does: it waits for the init to end, and ends as that did.
pub(super) fn guard(init: Pid) -> ! {
    // The agent's output ends with its last writer, and the host's word to the
    // init with the last that could hear it.
    let closed = crate::helper::close_from(0);
    let code = loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) if closed.is_ok() => break code,
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Signaled(..)) => {
                // The host tells one that was killed from one that is broken.
                let _dead = kill(getpid(), Signal::SIGKILL);
            }
            _ => break 1,
        }
    };
    std::process::exit(code)
}

/// Gives up all that makes a process more than its user, within its namespace
/// too.
pub(super) fn drop_capabilities() -> nix::Result<()> {
    let held = rustix::thread::capabilities(None).map_err(from_rustix)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        // By number, since a kernel may have more than this build knows.
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The last was the one before.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(from_rustix(error)),
            }
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // With what may not be inherited goes what is ambient.
    rustix::thread::set_capabilities(None, none).map_err(from_rustix)
}

pub(super) fn from_rustix(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

pub(super) fn from_io(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// A process that makes the user namespace and is the agents' user as it does: what
/// an agent has is counted for whom the namespace belongs to as well, and if that
/// were root, an agent could take what root may have on the whole machine.
struct Founder {
    pid: Pid,
    founded: PipeReader,
    stay: PipeWriter,
}

impl Founder {
    #[expect(unsafe_code, reason = "fork")]
    fn fork(account: Option<Account>) -> nix::Result<Self> {
        let (founded, mut tell) = std::io::pipe().map_err(from_io)?;
        let (mut leave, stay) = std::io::pipe().map_err(from_io)?;
        // SAFETY: the shim has one thread, see `child::start`.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                founded,
                stay,
            }),
            ForkResult::Child => {
                drop((founded, stay));
                if let Err(errno) = found(account) {
                    std::process::exit(errno as i32)
                }
                let _dead = tell.write_all(&[1]);
                let _end = leave.read(&mut [0]);
                std::process::exit(0)
            }
        }
    }

    /// Says which user is which in its namespace, which takes who stayed outside,
    /// and goes there.
    fn follow(self, account: Option<Account>) -> nix::Result<()> {
        let Self {
            pid,
            mut founded,
            stay,
        } = self;
        let followed = match founded.read_exact(&mut [0]) {
            Ok(()) => map(pid, account)
                .and_then(|()| fs::File::open(format!("/proc/{pid}/ns/user")))
                .map_err(from_io)
                .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWUSER)),
            // Its end tells why.
            Err(_ended) => Ok(()),
        };
        drop(stay);
        loop {
            match waitpid(pid, None) {
                Ok(WaitStatus::Exited(_, 0)) => return followed,
                Ok(WaitStatus::Exited(_, errno)) => return Err(Errno::from_raw(errno)),
                Err(Errno::EINTR) => {}
                _ => return Err(Errno::EPERM),
            }
        }
    }
}

/// What a founder does. The privileges it keeps are for kernels that let nobody make
/// user namespaces who has none.
fn found(account: Option<Account>) -> nix::Result<()> {
    if let Some(Account { uid, .. }) = account {
        seteuid(Uid::from_raw(uid))?;
        let mut held = rustix::thread::capabilities(None).map_err(from_rustix)?;
        held.effective = held.permitted;
        rustix::thread::set_capabilities(None, held).map_err(from_rustix)?;
    }
    // Who is not dumpable has files in /proc that are root's.
    prctl::set_dumpable(true)?;
    unshare(CloneFlags::CLONE_NEWUSER)
}

/// With root as its writer, any user; otherwise the writer's own alone.
fn map(pid: Pid, account: Option<Account>) -> std::io::Result<()> {
    let of = format!("/proc/{pid}");
    if account.is_none() {
        fs::write(format!("{of}/setgroups"), "deny")?;
    }
    let Account { uid, gid } = account.unwrap_or(Account {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    });
    fs::write(format!("{of}/uid_map"), format!("{uid} {uid} 1\n"))?;
    fs::write(format!("{of}/gid_map"), format!("{gid} {gid} 1\n"))
}
