//! How a guest ended, told from what wasmtime says. What a guest's author wrote
//! (names of functions, messages) is shortened before it is repeated.

use std::fmt::{self, Write as _};

use rustc_demangle::{Demangle, try_demangle};
use skep_protocol::{ErrorCode, Trap};
use wasmtime::{PoolConcurrencyLimitError, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::limiter::{Bound, Refused};
use super::refusal::cut;
use crate::runner::End;

/// Frames of a backtrace.
pub(super) const MAX_FRAMES: usize = 20;

const MAX_NAME: usize = 256;
const MAX_MESSAGE: usize = 1024;

/// The guest ends itself with this code.
#[derive(Debug, thiserror::Error)]
#[error("exited with {0}")]
pub(super) struct Exit(pub(super) u8);

/// The guest was ended from outside.
#[derive(Debug, thiserror::Error)]
#[error("killed")]
pub(super) struct Killed;

/// How far a guest had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Running,
}

/// How a guest ended that did not return.
pub(super) fn of(error: &wasmtime::Error, phase: Phase, refused: Option<Refused>) -> End {
    if let Some(Exit(code)) = error.downcast_ref() {
        return End::Exited(*code);
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return End::Exited(u8::try_from(*code).unwrap_or(u8::MAX));
    }
    if error.is::<Killed>() {
        return End::Killed;
    }
    let trap = error.downcast_ref::<wasmtime::Trap>().copied();
    if trap == Some(wasmtime::Trap::OutOfFuel) {
        return End::OutOfFuel;
    }
    // Guests are in the error's context once they have run.
    let ran = trap.is_some() || error.is::<WasmBacktrace>();
    match (phase, refused) {
        // Memory that the component is made with, before any of it runs.
        (Phase::Starting, Some(Refused { asked_bytes, by })) if !ran => {
            return match by {
                Bound::Limit => start_failed(
                    ErrorCode::LimitTooSmall,
                    format!("its limit memory_bytes is too small: to start it needs {asked_bytes}"),
                ),
                Bound::Host => start_failed(
                    ErrorCode::Capacity,
                    format!(
                        "to start it needs {asked_bytes} bytes of memory, and the agents of this \
                         host use all that they may: try again when some have ended"
                    ),
                ),
            };
        }
        (Phase::Starting, None) if !ran => return unstarted(error),
        (Phase::Starting, Some(Refused { asked_bytes, .. })) => {
            return End::OutOfMemory { asked_bytes };
        }
        (Phase::Running, Some(Refused { asked_bytes, .. }))
            if trap == Some(wasmtime::Trap::UnreachableCodeReached) =>
        {
            return End::OutOfMemory { asked_bytes };
        }
        _ => {}
    }
    let mut message = match trap {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    cut(&mut message, MAX_MESSAGE);
    End::Trapped {
        trap: trap.map_or(Trap::Other, name),
        message,
        backtrace: backtrace(error),
    }
}

/// Instantiation failed, and not by the guest's own doing.
fn unstarted(error: &wasmtime::Error) -> End {
    if error.is::<PoolConcurrencyLimitError>() {
        return start_failed(
            ErrorCode::Capacity,
            format!("the host's pool is full: {error}"),
        );
    }
    let text = format!("{error:#}");
    if text.contains("resource limit exceeded") {
        return start_failed(
            ErrorCode::LimitTooSmall,
            format!("its limit instances is too small: {text}"),
        );
    }
    tracing::warn!("a guest could not be instantiated: {text}");
    start_failed(
        ErrorCode::Capacity,
        format!("the host could not make room for it: {text}"),
    )
}

pub(super) fn start_failed(code: ErrorCode, mut message: String) -> End {
    cut(&mut message, MAX_MESSAGE);
    End::StartFailed { code, message }
}

fn name(trap: wasmtime::Trap) -> Trap {
    use wasmtime::Trap as T;
    match trap {
        T::UnreachableCodeReached => Trap::Unreachable,
        T::MemoryOutOfBounds => Trap::MemoryOutOfBounds,
        T::TableOutOfBounds => Trap::TableOutOfBounds,
        T::StackOverflow => Trap::StackOverflow,
        T::IntegerDivisionByZero => Trap::IntegerDivideByZero,
        T::IntegerOverflow => Trap::IntegerOverflow,
        T::BadConversionToInteger => Trap::BadConversion,
        T::BadSignature => Trap::IndirectCallMismatch,
        T::NullReference | T::IndirectCallToNull => Trap::NullReference,
        T::CannotEnterComponent => Trap::CannotEnter,
        _ => Trap::Other,
    }
}

/// The names of the functions that were under way, innermost first.
fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    let frames = backtrace.frames().iter().take(MAX_FRAMES);
    frames
        .map(|frame| {
            let mut name = match frame.func_name() {
                Some(name) if name.len() <= 4 * MAX_NAME => match try_demangle(name) {
                    Ok(readable) => beginning(&readable),
                    Err(_) => name.to_owned(),
                },
                Some(name) => name.chars().take(MAX_NAME).collect(),
                None => format!("<function {}>", frame.func_index()),
            };
            cut(&mut name, MAX_NAME);
            name
        })
        .collect()
}

/// As much as is told of a name that is made readable. Two hundred bytes can stand for a
/// megabyte, of which writing it takes 5 ms: so it is no longer written then.
fn beginning(readable: &Demangle<'_>) -> String {
    let mut short = Short(String::new());
    // An error is that it was enough.
    let _enough = write!(short, "{readable:#}");
    short.0
}

/// A text that takes no more than a name has.
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.push_str(part);
        if self.0.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_that_grows_as_it_is_read_only_the_beginning_is_written() {
        // Types within types, each with twice the next one: `B` and a number in base 62
        // say it again.
        let number = |n: usize| match "0123456789abcdefghijklmnopqrstuvwxyz".get(n - 1..n) {
            Some(digit) => format!("{digit}_"),
            None => panic!("{n}"),
        };
        let again = |level: usize| format!("B{}E", number(level + 1));
        let name = format!(
            "_RY{}u{}C1a",
            "T".repeat(30),
            (1..=30).rev().map(again).collect::<String>()
        );
        let readable = try_demangle(&name).unwrap();
        assert!(format!("{readable:#}").len() > 100_000);
        let beginning = beginning(&readable);
        assert!((MAX_NAME..2 * MAX_NAME).contains(&beginning.len()));
        assert!(format!("{readable:#}").starts_with(&beginning));
    }

    #[test]
    fn a_message_is_shortened() {
        for (length, told) in [(MAX_MESSAGE, MAX_MESSAGE), (5000, MAX_MESSAGE)] {
            let error = wasmtime::Error::msg("x".repeat(length));
            let End::Trapped { message, .. } = of(&error, Phase::Running, None) else {
                panic!("{error}")
            };
            assert_eq!(message, "x".repeat(told));
            let End::StartFailed { message, .. } =
                start_failed(ErrorCode::Capacity, "x".repeat(length))
            else {
                panic!("{error}")
            };
            assert_eq!(message.len(), told);
        }
    }
}
