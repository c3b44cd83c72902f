//! The system calls that no agent has a use for that Skep grants: a seccomp
//! filter, which binds all that descends from it, and which nobody can take
//! off. A list of what is denied, since programs of any kind are to run; what
//! is not on it is the kernel's to refuse to a user without privileges.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, apply_filter};

use super::arguments;

/// In the numbers of x86_64, those of its 32-bit-pointer variant have this bit:
/// the same calls under other numbers.
#[cfg(target_arch = "x86_64")]
const VARIANTS: [i64; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const VARIANTS: [i64; 1] = [0];

/// What that variant has under numbers of its own, `ptrace` among it; older kernels
/// take them without the bit, too. No program is built for it.
#[cfg(target_arch = "x86_64")]
const OF_VARIANT: std::ops::Range<i64> = 512..548;
#[cfg(not(target_arch = "x86_64"))]
const OF_VARIANT: std::ops::Range<i64> = 0..0;

const DENIED: &[i64] = &[
    // Sockets are never granted. Pairs of them are, see `arguments`, which are
    // connected and have no use for a name.
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Where the kernel shares the processors by session, each new one has as much of
    // them as the host with all that it runs.
    libc::SYS_setsid,
    // One processor is the host's, see `processors`.
    libc::SYS_sched_setaffinity,
    // Namespaces, mounts and roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // What the kernel has been broken through more often than other calls.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // It makes other calls, past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// `clone3` has its flags where no filter can see them. As if it were not
/// there: programs then use `clone`.
const ABSENT: &[i64] = &[libc::SYS_clone3];

/// Memory that is no process's, so that only a cgroup counts it; System V's, and
/// queues of messages, are all processes' of one user besides, unless there is a
/// namespace.
const UNCOUNTED: &[i64] = &[
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
];

/// Whether memory outside of processes is an agent's own and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    Counted,
    Uncounted,
}

/// Which processes that are not its own an agent could name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// The first of its pid namespace, which keeps it.
    Init,
    /// All of its user, the host among them, unless that is root.
    All,
}

/// Puts the filter over this process and what it becomes.
pub(super) fn restrict(shared: Shared, others: Others) -> nix::Result<()> {
    let denied = filter(denied(shared, others)?, libc::EPERM)?;
    let absent = filter(unconditional(ABSENT.iter().copied()), libc::ENOSYS)?;
    for program in [denied, absent] {
        apply_filter(&program).map_err(|_| Errno::ENOSYS)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(rules: Rules, errno: i32) -> nix::Result<BpfProgram> {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| Errno::ENOSYS)?;
    let deny = SeccompAction::Errno(errno.unsigned_abs());
    // A call in the numbers of another architecture ends the process.
    SeccompFilter::new(rules, SeccompAction::Allow, deny, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|_| Errno::EINVAL)
}

fn unconditional(calls: impl IntoIterator<Item = i64>) -> Rules {
    let numbers = calls
        .into_iter()
        .flat_map(|call| VARIANTS.map(|variant| call | variant));
    numbers.map(|number| (number, Vec::new())).collect()
}

fn denied(shared: Shared, others: Others) -> nix::Result<Rules> {
    let mut rules = unconditional(DENIED.iter().copied().chain(OF_VARIANT));
    if shared == Shared::Uncounted {
        rules.extend(unconditional(UNCOUNTED.iter().copied()));
    }
    for (call, these) in arguments::denied(others).map_err(|_| Errno::EINVAL)? {
        for variant in VARIANTS {
            rules.insert(call | variant, these.clone());
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_made() {
        for others in [Others::Init, Others::All] {
            let all = denied(Shared::Uncounted, others).unwrap();
            let rules = denied(Shared::Counted, others).unwrap();
            assert_eq!(
                rules.len(),
                (DENIED.len() + 10 + OF_VARIANT.count()) * VARIANTS.len()
            );
            assert_eq!(all.len(), rules.len() + UNCOUNTED.len() * VARIANTS.len());
            filter(all, libc::EPERM).unwrap();
            assert_eq!(rules[&libc::SYS_clone].len(), 7);
            assert_eq!(rules[&libc::SYS_ioctl].len(), 2);
            assert_eq!(rules[&libc::SYS_socketpair].len(), 15);
            assert_eq!(rules[&libc::SYS_setpriority].len(), 2);
            filter(rules, libc::EPERM).unwrap();
        }
        filter(unconditional(ABSENT.iter().copied()), libc::ENOSYS).unwrap();
    }
}
