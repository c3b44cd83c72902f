//! Against real processes. The shim is the example `helper`, which
//! `cargo test` builds. Processes are found by a mark in their environment.

#![expect(
    clippy::print_stdout,
    reason = "what the machine grants decides what a test asserts"
)]

mod calls;
mod contract;
mod hidden;
mod hostile;
mod jail;
mod pause;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_protocol::event::Stream;
use skep_protocol::info::PausedReason;
use skep_protocol::{AgentId, Enforced, Limits};
use tokio::time::timeout;

use super::jailer::Jailer;
use super::layers::Layers;
use super::{NativeConfig, NativeRunner, Wanted};
use crate::helper::tests::binary;
use crate::runner::{Able, DiskUse, End, Guest, GuestEvent, Launch, Pipes, Program, Runner, Stand};
use crate::stdio::{OutputReader, StdinWriter, output, stdin};

/// Ten times and more what anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Ten times what a kill may take.
const KILL_DEADLINE: Duration = Duration::from_secs(1);

fn runner() -> NativeRunner {
    NativeRunner::new(NativeConfig {
        shim: binary(),
        programs: Vec::new(),
        user: None,
        private: Vec::new(),
    })
    .unwrap()
}

/// Runners that hold trees by a cgroup, by signals to a pid namespace, and by
/// signals to what `/proc` shows, without namespaces: as many of these as the
/// machine has.
async fn runners() -> Vec<(&'static str, NativeRunner)> {
    let mut ways = vec![("the best there is", runner())];
    for (way, namespaces) in [("a pid namespace", true), ("signals", false)] {
        let runner = runner();
        let jailer = Jailer::probe(&binary(), runner.setup.account)
            .await
            .unwrap();
        let layers = Layers {
            namespaces: namespaces && jailer.layers().namespaces,
            view: namespaces && jailer.layers().view,
            ..jailer.layers()
        };
        if layers.namespaces == namespaces {
            runner.setup.jailer.set(jailer.with(layers)).unwrap();
            ways.push((way, runner));
        }
    }
    ways
}

/// An agent, and a driver's ends of it.
struct Agent {
    guest: Guest,
    stdin: Option<StdinWriter>,
    output: OutputReader,
    mark: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// A launch, and what a driver keeps of it.
fn launch(command: &[&str]) -> (Launch, Pipes, StdinWriter, OutputReader) {
    let (writer, reader) = stdin(1024 * 1024, bytes::Bytes::new());
    let (stdout, stderr, output) = output();
    let launch = Launch {
        id: AgentId::random(),
        name: "agent".into(),
        program: Program::Command(command.iter().map(ToString::to_string).collect()),
        args: Vec::new(),
        env: BTreeMap::new(),
        task: Arc::default(),
        limits: Limits::default(),
        on_fuel_exhausted: skep_protocol::spec::OnFuelExhausted::Exit,
        dirs: Vec::new(),
        disk: DiskUse::default(),
    };
    let pipes = Pipes {
        stdin: reader,
        stdout,
        stderr,
    };
    (launch, pipes, writer, output)
}

fn start_with(command: &[&str], change: impl FnOnce(&mut Launch)) -> Agent {
    start_under(&runner(), command, change)
}

fn start_under(runner: &NativeRunner, command: &[&str], change: impl FnOnce(&mut Launch)) -> Agent {
    let (mut launch, pipes, stdin, output) = launch(command);
    let mark = format!("MARK={}", uuid::Uuid::new_v4().simple());
    let (name, value) = mark.split_once('=').unwrap();
    launch.env.insert(name.into(), value.into());
    launch.env.insert("PATH".into(), "/usr/bin:/bin".into());
    change(&mut launch);
    let guest = runner.start(launch, pipes);
    Agent {
        guest,
        stdin: Some(stdin),
        output,
        mark,
        stdout: Vec::new(),
        stderr: Vec::new(),
    }
}

fn start(command: &[&str]) -> Agent {
    start_with(command, |_| {})
}

fn sh(script: &str) -> Agent {
    start(&["sh", "-c", script])
}

fn perl(script: &str, change: impl FnOnce(&mut Launch)) -> Agent {
    start_with(&["perl", "-e", script], change)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

impl Agent {
    async fn event(&mut self) -> GuestEvent {
        timeout(DEADLINE, self.guest.events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn running(&mut self) {
        assert_eq!(self.event().await, GuestEvent::Running);
    }

    /// Reads on; says whether there was anything.
    async fn read(&mut self) -> bool {
        let Some(chunks) = timeout(DEADLINE, self.output.recv()).await.unwrap() else {
            return false;
        };
        for chunk in chunks {
            match chunk.stream {
                Stream::Stdout => self.stdout.extend(chunk.data),
                Stream::Stderr => self.stderr.extend(chunk.data),
            }
        }
        true
    }

    /// The lines of stdout, once there are so many.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        loop {
            let text = String::from_utf8_lossy(&self.stdout);
            let lines: Vec<_> = text
                .split_inclusive('\n')
                .map(|line| line.trim_end().into())
                .collect();
            if lines.len() >= count && text.ends_with('\n') {
                return lines;
            }
            if !self.read().await {
                panic!(
                    "ended: {:?}",
                    String::from_utf8_lossy(&[&self.stdout[..], &self.stderr].concat())
                );
            }
        }
    }

    /// Reads all output and gives the end, after which nothing is left.
    async fn end(&mut self) -> End {
        while self.read().await {}
        self.ended().await
    }

    /// The end, without reading any output.
    async fn ended(&mut self) -> End {
        let end = loop {
            if let GuestEvent::Ended(end) = self.event().await {
                break end;
            }
        };
        assert_eq!(
            marked(&self.mark),
            Vec::<i32>::new(),
            "nothing is left at the end"
        );
        assert_eq!(self.guest.events.recv().await, None);
        end
    }

    async fn paused(&mut self) {
        assert_eq!(self.guest.control.pause(), Able::Yes);
        let held = |stand: &Stand| *stand == Stand::Held(PausedReason::Asked);
        let wait = timeout(DEADLINE, self.guest.stand.wait_for(held));
        wait.await.unwrap().unwrap();
        // What was in the pipe.
        while let Ok(true) = timeout(Duration::from_millis(50), self.read()).await {}
        self.stdout.clear();
    }

    async fn kill(&mut self) {
        let begun = std::time::Instant::now();
        self.guest.control.kill();
        assert_eq!(self.ended().await, End::Killed);
        let took = begun.elapsed();
        assert!(took < KILL_DEADLINE, "{took:?}");
    }
}

/// The processes with this in their environment.
fn marked(mark: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    };
    pids().into_iter().filter(has).collect()
}

fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process's parent, as the host counts.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What holds on this machine.
async fn holds() -> Enforced {
    let runner = runner();
    runner.check(Wanted::default()).await.unwrap();
    runner.enforced()
}

fn exists(pid: &str) -> bool {
    std::path::Path::new("/proc").join(pid).exists()
}

/// Looks until it holds, for what nobody reports.
async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        assert!(std::time::Instant::now() < deadline);
        tick.tick().await;
    }
}

/// Waits until the host has looked so many times, if nothing holds it up.
async fn looks(count: usize) {
    let mut looks = tokio::time::interval(Duration::from_millis(250));
    for _ in 0..=count {
        looks.tick().await;
    }
}
