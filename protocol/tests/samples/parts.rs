//! What several messages are made of.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use skep_protocol::event::{LogRecord, Stream};
use skep_protocol::info::{GaveUp, QueueInfo, RestartInfo, SpecInfo, StdinKind};
use skep_protocol::receipt::{CanonicalSpec, Receipt, StreamHash};
use skep_protocol::spec::{
    ComponentRef, DirGrant, DirMode, Grants, OnFuelExhausted, Restart, RestartPolicy, Stdin,
};
use skep_protocol::{
    AgentId, AgentInfo, AgentSpec, AgentState, Digest, Enforced, Enforcement, Limits, LimitsAsk,
    Outcome, RunnerKind, Trap, Usage,
};

pub(super) fn agent() -> AgentId {
    "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d".parse().unwrap()
}

pub(super) fn digest() -> Digest {
    Digest::of(b"\0asm")
}

/// A map of texts.
pub(super) fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn minimal_spec() -> AgentSpec {
    AgentSpec {
        component: Some(ComponentRef::Digest(digest())),
        ..AgentSpec::named("hello".parse().unwrap())
    }
}

/// A spec with everything in it, also what this build does not support.
pub(super) fn full_spec() -> AgentSpec {
    AgentSpec {
        name: "log-errors".parse().unwrap(),
        runner: RunnerKind::Wasm,
        component: Some(ComponentRef::Data(ByteBuf::from(
            b"\0asm\x0d\0\x01\0".to_vec(),
        ))),
        command: Vec::new(),
        args: vec!["--level".to_owned(), "ä".to_owned()],
        env: texts([("LANG", "C"), ("TOKEN", "secret")]),
        task: "Find the errors".to_owned(),
        context: "The log is on stdin".to_owned(),
        system_prompt: "Be short".to_owned(),
        model: "small".to_owned(),
        labels: texts([("team", "night")]),
        stdin: Stdin::Data(ByteBuf::from(vec![0x00, 0xff, 0x0a])),
        inputs: [("data/in.csv".to_owned(), Digest::of(b"a,b\n"))].into(),
        limits: LimitsAsk {
            fuel: Some(5_000_000_000),
            wall_ms: Some(60_000),
            memory_bytes: Some(33_554_432),
            disk_bytes: Some(1),
            files: Some(2),
            paused_ms: Some(3),
            open_files: Some(4),
            processes: Some(5),
            ..LimitsAsk::default()
        },
        grants: grants(),
        on_fuel_exhausted: OnFuelExhausted::Pause,
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            max: Some(3),
            backoff_ms: Some(100),
            max_backoff_ms: Some(30_000),
        },
    }
}

pub(super) fn native_spec() -> AgentSpec {
    AgentSpec {
        runner: RunnerKind::Native,
        command: vec!["/bin/cat".to_owned(), "-".to_owned()],
        stdin: Stdin::Open,
        ..AgentSpec::named("cat".parse().unwrap())
    }
}

fn grants() -> Grants {
    Grants {
        dirs: vec![
            DirGrant {
                host: "/srv/in".to_owned(),
                guest: "/in".to_owned(),
                mode: DirMode::Ro,
            },
            DirGrant {
                host: "/srv/out".to_owned(),
                guest: "/out".to_owned(),
                mode: DirMode::Rw,
            },
        ],
        scratch: true,
        http: vec!["https://api.example.com".to_owned()],
        messages: vec!["other".to_owned()],
    }
}

/// An agent that waits for its turn.
pub(super) fn queued() -> AgentInfo {
    AgentInfo {
        state: AgentState::Queued,
        queue: Some(QueueInfo {
            position: 3,
            estimated_wait_ms: Some(4_500),
        }),
        ..starting()
    }
}

/// An agent that has just been spawned.
pub(super) fn starting() -> AgentInfo {
    AgentInfo {
        id: agent(),
        name: "hello".parse().unwrap(),
        runner: RunnerKind::Wasm,
        state: AgentState::Starting,
        paused_reason: None,
        generation: 0,
        created_ms: 1_760_000_000_000,
        started_ms: None,
        exited_ms: None,
        spec: SpecInfo {
            component: Some(digest()),
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            task: String::new(),
            context: String::new(),
            system_prompt: String::new(),
            model: String::new(),
            labels: BTreeMap::new(),
            stdin: StdinKind::Closed,
            inputs: BTreeMap::new(),
            grants: Grants::default(),
            on_fuel_exhausted: OnFuelExhausted::Exit,
            restart: Restart::default(),
        },
        limits: Limits::default(),
        usage: Usage::default(),
        enforced: Enforced::all(Enforcement::Enforced),
        outcome: None,
        receipt: None,
        queue: None,
        restart: None,
        next_seq: 0,
    }
}

/// What is told of an agent between two runs.
pub(super) fn waits_for_next_run() -> RestartInfo {
    RestartInfo {
        last_outcome: Outcome::Exited { code: 1 },
        failures: 2,
        next_run_ms: Some(1_760_000_002_000),
        gave_up: None,
    }
}

/// An agent that failed too often.
pub(super) fn gave_up() -> AgentInfo {
    AgentInfo {
        outcome: Some(Outcome::Exited { code: 1 }),
        restart: Some(RestartInfo {
            failures: 11,
            next_run_ms: None,
            gave_up: Some(GaveUp::CrashLoop),
            ..waits_for_next_run()
        }),
        usage: Usage {
            restarts: 10,
            ..usage()
        },
        ..exited()
    }
}

/// An agent of which everything is known.
pub(super) fn exited() -> AgentInfo {
    let spec = full_spec();
    AgentInfo {
        name: spec.name,
        state: AgentState::Exited,
        generation: 2,
        started_ms: Some(1_760_000_000_012),
        exited_ms: Some(1_760_000_001_234),
        spec: SpecInfo {
            component: Some(digest()),
            command: Vec::new(),
            args: spec.args,
            env: spec.env.into_keys().collect(),
            task: spec.task,
            context: spec.context,
            system_prompt: spec.system_prompt,
            model: spec.model,
            labels: spec.labels,
            stdin: StdinKind::Data,
            inputs: spec.inputs,
            grants: Grants {
                http: Vec::new(),
                messages: Vec::new(),
                ..spec.grants
            },
            on_fuel_exhausted: OnFuelExhausted::Exit,
            restart: Restart::default(),
        },
        usage: usage(),
        outcome: Some(Outcome::Exited { code: 7 }),
        receipt: Some(receipt(Outcome::Exited { code: 7 })),
        next_seq: 3,
        ..starting()
    }
}

/// The record of a run that ended so.
pub(super) fn receipt(outcome: Outcome) -> Receipt {
    let stream = |bytes: &[u8]| {
        let mut hash = StreamHash::default();
        hash.update(bytes);
        hash.finish()
    };
    Receipt {
        agent: agent(),
        run: 0,
        component: Some(digest()),
        command: Vec::new(),
        spec_digest: CanonicalSpec::of(&full_spec()).unwrap().digest(),
        limits: Limits::default(),
        fuel_used: 123_456_789,
        memory_peak_bytes: 2_097_152,
        created_ms: 1_760_000_000_000,
        started_ms: Some(1_760_000_000_012),
        exited_ms: 1_760_000_001_234,
        outcome,
        stdout: stream(b"hello\n"),
        stderr: stream(b""),
    }
}

/// A native agent that runs.
pub(super) fn running() -> AgentInfo {
    AgentInfo {
        name: "cat".parse().unwrap(),
        runner: RunnerKind::Native,
        state: AgentState::Running,
        generation: 1,
        started_ms: Some(1_760_000_000_003),
        spec: SpecInfo {
            component: None,
            command: native_spec().command,
            stdin: StdinKind::Open,
            ..starting().spec
        },
        enforced: Enforced {
            memory: Enforcement::BestEffort,
            files: Enforcement::None,
            ..starting().enforced
        },
        ..starting()
    }
}

pub(super) fn usage() -> Usage {
    Usage {
        fuel_used: 123_456_789,
        fuel_left: Some(4_876_543_211),
        memory_bytes: 1_114_112,
        memory_peak_bytes: 2_097_152,
        cpu_ms: 250,
        stdin_bytes: 3,
        stdout_bytes: 70_000,
        stderr_bytes: 12,
        disk_bytes: Some(512),
        restarts: 0,
    }
}

/// A whole line on stdout.
pub(super) fn line() -> LogRecord {
    LogRecord {
        agent: agent(),
        run: 0,
        seq: 0,
        stream: Stream::Stdout,
        time_ns: 1_760_000_000_000_000_001,
        data: ByteBuf::from(b"hello".to_vec()),
        partial: false,
    }
}

/// A piece of a line on stderr, which is no UTF-8.
pub(super) fn piece() -> LogRecord {
    LogRecord {
        seq: 300,
        stream: Stream::Stderr,
        data: ByteBuf::from(vec![0xff, 0x00, 0xc3]),
        partial: true,
        ..line()
    }
}

/// One outcome of each kind.
pub(super) fn outcomes() -> Vec<Outcome> {
    vec![
        Outcome::Exited { code: 0 },
        Outcome::Trapped {
            trap: Trap::MemoryOutOfBounds,
            message: "wasm trap: out of bounds memory access".to_owned(),
            backtrace: vec!["app::read".to_owned(), "_start".to_owned()],
        },
        Outcome::OutOfFuel {
            limit: 5_000_000_000,
        },
        Outcome::OutOfMemory {
            limit_bytes: 67_108_864,
            asked_bytes: 67_174_400,
        },
        Outcome::Deadline { limit_ms: 60_000 },
        Outcome::Stopped { forced: true },
        Outcome::Killed,
        Outcome::Signaled { signal: 11 },
        Outcome::StartFailed {
            code: skep_protocol::ErrorCode::CompileLimit,
            message: "compiling took longer than 30 s".to_owned(),
        },
        Outcome::HostLost,
        Outcome::HostFault {
            incident: "c0ffee".to_owned(),
        },
    ]
}
