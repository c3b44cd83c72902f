//! Exit codes: one table for every way in which an agent can end or not begin.

use skep_client::ClientError;
use skep_client::protocol::{ErrorCode, Outcome, WireError};

/// A command did not find what it was to ascertain: an unhealthy host, a stale
/// component.
pub(super) const NO: u8 = 1;
/// A command cannot tell: what it would compare is gone, or out of reach.
pub(super) const UNSURE: u8 = 2;
/// The agent ran for longer than its limit.
pub(super) const DEADLINE: u8 = 124;
/// Skep itself failed: no host, a bad flag, a refusal.
pub(super) const SKEP_FAILED: u8 = 125;
/// The component cannot run.
pub(super) const CANNOT_RUN: u8 = 126;
/// There is no such file.
pub(super) const NO_SUCH_FILE: u8 = 127;
/// As if ended by SIGABRT.
pub(super) const TRAPPED: u8 = 134;
/// As if ended by SIGKILL.
pub(super) const KILLED: u8 = 137;
/// As if ended by SIGPIPE.
pub(super) const NOBODY_READS: u8 = 141;
/// As if ended by SIGTERM.
pub(super) const STOPPED: u8 = 143;
/// As if ended by SIGXCPU.
pub(super) const OUT_OF_FUEL: u8 = 152;

/// What `run` and `wait` exit with.
pub(super) fn of_outcome(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Exited { code } => *code,
        Outcome::Trapped { .. } => TRAPPED,
        Outcome::OutOfFuel { .. } => OUT_OF_FUEL,
        Outcome::OutOfMemory { .. } | Outcome::Killed => KILLED,
        Outcome::Deadline { .. } => DEADLINE,
        Outcome::Stopped { .. } => STOPPED,
        Outcome::Signaled { signal } => of_signal(*signal),
        Outcome::StartFailed { .. } => CANNOT_RUN,
        Outcome::HostLost | Outcome::HostFault { .. } => SKEP_FAILED,
    }
}

/// `128 + n`, as shells do. Linux has signals up to 64.
pub(super) fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal)
        .ok()
        .and_then(|n| n.checked_add(128))
        .unwrap_or(SKEP_FAILED)
}

/// What a failed call makes a command exit with.
pub(super) fn of_error(error: &ClientError) -> u8 {
    match error {
        ClientError::Refused(refusal) if is_of_component(refusal) => CANNOT_RUN,
        _ => SKEP_FAILED,
    }
}

/// Whether it is the component that cannot run, whoever asked.
pub(super) fn is_of_component(refusal: &WireError) -> bool {
    match refusal.code {
        ErrorCode::InvalidComponent
        | ErrorCode::UnsupportedWorld
        | ErrorCode::MissingImport
        | ErrorCode::MissingGrant
        | ErrorCode::LimitTooSmall
        | ErrorCode::CompileLimit
        | ErrorCode::DigestMismatch => true,
        // A feature of the component, not a field of the request.
        ErrorCode::UnsupportedFeature => refusal.details.field.is_none(),
        ErrorCode::TooLarge => refusal.details.limit.as_deref() == Some("component_bytes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use skep_client::protocol::Trap;

    use super::*;

    #[test]
    fn every_outcome_has_its_code() {
        for (outcome, code) in [
            (Outcome::Exited { code: 0 }, 0),
            (Outcome::Exited { code: 7 }, 7),
            (Outcome::Exited { code: 255 }, 255),
            (
                Outcome::Trapped {
                    trap: Trap::Unreachable,
                    message: String::new(),
                    backtrace: vec![],
                },
                134,
            ),
            (Outcome::OutOfFuel { limit: 1 }, 152),
            (
                Outcome::OutOfMemory {
                    limit_bytes: 1,
                    asked_bytes: 2,
                },
                137,
            ),
            (Outcome::Deadline { limit_ms: 1 }, 124),
            (Outcome::Stopped { forced: false }, 143),
            (Outcome::Stopped { forced: true }, 143),
            (Outcome::Killed, 137),
            (Outcome::Signaled { signal: 11 }, 139),
            (Outcome::Signaled { signal: -5 }, 125),
            (Outcome::Signaled { signal: 200 }, 125),
            (
                Outcome::StartFailed {
                    code: ErrorCode::CompileLimit,
                    message: String::new(),
                },
                126,
            ),
            (Outcome::HostLost, 125),
            (
                Outcome::HostFault {
                    incident: String::new(),
                },
                125,
            ),
        ] {
            assert_eq!(of_outcome(&outcome), code, "{outcome}");
        }
    }

    #[test]
    fn refusals_of_the_component_are_told_from_those_of_the_ask() {
        let code = |code, change: fn(&mut WireError)| {
            let mut error = WireError::new(code, "");
            change(&mut error);
            of_error(&error.into())
        };
        assert_eq!(code(ErrorCode::InvalidComponent, |_| {}), 126);
        assert_eq!(code(ErrorCode::MissingImport, |_| {}), 126);
        assert_eq!(code(ErrorCode::Capacity, |_| {}), 125);
        assert_eq!(code(ErrorCode::LimitExceedsCeiling, |_| {}), 125);
        assert_eq!(code(ErrorCode::Denied, |_| {}), 125);
        let feature = |e: &mut WireError| e.details.feature = Some("threads".into());
        assert_eq!(code(ErrorCode::UnsupportedFeature, feature), 126);
        let field = |e: &mut WireError| e.details.field = Some("spec.restart".into());
        assert_eq!(code(ErrorCode::UnsupportedFeature, field), 125);
        let component = |e: &mut WireError| e.details.limit = Some("component_bytes".into());
        assert_eq!(code(ErrorCode::TooLarge, component), 126);
        assert_eq!(code(ErrorCode::TooLarge, |_| {}), 125);
        assert_eq!(of_error(&ClientError::Protocol(String::new())), 125);
    }
}
