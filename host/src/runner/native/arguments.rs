//! System calls that are denied with some arguments, and allowed with others.

use nix::libc;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::syscalls::Others;

/// The system calls, each with rules of which one is enough to deny it.
type Denied = Vec<(i64, Vec<SeccompRule>)>;

/// What the kernel would put into an `int`, and compare as one.
type Int = u32;

pub(super) fn denied(others: Others) -> Result<Denied, BackendError> {
    Ok([
        copies()?,
        pairs()?,
        terminals()?,
        listeners()?,
        powers(others)?,
    ]
    .concat())
}

/// New namespaces.
fn copies() -> Result<Denied, BackendError> {
    let flags = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let rules = flags.map(|flag| {
        let flag = flag.cast_unsigned();
        rule([int(0, SeccompCmpOp::MaskedEq(flag.into()), flag)])
    });
    Ok(vec![(libc::SYS_clone, all(rules)?)])
}

/// Sockets in pairs, but those that stay connected to each other: one of a pair
/// of datagram sockets, which "raw" ones are too, can send to any socket that
/// lies in a directory.
fn pairs() -> Result<Denied, BackendError> {
    // The lowest four bits; the others are flags.
    const KIND: Int = 0xF;
    let connected = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].map(i32::cast_unsigned);
    let kinds = (0..=KIND).filter(|kind| !connected.contains(kind));
    let rules = kinds.map(|kind| rule([int(1, SeccompCmpOp::MaskedEq(KIND.into()), kind)]));
    let local = libc::AF_UNIX.cast_unsigned();
    let of_networks = rule([int(0, SeccompCmpOp::Ne, local)]);
    Ok(vec![(
        libc::SYS_socketpair,
        all(rules.chain([of_networks]))?,
    )])
}

/// Typing into a terminal.
fn terminals() -> Result<Denied, BackendError> {
    let requests = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        let request = Int::try_from(request).unwrap_or(Int::MAX);
        rule([int(1, SeccompCmpOp::Eq, request)])
    });
    Ok(vec![(libc::SYS_ioctl, all(requests)?)])
}

/// Answering the system calls of another process: who waits for an answer that does not
/// come can be killed, and not be frozen, so that no pause would hold it.
fn listeners() -> Result<Denied, BackendError> {
    let flag = Int::try_from(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap_or(Int::MAX);
    let asks = rule([int(1, SeccompCmpOp::MaskedEq(flag.into()), flag)]);
    Ok(vec![(libc::SYS_seccomp, vec![asks?])])
}

/// Saying what other processes get: of those of its user the kernel refuses none,
/// and Landlock keeps signals alone from them. A host could be limited to a second
/// of the processor so, and dies of it.
///
/// Where others can be named, a process or thread is not named at all, for no filter
/// knows which are its own: 0 is who calls.
fn powers(others: Others) -> Result<Denied, BackendError> {
    let named = |index| match others {
        Others::Init => int(index, SeccompCmpOp::Eq, 1),
        Others::All => int(index, SeccompCmpOp::Ne, 0),
    };
    let by_process = [
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ];
    let mut denied = Denied::new();
    for call in by_process {
        denied.push((call, vec![rule([named(0)])?]));
    }
    // A limit that is set; all may be read.
    let set = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0);
    denied.push((libc::SYS_prlimit64, vec![rule([named(0), set])?]));
    // By process or group; and all of the user's, of whom the keeper is one.
    const PRIO_USER: Int = 2;
    const IOPRIO_WHO_USER: Int = 3;
    for (call, user) in [
        (libc::SYS_setpriority, PRIO_USER),
        (libc::SYS_ioprio_set, IOPRIO_WHO_USER),
    ] {
        let of_user = int(0, SeccompCmpOp::Eq, user);
        denied.push((call, vec![rule([named(1)])?, rule([of_user])?]));
    }
    Ok(denied)
}

type Condition = Result<SeccompCondition, BackendError>;

fn int(index: u8, operator: SeccompCmpOp, value: Int) -> Condition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
}

/// All of its conditions are to be met.
fn rule<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn all(
    rules: impl IntoIterator<Item = Result<SeccompRule, BackendError>>,
) -> Result<Vec<SeccompRule>, BackendError> {
    rules.into_iter().collect()
}
