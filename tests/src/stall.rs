//! A thread of a host that stands still in the middle of what it does, as one does
//! whose disk does not answer.

use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// As long as it lives, the thread stands still.
#[derive(Debug)]
pub struct Stall {
    until: Option<mpsc::Sender<()>>,
    holding: Option<JoinHandle<()>>,
}

impl Stall {
    /// Stops the thread of this name. None where this process may not do so.
    ///
    /// # Panics
    /// If there is no such thread.
    #[must_use]
    pub fn of(pid: u32, thread: &str) -> Option<Self> {
        let thread = find(pid, thread);
        let (until, released) = mpsc::channel();
        let (told, is_held) = mpsc::channel();
        // Of those of one process, only the thread that has stopped another can let
        // it go on.
        let holding = std::thread::spawn(move || {
            let held = hold(thread);
            let is_held = held.is_ok();
            told.send(held).expect("who waits for it");
            if is_held {
                // Until the sender is dropped.
                let _ = released.recv();
                // It may have been killed meanwhile.
                let _ = ptrace::detach(thread, None);
            }
        });
        is_held.recv().expect("what became of it").ok()?;
        Some(Self {
            until: Some(until),
            holding: Some(holding),
        })
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        drop(self.until.take());
        if let Some(holding) = self.holding.take() {
            let _ = holding.join();
        }
    }
}

fn hold(thread: Pid) -> nix::Result<()> {
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL)).map(drop)
}

fn find(pid: u32, name: &str) -> Pid {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let found = threads.flatten().find(|thread| {
        let its_name = std::fs::read_to_string(thread.path().join("comm"));
        its_name.is_ok_and(|its_name| its_name.trim_end() == name)
    });
    let found = found.and_then(|thread| thread.file_name().to_str()?.parse().ok());
    Pid::from_raw(found.unwrap_or_else(|| panic!("no thread {name}")))
}
