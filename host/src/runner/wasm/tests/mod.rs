//! The runner with real guests: inline WAT, and the prebuilt ones.

mod compiling;
mod composed;
mod control;
mod files;
mod hostile;
mod instances;
mod io;
mod loading;
mod memory;
mod outcomes;
mod pausing;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use skep_protocol::event::Stream;
use skep_protocol::spec::OnFuelExhausted;
use skep_protocol::{AgentId, Digest, Limits, Trap};

use super::*;
use crate::runner::{DiskUse, End, GuestEvent, GuestUsage, Pipes, Task};
use crate::stdio::{OutputReader, StdinWriter, output, stdin};

/// Ten times and more what anything here takes, on a machine that is busy.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);

static RUNNER: LazyLock<WasmRunner> = LazyLock::new(|| {
    let config = WasmConfig {
        max_agents: 200,
        guest_threads: 2,
        ..WasmConfig::default()
    };
    WasmRunner::new(config).unwrap()
});

/// A runner of its own, which compiles one component at a time.
fn one_at_a_time() -> WasmRunner {
    let config = WasmConfig {
        max_agents: 4,
        compile_workers: 1,
        ..WasmConfig::default()
    };
    WasmRunner::new(config).unwrap()
}

pub(super) fn prebuilt(name: &str) -> Bytes {
    let path = format!(
        "{}/../examples/prebuilt/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(error) => panic!("{path}: {error}; build it with `cargo run -p skep-client -- build`"),
    }
}

pub(super) fn wat(text: &str) -> Bytes {
    wat::parse_str(text).unwrap().into()
}

/// A component whose `run` has this body, with more of the same core module.
pub(super) fn command(body: &str, module: &str) -> Bytes {
    wat(&format!(
        r#"(component
            (core module $m
                (func $run (export "run") (result i32) {body})
                {module})
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
}

/// A component that never gets to its `run`.
fn spins_at_start() -> Bytes {
    command("i32.const 0", "(func $s (loop $l br $l)) (start $s)")
}

/// Components that are small and take long to compile, or much; the slowest
/// first.
pub(super) fn bombs() -> Vec<(&'static str, Bytes)> {
    let nested = |open: &str, count: usize, body: &str, close: &str| {
        format!("{}{body}{}", open.repeat(count), close.repeat(count))
    };
    let locals = format!("(local {})", "i64 ".repeat(50_000));
    let busy: String = (0..4_000)
        .map(|n| {
            format!(
                "local.get {n} local.get {} i64.add local.set {} ",
                n + 1,
                n * 9
            )
        })
        .collect();
    let switch = |depth: usize| {
        let targets: String = (0..depth).map(|n| format!("{n} ")).collect();
        nested(
            "block ",
            depth,
            &format!("i32.const 0 br_table {targets}"),
            "end ",
        )
    };
    let functions: String = (0..100_000)
        .map(|n| format!("(func (result i32) i32.const {n})"))
        .collect();
    [
        (
            "loops that all carry all locals",
            format!(
                "(func (local {}) {})",
                "i64 ".repeat(300),
                nested(
                    "loop local.get 0 local.get 1 i64.add local.set 2 ",
                    3_000,
                    &(0..300)
                        .map(|n| format!("local.get {n} local.set {} ", (n + 1) % 300))
                        .collect::<String>(),
                    "i32.const 1 br_if 0 end ",
                )
            ),
        ),
        (
            "a function of 1 MB of ifs",
            format!(
                "(func (param i32) (local i32) {})",
                "local.get 0 if local.get 0 local.set 1 end ".repeat(80_000)
            ),
        ),
        (
            "a function of 7 MB",
            format!("(func {})", "i32.const 1 drop ".repeat(2_400_000)),
        ),
        ("50,000 locals", format!("(func {locals} {busy})")),
        (
            "a switch with 10,000 targets",
            format!("(func {})", switch(10_000)),
        ),
        (
            "blocks 60,000 deep",
            format!("(func {})", nested("block ", 60_000, "", "end ")),
        ),
        ("100,000 functions", functions),
    ]
    .into_iter()
    .map(|(name, module)| (name, command("i32.const 0", &module)))
    .collect()
}

/// What a test asks of a guest.
struct Ask {
    bytes: Bytes,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    task: Task,
    limits: Limits,
    on_fuel_exhausted: OnFuelExhausted,
    dirs: Vec<crate::runner::GrantedDir>,
    stdin: Vec<u8>,
}

fn ask(bytes: Bytes) -> Ask {
    Ask {
        bytes,
        args: Vec::new(),
        env: BTreeMap::new(),
        task: Task::default(),
        limits: Limits::default(),
        on_fuel_exhausted: OnFuelExhausted::Exit,
        dirs: Vec::new(),
        stdin: Vec::new(),
    }
}

fn probe(args: &[&str]) -> Ask {
    Ask {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ask(prebuilt("probe"))
    }
}

/// A guest under way, with everything that its driver has in hand.
struct Started {
    guest: Guest,
    output: OutputReader,
    stdin: StdinWriter,
}

/// A guest that has ended.
#[derive(Debug)]
struct Seen {
    end: End,
    ran: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    usage: GuestUsage,
}

impl Ask {
    fn start_on(self, runner: &WasmRunner) -> Started {
        let (stdout, stderr, output) = output();
        let (stdin_writer, stdin) = stdin(
            usize::try_from(self.limits.stdin_bytes).unwrap(),
            self.stdin.clone().into(),
        );
        let launch = Launch {
            id: AgentId::random(),
            name: "guest".to_owned(),
            program: Program::Component {
                digest: Digest::of(&self.bytes),
                // What is refused cannot be asked anything either.
                asks_control: super::inspect::describe(&self.bytes)
                    .is_ok_and(|facts| facts.asks_control),
                bytes: self.bytes,
            },
            args: self.args,
            env: self.env,
            task: Arc::new(self.task),
            limits: self.limits,
            on_fuel_exhausted: self.on_fuel_exhausted,
            dirs: self.dirs,
            disk: DiskUse::default(),
        };
        let pipes = Pipes {
            stdin,
            stdout,
            stderr,
        };
        let guest = runner.start(launch, pipes);
        Started {
            guest,
            output,
            stdin: stdin_writer,
        }
    }

    fn start(self) -> Started {
        self.start_on(&RUNNER)
    }

    async fn run(self) -> Seen {
        let started = self.start();
        started.stdin.close();
        started.ended().await
    }

    /// Runs it, and sees that the next guest runs as if nothing had happened.
    async fn end(self) -> End {
        let seen = self.run().await;
        still_runs().await;
        seen.end
    }
}

impl Started {
    /// Waits until it runs.
    async fn running(&mut self) {
        let event = tokio::time::timeout(DEADLINE, self.guest.events.recv())
            .await
            .unwrap();
        assert_eq!(event, Some(GuestEvent::Running));
    }

    /// Reads all of its output, and waits for its end.
    async fn ended(mut self) -> Seen {
        tokio::time::timeout(DEADLINE, async {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(chunks) = self.output.recv().await {
                for chunk in chunks {
                    match chunk.stream {
                        Stream::Stdout => stdout.extend(chunk.data),
                        Stream::Stderr => stderr.extend(chunk.data),
                    }
                }
            }
            let mut ran = false;
            loop {
                match self.guest.events.recv().await.unwrap() {
                    GuestEvent::Running => ran = true,
                    GuestEvent::Ended(end) => {
                        assert_eq!(self.guest.events.recv().await, None);
                        let usage = self.guest.control.usage();
                        return Seen {
                            end,
                            ran,
                            stdout,
                            stderr,
                            usage,
                        };
                    }
                }
            }
        })
        .await
        .unwrap()
    }
}

async fn still_runs() {
    let seen = ask(prebuilt("hello")).run().await;
    assert_eq!(seen.end, End::Exited(0));
    assert_eq!(seen.stdout, b"Hello, world!\n");
}

fn trap_of(end: &End) -> Trap {
    match end {
        End::Trapped { trap, .. } => *trap,
        other => panic!("{other:?}"),
    }
}
