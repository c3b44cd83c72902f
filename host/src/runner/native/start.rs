//! What a native agent needs before its shim, and why it does not start.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use skep_protocol::ErrorCode;

use super::Setup;
use super::cgroup::Cgroup;
use super::jailer::Jailer;
use super::wire::{Instruction, Order, Step};
use crate::runner::{End, Launch, Program};

/// The order, encoded; `None` if it contains a NUL or is too long.
pub(super) fn instruct(
    setup: &Setup,
    jailer: &Jailer,
    program: &Path,
    launch: &Launch,
) -> Option<Vec<u8>> {
    let Program::Command(command) = &launch.program else {
        return None;
    };
    let argv = command.iter().chain(&launch.args).map(String::as_str);
    let argv = argv.map(CString::new).collect::<Result<_, _>>().ok()?;
    let mut env = launch
        .env
        .iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let scratch = scratch(launch);
    if let Some(scratch) = scratch
        && !launch.env.contains_key("TMPDIR")
    {
        // The machine's own is not for agents.
        env.push(CString::new([b"TMPDIR=", &*bytes(scratch)].concat()).ok()?);
    }
    let instruction = Instruction {
        program: CString::new(bytes(program)).ok()?,
        cwd: CString::new(bytes(scratch.unwrap_or(Path::new("/")))).ok()?,
        argv,
        env,
        jail: (jailer.jail(&launch.limits, &launch.dirs, &setup.covered)).ok()?,
    };
    Order::Run(instruction).encode()
}

fn scratch(launch: &Launch) -> Option<&Path> {
    let scratch = launch.dirs.iter().find(|dir| dir.guest == "/")?;
    Some(&scratch.host)
}

/// The agent's cgroup, and all else that is to be ready before its shim.
pub(super) async fn prepare(setup: &Arc<Setup>, launch: &Launch) -> Result<Option<Cgroup>, End> {
    let (setup, id, limits) = (Arc::clone(setup), launch.id, launch.limits);
    let scratch = scratch(launch).map(Path::to_owned);
    let prepared = tokio::task::spawn_blocking(move || {
        let Some(jailer) = setup.known() else {
            return Ok(None);
        };
        if let Some(scratch) = scratch {
            jailer.give(&scratch).map_err(|error| {
                tracing::error!(%error, "a scratch directory was not given to its agent");
                let message = "its working directory could not be made its own";
                start_failed(ErrorCode::StorageUnavailable, message.into())
            })?;
        }
        let made = jailer.cgroup(id, &limits);
        made.map_err(|error| no_room(&error, "the cgroup of a native agent"))
    });
    let panicked = |_| Err(fault("a native agent was not prepared"));
    prepared.await.unwrap_or_else(panicked)
}

pub(super) fn start_failed(code: ErrorCode, message: String) -> End {
    End::StartFailed { code, message }
}

/// Why a program did not start, for its submitter: nothing of the host's
/// paths, but what they named themselves.
pub(super) fn not_started(step: Step, errno: Errno) -> End {
    let code = match (step, errno) {
        (_, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => ErrorCode::Capacity,
        // A limit of the kernel's on namespaces.
        (Step::Confine, Errno::ENOSPC | Errno::EUSERS) => ErrorCode::Capacity,
        (Step::Prepare | Step::Confine, _) => ErrorCode::Internal,
        (Step::Enter, _) => ErrorCode::StorageUnavailable,
        (Step::Execute, Errno::ENOENT | Errno::ENOTDIR) => ErrorCode::NotFound,
        (Step::Execute, Errno::E2BIG) => ErrorCode::TooLarge,
        (Step::Execute, _) => ErrorCode::InvalidArgument,
    };
    let what = match step {
        Step::Prepare => "its process could not be made",
        Step::Confine => "it could not be shut in as the host shuts agents in",
        Step::Enter => "its working directory could not be entered",
        Step::Execute => "the program could not be executed",
    };
    start_failed(code, format!("{what}: {}", errno.desc()))
}

/// No process, descriptor or memory for another agent; or the host's own
/// affairs are not in order.
pub(super) fn no_room(error: &std::io::Error, what: &str) -> End {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::EAGAIN
            | Errno::ENOMEM
            | Errno::EMFILE
            | Errno::ENFILE
            // No watch of epoll for what is to be read of it.
            | Errno::ENOSPC,
        ) => start_failed(
            ErrorCode::Capacity,
            "the host has no room for another process".into(),
        ),
        _ => fault(&format!("{what} could not be made: {error}")),
    }
}

pub(super) fn fault(cause: &str) -> End {
    End::Fault {
        incident: crate::incident(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_room_is_no_fault_of_the_host() {
        let end = |errno: Errno| no_room(&errno.into(), "the shim of a native agent");
        for errno in [Errno::EAGAIN, Errno::EMFILE, Errno::ENOSPC] {
            let code = match end(errno) {
                End::StartFailed { code, .. } => Some(code),
                _ => None,
            };
            assert_eq!(code, Some(ErrorCode::Capacity), "{errno}");
        }
        assert!(matches!(end(Errno::EACCES), End::Fault { .. }));
    }
}
