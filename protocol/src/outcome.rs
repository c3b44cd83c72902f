//! How an agent ended: exactly one of these, with its number.

use serde::{Deserialize, Serialize};

/// How an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// It returned, or called exit.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// The guest did what WebAssembly does not allow, or panicked.
    Trapped {
        /// Which trap.
        trap: Trap,
        /// What the engine says of it.
        message: String,
        /// Names of functions, innermost first, at most 20.
        backtrace: Vec<String>,
    },
    /// It used up its fuel.
    OutOfFuel {
        /// The limit, in instructions.
        limit: u64,
    },
    /// A growth of memory was refused and the guest gave up.
    OutOfMemory {
        /// The limit, in bytes.
        limit_bytes: u64,
        /// The sum that the refused growth would have reached, in bytes.
        asked_bytes: u64,
    },
    /// It ran for longer than its wall clock limit.
    Deadline {
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// It was asked to stop.
    Stopped {
        /// Whether it had to be ended since it could not be asked, or its
        /// grace ran out.
        forced: bool,
    },
    /// It was killed by a client.
    Killed,
    /// A native process ended by a signal that Skep did not send.
    Signaled {
        /// The number of the signal.
        signal: i32,
    },
    /// It never ran.
    StartFailed {
        /// An error code of the protocol.
        code: crate::ErrorCode,
        /// What happened, for a person.
        message: String,
    },
    /// The host died while it ran.
    HostLost,
    /// A bug of Skep ended it.
    HostFault {
        /// Under which name the cause stands in the host's log.
        incident: String,
    },
}

impl Outcome {
    /// The kind as it stands on the wire.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Trapped { .. } => "trapped",
            Self::OutOfFuel { .. } => "out_of_fuel",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Deadline { .. } => "deadline",
            Self::Stopped { .. } => "stopped",
            Self::Killed => "killed",
            Self::Signaled { .. } => "signaled",
            Self::StartFailed { .. } => "start_failed",
            Self::HostLost => "host_lost",
            Self::HostFault { .. } => "host_fault",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited {code}"),
            Self::Trapped { trap, message, .. } => {
                write!(f, "trapped {}: {message}", trap.as_str())
            }
            Self::OutOfFuel { limit } => {
                write!(f, "out_of_fuel: the limit is {limit} instructions")
            }
            Self::OutOfMemory {
                limit_bytes,
                asked_bytes,
            } => {
                write!(
                    f,
                    "out_of_memory: the limit is {limit_bytes} bytes, {asked_bytes} were needed"
                )
            }
            Self::Deadline { limit_ms } => write!(f, "deadline: the limit is {limit_ms} ms"),
            Self::Stopped { forced: false } => f.write_str("stopped"),
            Self::Stopped { forced: true } => f.write_str("stopped by force"),
            Self::Killed => f.write_str("killed"),
            Self::Signaled { signal } => write!(f, "signaled {signal}"),
            Self::StartFailed { code, message } => write!(f, "start_failed ({code}): {message}"),
            Self::HostLost => f.write_str("host_lost: the host died while it ran"),
            Self::HostFault { incident } => {
                write!(
                    f,
                    "host_fault: a bug of the host; its log has the cause under {incident}"
                )
            }
        }
    }
}

/// Which trap ended a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are WebAssembly's own")]
pub enum Trap {
    Unreachable,
    MemoryOutOfBounds,
    TableOutOfBounds,
    StackOverflow,
    IntegerDivideByZero,
    IntegerOverflow,
    BadConversion,
    IndirectCallMismatch,
    NullReference,
    CannotEnter,
    Other,
}

impl Trap {
    /// The name as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::MemoryOutOfBounds => "memory_out_of_bounds",
            Self::TableOutOfBounds => "table_out_of_bounds",
            Self::StackOverflow => "stack_overflow",
            Self::IntegerDivideByZero => "integer_divide_by_zero",
            Self::IntegerOverflow => "integer_overflow",
            Self::BadConversion => "bad_conversion",
            Self::IndirectCallMismatch => "indirect_call_mismatch",
            Self::NullReference => "null_reference",
            Self::CannotEnter => "cannot_enter",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_read_as_they_are_written() {
        for trap in [
            Trap::Unreachable,
            Trap::MemoryOutOfBounds,
            Trap::TableOutOfBounds,
            Trap::StackOverflow,
            Trap::IntegerDivideByZero,
            Trap::IntegerOverflow,
            Trap::BadConversion,
            Trap::IndirectCallMismatch,
            Trap::NullReference,
            Trap::CannotEnter,
            Trap::Other,
        ] {
            assert_eq!(serde_json::to_value(trap).unwrap(), trap.as_str());
        }
    }
}
