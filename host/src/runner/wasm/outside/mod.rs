//! Checking and compiling in processes of their own. What a stranger's
//! component does to a parser or a compiler (spin, hoard, overflow, crash) it
//! does to a process that has nothing, is held to limits of its own, and whose
//! end is that component's refusal.
//!
//! - `job`: what is said
//! - `child` and `confine`: the process
//! - `process`: the host's end of it
//!
//! Of what comes back, facts and refusals are a stranger's word and bounded.
//! The code is run: it is as good as this compiler, so the process bounds what
//! compiling takes and what a crash does, not what a compiler's bug makes of
//! the code.
//!
//! Costs: a process, some 5 ms; the host's thread waits.

mod child;
mod confine;
mod job;
mod process;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use bytes::Bytes;
use nix::libc;
use skep_protocol::ErrorCode;

pub(crate) use self::child::compile_main;

pub(super) use self::job::{decode, encode};

use self::job::{Job, MAGIC, MAX_MESSAGE, Reply, Task};
use self::process::{Bounds, Ended, Said};
use super::inspect::Facts;
use super::refusal::Refusal;
use super::{WasmConfig, refusal};
use crate::helper::COMPILE_ARG;

/// The stack of each thread that compiles: deep enough for whatever cranelift
/// does with deeply nested code; only what is touched is resident.
const STACK: usize = 16 * 1024 * 1024;

/// The largest compiled form: some three times that of the largest interpreters
/// that people ship. Each compiling worker may hold one on its way.
const MAX_CODE: usize = 128 * 1024 * 1024;

/// How much longer it may take by the clock than of the processor: the host may
/// be busy, and guests go before those that take long.
const CLOCK_FACTOR: u32 = 4;

/// One that by then has not computed for this part of its time was kept from it,
/// and is not the one that takes long.
const STARVED: u32 = 2;

/// How much lower than control such a process goes: as low as guests, and those
/// that take long lower still.
const LOWER: i32 = 5;
const LOWER_STILL: i32 = 10;

/// How components are checked and compiled.
#[derive(Debug)]
pub(super) struct Outside {
    helper: PathBuf,
    time: Duration,
    memory_bytes: u64,
    threads: u64,
    engine: u64,
    /// Whether many agents run, to whom no component may be a nuisance.
    shared: bool,
}

/// Why nothing came of it.
#[derive(Debug)]
pub(super) enum Error {
    /// The component's fault.
    Refused(Refusal),
    /// It took longer than it was given, and may be given more.
    OutOfTime(Refusal),
    /// Ours; the log has it under this name.
    Fault {
        incident: String,
    },
    Unwanted,
}

/// How much time a component is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// What almost all need.
    Quick,
    /// All that the operator allows.
    Whole,
}

/// Ten times what an ordinary component takes.
const QUICK: Duration = Duration::from_secs(1);

impl Outside {
    pub(super) fn new(config: &WasmConfig, engine: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            helper: config.helper.clone(),
            time: config.compile_time,
            memory_bytes: config.compile_memory_bytes,
            // A host of strangers gives a stranger's component one core, and
            // one that runs a single agent gives it all there are.
            threads: if config.pooling { 1 } else { cores as u64 },
            engine,
            shared: config.pooling,
        }
    }

    /// What a component is.
    pub(super) fn check(
        &self,
        component: &[u8],
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Facts, Error> {
        match self.ask(Task::Check, component, Patience::Whole, unwanted)? {
            (Reply::Checked(facts), _) => Ok(facts),
            (reply, _) => Err(self.failure(reply)),
        }
    }

    /// What a component is, and its compiled form.
    pub(super) fn compile(
        &self,
        component: &[u8],
        patience: Patience,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<(Facts, Bytes), Error> {
        match self.ask(Task::Compile, component, patience, unwanted)? {
            (Reply::Compiled(facts), code) => Ok((facts, code)),
            (reply, _) => Err(self.failure(reply)),
        }
    }

    fn ask(
        &self,
        task: Task,
        component: &[u8],
        patience: Patience,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<(Reply, Bytes), Error> {
        let time = match patience {
            Patience::Quick => self.time.min(QUICK),
            Patience::Whole => self.time,
        };
        let job = Job {
            task,
            host: std::process::id().cast_signed(),
            engine: self.engine,
            cpu_seconds: time.as_secs() + u64::from(time.subsec_nanos() > 0),
            memory_bytes: self.memory_bytes,
            threads: self.threads,
            lower: match (self.shared, task, patience) {
                (false, ..) => 0,
                (true, Task::Compile, Patience::Whole) => LOWER_STILL,
                (true, ..) => LOWER,
            },
        };
        let job = job::encode(&job).ok_or_else(|| fault("a job for a compiler is too long"))?;
        let mut command = Command::new(&self.helper);
        command
            .arg(COMPILE_ARG)
            .env_clear()
            // Of the compiler's own threads.
            .env("RUST_MIN_STACK", STACK.to_string())
            .current_dir("/");
        let bounds = Bounds {
            time: time * CLOCK_FACTOR,
            output: match task {
                Task::Check => 2 * MAX_MESSAGE,
                Task::Compile => MAX_CODE,
            },
            unwanted,
        };
        let said = process::run(&mut command, job.chain(component), &bounds)
            .map_err(|error| self.not_run(&error))?;
        self.understand(said).map_err(|error| match error {
            Error::OutOfTime(refusal) if time == self.time => Error::Refused(refusal),
            error => error,
        })
    }

    fn not_run(&self, error: &std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
                Error::Refused(busy("the host has no room for another process: try again"))
            }
            _ => fault(&format!(
                "the helper {} cannot be run to compile a component: {error}",
                self.helper.display()
            )),
        }
    }

    fn understand(&self, said: Said) -> Result<(Reply, Bytes), Error> {
        let status = match said.ended {
            Ended::Itself(status) => status,
            Ended::Unwanted => return Err(Error::Unwanted),
            Ended::TooMuch => {
                return Err(Error::Refused(Refusal::compiling(
                    "code",
                    format!(
                        "its compiled form is larger than the {MAX_CODE} bytes that a host takes"
                    ),
                )));
            }
            Ended::Late(used) if used < self.time / STARVED => {
                return Err(Error::OutOfTime(busy(
                    "the machine is too busy to check or compile it in time: try again",
                )));
            }
            Ended::Late(_) => {
                return Err(Error::OutOfTime(Refusal::compiling(
                    "compile_ms",
                    format!(
                        "to check or compile it takes longer than {} ms by the clock, for the host's \
                     compile_ms is {}",
                        (self.time * CLOCK_FACTOR).as_millis(),
                        self.time.as_millis()
                    ),
                )));
            }
        };
        let output = Bytes::from(said.output);
        if status.success()
            && let Some(message) = output.strip_prefix(MAGIC)
            && let Some((reply, code)) = decode(message)
        {
            let code = output.slice_ref(code);
            return Ok((reply, code));
        }
        let words = String::from_utf8_lossy(&said.words);
        Err(if status.signal() == Some(libc::SIGXCPU) {
            Error::OutOfTime(Refusal::compiling(
                "compile_ms",
                format!(
                    "to check or compile it takes more processor time than the host's compile_ms, {}",
                    self.time.as_millis()
                ),
            ))
        } else if words.contains("memory allocation of") {
            Error::Refused(out_of_memory(self.memory_bytes))
        } else if words.contains("overflowed its stack") || status.signal() == Some(libc::SIGSEGV) {
            Error::Refused(Refusal::compiling(
                "stack",
                format!(
                    "to compile it takes more than the compiler's stack of {STACK} bytes: it is nested \
                 too deeply"
                ),
            ))
        } else if matches!(status.signal(), Some(libc::SIGKILL | libc::SIGTERM)) {
            // Its own limits end it otherwise: the system had no memory left, or
            // somebody did it.
            Error::Refused(busy(
                "the process that checked or compiled it was killed, as by a machine that has no \
                 memory left: try again",
            ))
        } else {
            self.strange(status, words.into_owned())
        })
    }

    /// An end that no component should bring about.
    fn strange(&self, status: ExitStatus, mut words: String) -> Error {
        refusal::cut(&mut words, 512);
        fault(&format!(
            "the helper {} did not answer as a helper of this build does, but ended ({status}), \
             saying {words:?}: server.helper must name the `skep` of this host",
            self.helper.display()
        ))
    }

    fn failure(&self, reply: Reply) -> Error {
        match reply {
            Reply::Refused(refusal) => Error::Refused(refusal),
            Reply::Failed(cause) => fault(&format!(
                "the helper {} failed at a component: {cause}",
                self.helper.display()
            )),
            Reply::Checked(_) | Reply::Compiled(_) => {
                fault("a helper answered what it was not asked")
            }
        }
    }
}

fn out_of_memory(most: u64) -> Refusal {
    Refusal::compiling(
        "compile_memory_bytes",
        format!(
            "to check or compile it takes more memory than the host's compile_memory_bytes, {most}"
        ),
    )
}

/// Nobody's fault, and soon over.
fn busy(message: &str) -> Refusal {
    Refusal::of(ErrorCode::Capacity, message)
}

fn fault(cause: &str) -> Error {
    Error::Fault {
        incident: crate::incident(cause),
    }
}
