//! How a guest's end becomes its agent's outcome: the one place that decides.

use std::time::Duration;

use skep_protocol::{Limits, Outcome};

use crate::runner::End;

/// What Skep wanted of a guest when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// That it runs.
    Run,
    /// That it ends by itself, within its grace.
    Stop,
    /// That it ends now, since it could not be asked or its grace ran out.
    StopByForce,
    /// That it ends now, as a client asked.
    Kill,
    /// That it ends now, since its time is over.
    Deadline,
    /// That it ends now, since it was paused for as long as it may be.
    PausedTooLong,
}

/// The outcome of an agent whose guest ended like this while that was wanted.
///
/// What the guest did by itself is told as it was, even when a kill was under
/// way: only an end that Skep brought about bears Skep's reason.
#[must_use]
pub fn decide(intent: Intent, end: End, limits: &Limits) -> Outcome {
    match (end, intent) {
        (End::Killed, Intent::Kill) => Outcome::Killed,
        (End::Killed, Intent::Deadline) => Outcome::Deadline {
            limit_ms: limits.wall_ms,
        },
        (End::Killed, Intent::PausedTooLong) => Outcome::Deadline {
            limit_ms: limits.paused_ms,
        },
        (End::Killed, Intent::Stop | Intent::StopByForce) => Outcome::Stopped { forced: true },
        (End::Killed, Intent::Run) => Outcome::HostFault {
            incident: crate::incident("a guest was killed that nobody killed"),
        },
        // A native agent without a handler for SIGTERM ends by it.
        (End::Exited(_) | End::Signaled(TERM), Intent::Stop) => Outcome::Stopped { forced: false },
        (End::Exited(code), _) => Outcome::Exited { code },
        (End::Signaled(signal), _) => Outcome::Signaled { signal },
        (
            End::Trapped {
                trap,
                message,
                backtrace,
            },
            _,
        ) => Outcome::Trapped {
            trap,
            message,
            backtrace,
        },
        (End::OutOfFuel, _) => Outcome::OutOfFuel { limit: limits.fuel },
        (End::OutOfMemory { asked_bytes }, _) => Outcome::OutOfMemory {
            limit_bytes: limits.memory_bytes,
            asked_bytes,
        },
        (End::StartFailed { code, message }, _) => Outcome::StartFailed { code, message },
        (End::Fault { incident }, _) => Outcome::HostFault { incident },
    }
}

/// SIGTERM, by its number on Linux.
const TERM: i32 = 15;

/// How long a stop waits if it does not say: 5 s.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_skep_brought_about_bears_its_reason() {
        let limits = Limits {
            wall_ms: 7,
            paused_ms: 8,
            ..Limits::default()
        };
        let killed = |intent| decide(intent, End::Killed, &limits);
        assert_eq!(killed(Intent::Kill), Outcome::Killed);
        assert_eq!(killed(Intent::Deadline), Outcome::Deadline { limit_ms: 7 });
        assert_eq!(
            killed(Intent::PausedTooLong),
            Outcome::Deadline { limit_ms: 8 }
        );
        assert_eq!(
            killed(Intent::StopByForce),
            Outcome::Stopped { forced: true }
        );
        assert_eq!(killed(Intent::Stop), Outcome::Stopped { forced: true });
        assert_eq!(killed(Intent::Run).kind(), "host_fault");
    }

    #[test]
    fn what_a_guest_did_by_itself_is_told_as_it_was() {
        let limits = Limits {
            fuel: 9,
            memory_bytes: 5,
            ..Limits::default()
        };
        for intent in [
            Intent::Run,
            Intent::Kill,
            Intent::Deadline,
            Intent::StopByForce,
        ] {
            assert_eq!(
                decide(intent, End::Exited(3), &limits),
                Outcome::Exited { code: 3 }
            );
            assert_eq!(
                decide(intent, End::Signaled(15), &limits),
                Outcome::Signaled { signal: 15 }
            );
        }
        for intent in [Intent::Run, Intent::Stop, Intent::Kill] {
            assert_eq!(
                decide(intent, End::OutOfFuel, &limits),
                Outcome::OutOfFuel { limit: 9 }
            );
            assert_eq!(
                decide(intent, End::OutOfMemory { asked_bytes: 6 }, &limits),
                Outcome::OutOfMemory {
                    limit_bytes: 5,
                    asked_bytes: 6
                }
            );
        }
        assert_eq!(
            decide(Intent::Stop, End::Exited(3), &limits),
            Outcome::Stopped { forced: false }
        );
        assert_eq!(
            decide(Intent::Stop, End::Signaled(15), &limits),
            Outcome::Stopped { forced: false }
        );
        assert_eq!(
            decide(Intent::Stop, End::Signaled(11), &limits),
            Outcome::Signaled { signal: 11 }
        );
    }
}
