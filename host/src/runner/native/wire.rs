//! What a host and its shim say to each other. Pure.
//!
//! The host sends one byte with the program's three descriptors, then the
//! [`Instruction`], then a byte for each command; the shim answers with
//! [`Report`]s, all of one size. Both ends are the same build of Skep.

use std::ffi::{CString, NulError};

/// The byte that carries the three descriptors.
pub(super) const DESCRIPTORS: u8 = b'D';
/// SIGTERM for the program's process group.
pub(super) const TERMINATE: u8 = b'T';
/// The end of the whole tree.
pub(super) const KILL: u8 = b'K';

/// More than any kernel takes at once for arguments and environment, and what
/// keeps a shim that is called by hand from allocating whatever it is told.
pub(super) const MAX_INSTRUCTION: usize = 16 * 1024 * 1024;

/// What to execute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) program: CString,
    pub(super) cwd: CString,
    pub(super) argv: Vec<CString>,
    /// `NAME=value`, each.
    pub(super) env: Vec<CString>,
}

impl Instruction {
    pub(super) fn new(
        program: impl Into<Vec<u8>>,
        cwd: impl Into<Vec<u8>>,
        argv: impl IntoIterator<Item = String>,
        env: impl IntoIterator<Item = String>,
    ) -> Result<Self, NulError> {
        Ok(Self {
            program: CString::new(program)?,
            cwd: CString::new(cwd)?,
            argv: argv
                .into_iter()
                .map(CString::new)
                .collect::<Result<_, _>>()?,
            env: env
                .into_iter()
                .map(CString::new)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The length of what follows, the number of arguments, and all strings
    /// with their NUL; `None` where it is too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let argc = u32::try_from(self.argv.len()).ok()?;
        let mut body = argc.to_le_bytes().to_vec();
        for text in [&self.program, &self.cwd]
            .into_iter()
            .chain(&self.argv)
            .chain(&self.env)
        {
            body.extend_from_slice(text.as_bytes_with_nul());
        }
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= MAX_INSTRUCTION)?;
        let mut frame = length.to_le_bytes().to_vec();
        frame.append(&mut body);
        Some(frame)
    }

    /// The reverse of [`Self::encode`], without the length.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (argc, strings) = body.split_first_chunk()?;
        let mut strings = strings.split_inclusive(|byte| *byte == 0).map(|text| {
            let text = text.strip_suffix(&[0])?;
            CString::new(text).ok()
        });
        let program = strings.next()??;
        let cwd = strings.next()??;
        let argc = usize::try_from(u32::from_le_bytes(*argc)).ok()?;
        let argv: Vec<_> = strings.by_ref().take(argc).collect::<Option<_>>()?;
        let env = strings.collect::<Option<_>>()?;
        (argv.len() == argc).then_some(Self {
            program,
            cwd,
            argv,
            env,
        })
    }
}

/// How far a start came that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Making the process, and shutting it in.
    Prepare,
    /// Entering the working directory.
    Enter,
    /// Executing the program.
    Execute,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Exited(u8),
    Signaled(i32),
}

/// What a shim tells its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// There is a process for the program, whose number is that of its session
    /// too. Nothing of the agent has run.
    Made { pid: i32 },
    /// The program was executed.
    Started,
    /// It was not, and nothing is left of the attempt.
    NotStarted { step: Step, errno: i32 },
    /// It ended, and nothing of its tree is left. What all of it used is
    /// known now; the peak is that of the largest single process.
    Ended {
        status: Status,
        cpu_ms: u64,
        peak_bytes: u64,
    },
}

/// The size of every report.
pub(super) const REPORT: usize = 21;

impl Report {
    pub(super) fn encode(self) -> [u8; REPORT] {
        let (tag, value, cpu_ms, peak_bytes) = match self {
            Self::Made { pid } => (0, pid, 0, 0),
            Self::Started => (6, 0, 0, 0),
            Self::NotStarted {
                step: Step::Prepare,
                errno,
            } => (1, errno, 0, 0),
            Self::NotStarted {
                step: Step::Enter,
                errno,
            } => (2, errno, 0, 0),
            Self::NotStarted {
                step: Step::Execute,
                errno,
            } => (3, errno, 0, 0),
            Self::Ended {
                status: Status::Exited(code),
                cpu_ms,
                peak_bytes,
            } => (4, i32::from(code), cpu_ms, peak_bytes),
            Self::Ended {
                status: Status::Signaled(signal),
                cpu_ms,
                peak_bytes,
            } => (5, signal, cpu_ms, peak_bytes),
        };
        let [a, b, c, d] = i32::to_le_bytes(value);
        let [e, f, g, h, i, j, k, l] = u64::to_le_bytes(cpu_ms);
        let [m, n, o, p, q, r, s, t] = u64::to_le_bytes(peak_bytes);
        [
            tag, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t,
        ]
    }

    /// `None` for what no shim says.
    pub(super) fn decode(frame: [u8; REPORT]) -> Option<Self> {
        let [
            tag,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            q,
            r,
            s,
            t,
        ] = frame;
        let value = i32::from_le_bytes([a, b, c, d]);
        let cpu_ms = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
        let peak_bytes = u64::from_le_bytes([m, n, o, p, q, r, s, t]);
        let ended = |status| Self::Ended {
            status,
            cpu_ms,
            peak_bytes,
        };
        let not_started = |step| Self::NotStarted { step, errno: value };
        Some(match tag {
            0 => Self::Made { pid: value },
            1 => not_started(Step::Prepare),
            2 => not_started(Step::Enter),
            3 => not_started(Step::Execute),
            4 => ended(Status::Exited(u8::try_from(value).ok()?)),
            5 => ended(Status::Signaled(value)),
            6 => Self::Started,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_survive() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (argv, env) in [
            (
                strings(&["sh", "", "-c", "exit\n"]),
                strings(&["A=", "B=x=y"]),
            ),
            (strings(&[""]), strings(&[])),
        ] {
            let instruction = Instruction::new("/bin/sh", "/", argv, env).unwrap();
            let frame = instruction.encode().unwrap();
            assert_eq!(Instruction::decode(&frame[4..]), Some(instruction));
            for end in 4..frame.len() - 1 {
                assert_ne!(
                    Instruction::decode(&frame[4..end]),
                    Instruction::decode(&frame[4..])
                );
            }
        }
        assert!(Instruction::new("/bin/a\0b", "/", [], []).is_err());
    }

    #[test]
    fn reports_survive() {
        for report in [
            Report::Made { pid: 7 },
            Report::Started,
            Report::NotStarted {
                step: Step::Prepare,
                errno: 1,
            },
            Report::NotStarted {
                step: Step::Enter,
                errno: 2,
            },
            Report::NotStarted {
                step: Step::Execute,
                errno: 3,
            },
            Report::Ended {
                status: Status::Exited(255),
                cpu_ms: 1,
                peak_bytes: u64::MAX,
            },
            Report::Ended {
                status: Status::Signaled(34),
                cpu_ms: u64::MAX,
                peak_bytes: 0,
            },
        ] {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([9; REPORT]), None);
    }
}
