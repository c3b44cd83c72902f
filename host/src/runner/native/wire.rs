//! What a host and its shim say to each other. Pure.
//!
//! The host sends one byte with the program's descriptors, then the
//! [`Order`], then a byte for each command; the shim answers with
//! [`Report`]s, all of one size. Both ends are the same build of Skep.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::layers::Layers;
use super::processors::Processors;
use super::reach::Reach;
use super::syscalls::{Others, Shared};

/// The byte that carries the descriptors: three for stdio, and maybe that of the
/// cgroup to enter.
pub(super) const DESCRIPTORS: u8 = b'D';
/// SIGTERM for the program's process group.
pub(super) const TERMINATE: u8 = b'T';
/// The end of the whole tree.
pub(super) const KILL: u8 = b'K';

/// Every process of the tree is to stand still.
pub(super) const PAUSE: u8 = b'P';
/// And to go on.
pub(super) const RESUME: u8 = b'R';

/// More than any kernel takes at once for arguments and environment, and what
/// keeps a shim that is called by hand from allocating whatever it is told.
pub(super) const MAX_ORDER: usize = 16 * 1024 * 1024;

/// What a shim is there for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// To find out which layers of a jail can be had.
    Probe { account: Option<Account> },
    /// To run a program.
    Run(Instruction),
}

/// What to execute, and within what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instruction {
    pub(super) program: CString,
    pub(super) cwd: CString,
    pub(super) argv: Vec<CString>,
    /// `NAME=value`, each.
    pub(super) env: Vec<CString>,
    pub(super) jail: Jail,
}

/// A path, as the kernel takes it.
pub(super) fn as_path(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// What shuts the program in: all of it, or it is not executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Jail {
    pub(super) layers: Layers,
    /// Whether it has a session of its own, and not only a group.
    pub(super) session: bool,
    /// Whether one processor is left to others.
    pub(super) spares: bool,
    /// The user that it becomes; `None` means the host's.
    pub(super) account: Option<Account>,
    /// The directories that it was granted.
    pub(super) reach: Vec<Reach>,
    /// The host's own directories, of which it sees nothing else, where it has a root
    /// directory of its own.
    pub(super) covered: Vec<CString>,
    pub(super) open_files: u64,
    /// Bytes of memory of each process, where no cgroup limits their sum.
    pub(super) data_bytes: Option<u64>,
    /// Processes and threads, where no cgroup limits them.
    pub(super) processes: Option<u64>,
}

impl Jail {
    /// Which one the agent leaves alone, if it does.
    pub(super) fn processors(&self) -> Option<Processors> {
        self.spares.then(Processors::split).flatten()
    }

    pub(super) fn shared(&self) -> Shared {
        if self.layers.namespaces && self.data_bytes.is_none() {
            Shared::Counted
        } else {
            Shared::Uncounted
        }
    }

    pub(super) fn others(&self) -> Others {
        if self.layers.namespaces {
            Others::Init
        } else {
            Others::All
        }
    }
}

impl Instruction {
    pub(super) fn program_path(&self) -> &Path {
        as_path(&self.program)
    }
}

impl Order {
    /// The length of what follows, and that; `None` where it is too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let body = rmp_serde::to_vec(self).ok()?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= MAX_ORDER)?;
        Some([&length.to_le_bytes()[..], &body].concat())
    }

    /// The reverse of [`Self::encode`], without the length.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(body).ok()
    }
}

/// How far a start came that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Making the process, and shutting it in.
    Prepare,
    /// Entering the working directory.
    Enter,
    /// Shutting it in as it was when the host found out how.
    Confine,
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
    /// Which layers can be had.
    Holds(Layers),
    /// The tree is within a pid namespace, whose first process this is.
    Enclosed { init: i32 },
    /// There is a process for the program. Its number, as its namespace counts, is
    /// that of its group too, and of its session where it has one. Nothing of the
    /// agent has run.
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
        let not_started = |step| match step {
            Step::Prepare => 1,
            Step::Enter => 2,
            Step::Execute => 3,
            Step::Confine => 7,
        };
        let (tag, value, cpu_ms, peak_bytes) = match self {
            Self::Made { pid } => (0, pid, 0, 0),
            Self::NotStarted { step, errno } => (not_started(step), errno, 0, 0),
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
            Self::Started => (6, 0, 0, 0),
            Self::Holds(layers) => (8, layers.to_bits(), 0, 0),
            Self::Enclosed { init } => (9, init, 0, 0),
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
            7 => not_started(Step::Confine),
            8 => Self::Holds(Layers::from_bits(value)),
            9 => Self::Enclosed { init: value },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive() {
        let c = |text: &str| CString::new(text).unwrap();
        let instruction = Instruction {
            program: c("/bin/sh"),
            cwd: CString::new(b"/\xFF").unwrap(),
            argv: vec![c("sh"), c(""), c("exit\n")],
            env: vec![c("A="), c("B=x=y")],
            jail: Jail {
                layers: Layers::ALL,
                session: true,
                spares: true,
                account: Some(Account { uid: 1, gid: 2 }),
                reach: vec![Reach {
                    path: CString::new(b"/srv/\xFF").unwrap(),
                    writable: true,
                }],
                covered: vec![c("/opt/state")],
                open_files: 3,
                data_bytes: None,
                processes: Some(u64::MAX),
            },
        };
        for order in [Order::Run(instruction), Order::Probe { account: None }] {
            let frame = order.encode().unwrap();
            for end in 4..frame.len() - 1 {
                assert_eq!(Order::decode(&frame[4..end]), None);
            }
            assert_eq!(Order::decode(&frame[4..]), Some(order));
        }
    }

    #[test]
    fn reports_survive() {
        for report in [
            Report::Made { pid: 7 },
            Report::Started,
            Report::Holds(Layers::ALL),
            Report::Enclosed { init: 7 },
            Report::NotStarted {
                step: Step::Confine,
                errno: 5,
            },
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
        assert_eq!(Report::decode([10; REPORT]), None);
    }
}
