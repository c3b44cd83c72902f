//! The shim: a process between the host and one agent. It is the `skep` binary
//! again, with one thread, and is there because only a parent can tell that
//! nothing of a tree is left, and because a host that dies cannot clean up.
//!
//! It is the subreaper of its tree: a process that loses its parent becomes
//! the shim's child, however often it forked or changed its session. So when
//! `waitpid` finds no child, no descendant is left, whatever `/proc` showed.
//!
//! All signals but SIGKILL and SIGSTOP are blocked in it, and it is not
//! dumpable, so an agent of the same user cannot trace it or read its memory.
//! As the first process of a pid namespace it cannot be reached from there at
//! all. Without one, an agent can send it SIGKILL; then its first process dies
//! with the shim, see `child`, and the host ends what is left of its session.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, setpgid};

use super::account::Account;
use super::child::{Descriptors, Failure, default_signals, start};
use super::enclosure::{
    become_account, bound_counts, drop_capabilities, fork_init, guard, separate,
};
use super::keeper::{All, Keeper, tell};
use super::layers::Layers;
use super::reach::Reach;
use super::syscalls::{Others, Shared};
use super::view::{Tree, Use, is_system};
use super::wire::{DESCRIPTORS, Instruction, Jail, MAX_ORDER, Order, Report, Step};
use super::{reach, syscalls, view};

/// What `skep` does when it is called with [`SHIM_ARG`](super::SHIM_ARG).
///
/// To be called before anything else in `main`: it closes every descriptor
/// above 2, sets signals and prctls for the whole process, and forks, which is
/// sound in a process with one thread only. Exits once the agent is gone, or
/// at once and with 2 if no host is at the other end of stdin.
pub fn shim_main() -> ! {
    let served = shut_in().and_then(serve);
    std::process::exit(if served.is_ok() { 0 } else { 2 })
}

/// Makes this process a shim; gives the socket to the host, which is stdin.
fn shut_in() -> std::io::Result<UnixStream> {
    // The agent inherits it: a machine without memory kills agents before their
    // host. Here, since later nobody is dumpable, and then it is root's file.
    // Where it is refused, the kernel chooses by size alone.
    let _refused = std::fs::write("/proc/self/oom_score_adj", "1000");
    prctl::set_dumpable(false)?;
    SigSet::all().thread_set_mask()?;
    default_signals();
    crate::helper::close_from(3)?;
    // So that what the host's terminal or group gets does not get here. It
    // fails for the leader of a session, which has left the host's already.
    let _leader = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    chdir("/")?;
    prctl::set_child_subreaper(true)?;
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Does what the host orders.
fn serve(mut control: UnixStream) -> std::io::Result<()> {
    let descriptors = receive_descriptors(&control)?;
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_ORDER {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    control.read_exact(&mut body)?;
    let order = Order::decode(&body).ok_or(std::io::ErrorKind::InvalidData)?;
    drop(body);
    let report = match order {
        Order::Probe { account } => probe(account).map(Report::Holds),
        Order::Run(instruction) => {
            let mut descriptors = descriptors.into_iter();
            let (Some(stdin), Some(stdout), Some(stderr)) =
                (descriptors.next(), descriptors.next(), descriptors.next())
            else {
                return Err(std::io::ErrorKind::InvalidData.into());
            };
            let given = Descriptors {
                stdio: [stdin, stdout, stderr],
                cgroup: descriptors.next(),
            };
            run(&control, instruction, given)
        }
    };
    (&control).write_all(&report.unwrap_or_else(not_started).encode())
}

/// Runs the program to its end.
fn run(
    control: &UnixStream,
    instruction: Instruction,
    given: Descriptors,
) -> Result<Report, Failure> {
    enclose(control, &instruction)?;
    let nonblocking = control.set_nonblocking(true);
    nonblocking.map_err(|_| (Step::Prepare, Errno::EIO))?;
    let all = if instruction.jail.layers.namespaces {
        All::OfNamespace
    } else {
        All::OfTree
    };
    // Before there is anything to keep: what comes after cannot fail.
    let children = Keeper::children().map_err(|errno| (Step::Prepare, errno))?;
    let starting = start(&instruction, given)?;
    // After the fork, which would hand it on.
    leave_agents(&instruction.jail);
    drop(instruction);
    Keeper::new(control, children, starting.pid, all).watch(starting)
}

/// Runs this process, which an end waits for, where no agent does.
fn leave_agents(jail: &Jail) {
    if let Some(processors) = jail.processors() {
        let _refused = processors.leave_agents();
    }
}

/// Becomes the agents' user, in namespaces of its own where it is to have
/// them. Then this goes on in the first process there, and another is left
/// outside that does nothing but wait for it.
fn enclose(control: &UnixStream, instruction: &Instruction) -> Result<(), Failure> {
    let confine = |errno| (Step::Confine, errno);
    let enter = |errno| (Step::Enter, errno);
    let Jail {
        layers,
        account,
        reach,
        covered,
        ..
    } = &instruction.jail;
    let cwd = instruction.cwd.as_c_str();
    if layers.namespaces {
        separate(*account).map_err(confine)?;
    }
    let mut granted = Vec::new();
    // As long as it may pass where the agents' user may not: the host's
    // directory of scratch directories is the host's alone.
    if layers.view {
        for reach in reach {
            let usage = Use::of_grant(reach.writable);
            granted.push(Tree::take_plain(reach.path(), usage).map_err(enter)?);
        }
    } else {
        chdir(cwd).map_err(enter)?;
    }
    become_account(*account).map_err(confine)?;
    // But the program must be one that they may reach: it is the submitter's
    // word, and not the operator's.
    let path = instruction.program_path();
    let within = |reach: &Reach| path.starts_with(reach.path());
    let program = if layers.view && !is_system(path) && !reach.iter().any(within) {
        Some(Tree::take(path, Use::Read).map_err(|errno| (Step::Execute, errno))?)
    } else {
        None
    };
    if layers.namespaces {
        if let Some(init) = fork_init().map_err(confine)? {
            drop((granted, program));
            leave_agents(&instruction.jail);
            guard(init);
        }
        // The host's /proc is still there, and in it this process's number.
        let number = std::fs::read_link("/proc/self").ok();
        let init = number.and_then(|number| number.to_str()?.parse().ok());
        // Unless it is told, the numbers in there would be taken for the host's.
        let init = init.ok_or((Step::Confine, Errno::ENOENT))?;
        tell(control, Report::Enclosed { init });
        bound_counts();
    }
    if layers.view {
        view::enter(covered, granted, program).map_err(confine)?;
        chdir(cwd).map_err(enter)?;
    }
    drop_capabilities().map_err(confine)
}

/// Finds out which layers there are, by putting them over itself.
fn probe(account: Option<Account>) -> Result<Layers, Failure> {
    let confine = |errno| (Step::Confine, errno);
    // In another process, since one that got half way could not go on.
    let separated = probe_namespaces(account).map_err(confine)?;
    become_account(account).map_err(confine)?;
    drop_capabilities().map_err(confine)?;
    prctl::set_no_new_privs().map_err(confine)?;
    Ok(Layers {
        landlock: reach::restrict(None, &[]).is_ok(),
        syscalls: syscalls::restrict(Shared::Uncounted, Others::All).is_ok(),
        ..Layers::from_bits(separated)
    })
}

/// The bits of the layers that namespaces give.
#[expect(unsafe_code, reason = "fork")]
fn probe_namespaces(account: Option<Account>) -> nix::Result<i32> {
    // SAFETY: the shim has one thread, see `child::start`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, bits)) => return Ok(bits),
                Err(Errno::EINTR) => {}
                _ => return Ok(0),
            }
        },
        ForkResult::Child => {
            let separated = separate(account).and_then(|()| become_account(account));
            let bits = match separated.and_then(|()| fork_init()) {
                Err(_) => 0,
                Ok(Some(init)) => guard(init),
                Ok(None) => {
                    bound_counts();
                    let view = view::enter(&[], Vec::new(), None).is_ok();
                    Layers {
                        namespaces: true,
                        view,
                        ..Layers::default()
                    }
                    .to_bits()
                }
            };
            std::process::exit(bits)
        }
    }
}

fn not_started((step, errno): Failure) -> Report {
    Report::NotStarted {
        step,
        errno: errno as i32,
    }
}

/// The program's stdin, stdout and stderr, and maybe a cgroup's list, which
/// come with the first byte.
#[expect(unsafe_code, reason = "SCM_RIGHTS")]
fn receive_descriptors(control: &UnixStream) -> std::io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([libc::c_int; 4]);
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        control.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just made them for this message, which is
            // read once; nothing else knows of them.
            received.extend(
                descriptors
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    if byte == [DESCRIPTORS] {
        Ok(received)
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}
