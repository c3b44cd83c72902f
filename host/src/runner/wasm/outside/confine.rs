//! What a process gives up before it looks at a stranger's bytes. Each part is
//! taken as far as the kernel grants it; the limits of resources always are.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::STACK;
use super::job::Job;

/// Address space beyond the memory that may be written to: the binary and its
/// libraries, and what the allocator reserves for each thread.
const ADDRESSES: u64 = 1024 * 1024 * 1024;
const ADDRESSES_PER_THREAD: u64 = 192 * 1024 * 1024;

/// What the kernel granted of that which not every kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    /// Landlock.
    pub(super) files: bool,
    /// Seccomp.
    pub(super) calls: bool,
}

/// Confines this process, which has one thread.
pub(super) fn confine(job: &Job) -> nix::Result<Granted> {
    // If the host died before this was set, there is no signal, but another
    // parent.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != Pid::from_raw(job.host) {
        return Err(Errno::ESRCH);
    }
    let threads = job.threads.max(1);
    let memory = job
        .memory_bytes
        .saturating_add(threads.saturating_mul(STACK as u64));
    let addresses = memory
        .saturating_add(ADDRESSES)
        .saturating_add(threads.saturating_mul(ADDRESSES_PER_THREAD));
    limit(Resource::RLIMIT_CORE, 0, 0)?;
    limit(Resource::RLIMIT_FSIZE, 0, 0)?;
    limit(Resource::RLIMIT_DATA, memory, memory)?;
    limit(Resource::RLIMIT_AS, addresses, addresses)?;
    // The signal first, which tells the host why; then the kill.
    let seconds = job.cpu_seconds.max(1);
    limit(Resource::RLIMIT_CPU, seconds, seconds.saturating_add(1))?;
    prctl::set_dumpable(false)?;
    let _refused = rustix::process::nice(job.lower);
    prctl::set_no_new_privs()?;
    let files = without_files().unwrap_or(false);
    // Rules are made with a descriptor. Those that are open stay so.
    limit(Resource::RLIMIT_NOFILE, 0, 0)?;
    let calls = without_calls().is_ok();
    Ok(Granted { files, calls })
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, soft: u64, hard: u64) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

/// No path can be opened and nothing connected to, if the kernel says so.
fn without_files() -> Result<bool, RulesetError> {
    let abi = ABI::V6;
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(restricted.ruleset != RulesetStatus::NotEnforced)
}

/// No system call but those that computing takes. The others are answered as by
/// a kernel that does not know them, which every caller can live with.
fn without_calls() -> Result<(), seccompiler::Error> {
    let only = |argument, operator, value| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // Threads, and no processes. `clone3` hides its flags from a filter; it is
    // unknown then, and the C library falls back to this.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        only(0, SeccompCmpOp::MaskedEq(thread), thread)?,
    );
    // Aborting is a signal to oneself.
    let own = u64::from(getpid().as_raw().unsigned_abs());
    rules.insert(libc::SYS_tgkill, only(0, SeccompCmpOp::Eq, own)?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
