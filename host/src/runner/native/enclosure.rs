//! Namespaces of an agent's own, and its user. It runs in the shim alone.
//!
//! ```text
//! shim (guard) ── first process of the pid namespace (init) ── program ── …
//! ```
//! The guard does nothing but wait: what kills it kills the init, and the
//! kernel then kills all that is in the namespace. In there, nobody sees the
//! init's parent, and no signal of theirs reaches the init.

use std::fs;
use std::io::{PipeWriter, Read, Write};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, getpid, getppid, setgroups, setresgid,
    setresuid,
};

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::account::Account;

/// Enters namespaces of its own, all or none, in which it may do anything and
/// outside of which nothing. The pid namespace begins with the next fork.
pub(super) fn separate(account: Option<Account>) -> nix::Result<()> {
    let owner = account.unwrap_or(Account {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    });
    let mapper = Mapper::fork(owner, account.is_some())?;
    // Who is not dumpable has files in /proc that are root's.
    prctl::set_dumpable(true)?;
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let separated = unshare(all);
    let mapped = mapper.finish(separated.is_ok());
    prctl::set_dumpable(false)?;
    separated.and(mapped)
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

/// A process that stays outside to write which user is which inside: with root
/// as its writer, any; otherwise the writer's own alone.
struct Mapper {
    pid: Pid,
    go: PipeWriter,
}

impl Mapper {
    #[expect(unsafe_code, reason = "fork")]
    fn fork(owner: Account, privileged: bool) -> nix::Result<Self> {
        let (mut wait, go) = std::io::pipe()
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
        // SAFETY: the shim has one thread, see `child::start`.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child, go }),
            ForkResult::Child => {
                drop(go);
                let mapped = wait.read_exact(&mut [0]).and_then(|()| {
                    let of = format!("/proc/{}", getppid());
                    if !privileged {
                        fs::write(format!("{of}/setgroups"), "deny")?;
                    }
                    let Account { uid, gid } = owner;
                    fs::write(format!("{of}/uid_map"), format!("{uid} {uid} 1\n"))?;
                    fs::write(format!("{of}/gid_map"), format!("{gid} {gid} 1\n"))
                });
                std::process::exit(i32::from(mapped.is_err()))
            }
        }
    }

    /// Lets it write, or end without.
    fn finish(self, write: bool) -> nix::Result<()> {
        let Self { pid, mut go } = self;
        if write {
            let _dead = go.write_all(&[1]);
        }
        drop(go);
        loop {
            match waitpid(pid, None) {
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Err(Errno::EINTR) => {}
                _ => return Err(Errno::EPERM),
            }
        }
    }
}
