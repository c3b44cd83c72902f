use std::sync::Mutex;

use skep_protocol::spec::OnFuelExhausted;
use skep_protocol::{
    AgentId, AgentName, AgentSpec, Digest, Enforced, Enforcement, Limits, Outcome, RunnerKind,
    Usage,
};
use skep_transport::local;
use tokio::sync::watch;

use super::super::handle::{Agent, COMMANDS, Handle, Status};
use super::super::meter::UsageMeter;
use super::super::spec::shown;
use super::*;
use crate::log::{Budget, Logs, RecordCount, Recorder};
use crate::registry::StateCounts;
use crate::runner::{DiskUse, GUEST_EVENTS, GuestControl, GuestUsage, Program, Task};
use crate::stdio::{output, stdin};
use crate::store::Store;

/// Writes a line, and neither ends nor lets go of its output, whatever is asked.
#[derive(Debug, Default)]
struct Stubborn(Mutex<Vec<(Pipes, mpsc::Sender<GuestEvent>)>>);

impl Runner for Stubborn {
    fn enforced(&self) -> Enforced {
        enforced()
    }

    fn start(&self, _: Launch, pipes: Pipes) -> Guest {
        let (sender, events) = mpsc::channel(GUEST_EVENTS);
        sender.try_send(GuestEvent::Running).unwrap();
        pipes.stdout.write(b"still here\n");
        self.0.lock().unwrap().push((pipes, sender));
        Guest {
            events,
            progress: watch::channel(None).1,
            stand: watch::channel(Stand::Goes).1,
            control: Arc::new(Deaf),
        }
    }
}

struct Deaf;

impl GuestControl for Deaf {
    fn pause(&self) -> Able {
        Able::No
    }
    fn resume(&self) {}
    fn refuel(&self, _: u64) -> Able {
        Able::No
    }
    fn ask_stop(&self) -> Asked {
        Asked::Deaf
    }
    fn kill(&self) {}
    fn usage(&self) -> GuestUsage {
        GuestUsage::default()
    }
}

fn enforced() -> Enforced {
    Enforced {
        memory: Enforcement::None,
        cpu: Enforcement::None,
        wall: Enforcement::None,
        files: Enforcement::None,
        network: Enforcement::None,
        pause: Enforcement::None,
    }
}

fn launch(id: AgentId) -> Launch {
    Launch {
        id,
        name: "stubborn".to_owned(),
        program: Program::Command(Vec::new()),
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        task: Arc::new(Task::default()),
        limits: Limits::default(),
        on_fuel_exhausted: OnFuelExhausted::Exit,
        dirs: Vec::new(),
        disk: DiskUse::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_survives_its_kill_is_a_fault_though_it_keeps_its_output() {
    let id = AgentId::random();
    let history = Logs::in_memory(Budget::new(u64::MAX)).create(id, u64::MAX);
    let history = Arc::new(history);
    let name = AgentName::from_lossy("stubborn");
    let agent = Arc::new(Agent {
        id,
        name: name.clone(),
        runner: RunnerKind::Native,
        created_ms: 0,
        spec: shown(&AgentSpec::named(name)),
        limits: Limits::default(),
        enforced: enforced(),
        history: Arc::clone(&history),
        stdin: None,
        stdin_given: 0,
        meter: UsageMeter::from(Usage::default()),
        standing: None,
    });
    let (status, reader) = watch::channel(Status {
        state: AgentState::Starting,
        paused_reason: None,
        generation: 0,
        fuel: 0,
        started_ms: None,
        begun: false,
        exited_ms: None,
        outcome: None,
        asked_to_end: false,
        restart: None,
        failed_ms: Vec::new(),
        receipt: None,
    });
    let (orders, commands) = mpsc::channel(COMMANDS);
    let (wire, _connection) = local();
    let mut driver = Driver {
        publication: Arc::new(Publication {
            agent: Arc::clone(&agent),
            spec_digest: Digest::of(b""),
            status,
            publisher: wire.publisher.clone(),
            counts: Arc::new(StateCounts::default()),
        }),
        commands,
        shutdown: CancellationToken::new(),
        shutdown_grace: Duration::ZERO,
        store: Store::absent(),
    };
    let handle = Handle::new(agent, reader, orders.clone());

    let (stdout, stderr, output) = output();
    let unthrottle = CancellationToken::new();
    let recorder = Recorder {
        agent: id,
        run: 0,
        may_run_again: false,
        history,
        publisher: wire.publisher,
        bytes_per_s: u64::MAX,
        count: RecordCount::default(),
        ended: unthrottle.clone(),
    };
    let recording = Recording {
        cut: output.cut(),
        recorder: tokio::spawn(recorder.run(output)),
        unthrottle,
    };
    let pipes = Pipes {
        stdin: stdin(0, bytes::Bytes::new()).1,
        stdout,
        stderr,
    };
    let runner = Stubborn::default();
    orders.try_send(Command::Kill).unwrap();
    let run = driver.run(&runner, launch(id), pipes, recording);
    let RunEnd { ending, asked_by } = tokio::time::timeout(KILL_PATIENCE * 10, run).await.unwrap();
    assert!(matches!(ending.outcome, Outcome::HostFault { .. }));
    assert_eq!(asked_by, Some(Asker::Client));
    // What it wrote before is there, and what it writes now is nobody's.
    assert_eq!(ending.written.unwrap().stdout.bytes, 11);
    let (pipes, _) = &runner.0.lock().unwrap()[0];
    assert_eq!(pipes.stdout.write(&vec![0; 1 << 20]), 1 << 20);
    drop(handle);
}
