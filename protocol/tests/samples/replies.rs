//! Replies that grant.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use skep_protocol::op::{
    AgentCounts, AgentFile, AgentFiles, AgentForget, AgentGet, AgentKill, AgentList, AgentOutput,
    AgentPage, AgentReply, AgentSpawn, AgentStdin, AgentStop, AgentSubscribe, AgentWait,
    CheckReply, ComponentCheck, ComponentInfo, ComponentList, ComponentNeeds, ComponentPage,
    ComponentPut, ComponentRemove, ComponentStat, ComponentSummary, Done, DrainReply, FileChunk,
    FileInfo, FileKind, FilesPage, GcReply, Health, HealthCode, HealthReason, HostDrain, HostGc,
    HostHealth, HostHello, HostInfo, HostStats, ImportInfo, ImportStatus, Kept, OutputReply,
    PutReply, SeqRange, Stats, StdinReply, SubscribeReply, TransportCounts, WaitReply,
};
use skep_protocol::{AgentInfo, AgentState, ErrorCode, Limits, Outcome, RunnerKind, WireError};

use super::parts::{agent, digest, exited, gave_up, line, piece, queued, running, starting};
use super::{Sample, reply};

pub(super) fn all() -> Vec<Sample> {
    [host(), components(), agents()]
        .into_iter()
        .flatten()
        .collect()
}

pub(super) fn counts() -> AgentCounts {
    AgentCounts {
        queued: 0,
        starting: 1,
        running: 12,
        paused: 0,
        stopping: 2,
    }
}

fn host() -> Vec<Sample> {
    let info = HostInfo {
        server_id: "b7e23ec2-9af1-4c11-a1a4-2f6d8c9e0a11".to_owned(),
        version: "0.1.0".to_owned(),
        protocol: 1,
        control: "tcp://127.0.0.1:5555".to_owned(),
        events: Some("tcp://127.0.0.1:5556".to_owned()),
        runners: vec![RunnerKind::Wasm, RunnerKind::Native],
        ceilings: Limits::default(),
        defaults: Limits::default(),
        features: vec!["example".to_owned()],
    };
    let health = Health {
        healthy: false,
        uptime_ms: 86_400_000,
        protocol: 1,
        agents: counts(),
        reasons: vec![
            HealthReason {
                code: HealthCode::ShuttingDown,
                message: "the host is shutting down".to_owned(),
            },
            HealthReason {
                code: HealthCode::DiskLow,
                message: "the disk has 1000 bytes left".to_owned(),
            },
        ],
    };
    let of = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs
            .iter()
            .map(|(key, count)| ((*key).to_owned(), *count))
            .collect()
    };
    let stats = Stats {
        requests: BTreeMap::from([
            ("-".to_owned(), of(&[("malformed", 3)])),
            (
                "agent.spawn".to_owned(),
                of(&[("capacity", 2), ("ok", 1_000)]),
            ),
        ]),
        spawns: 1_000,
        outcomes: of(&[("exited", 980), ("killed", 8)]),
        transport: TransportCounts {
            messages_in: 5_000,
            messages_out: 5_000,
            bytes_in: 10_485_760,
            bytes_out: 5_000_000_000,
            events: 70_000,
            events_dropped: 1,
            peers_cut: 0,
        },
        records: 68_000,
        compile_hits: 990,
        compile_misses: 10,
        kept: Some(Kept {
            ended_agents: 988,
            max_ended_agents: 10_000,
            oldest_ended_ms: Some(1_763_000_000_000),
            max_ended_age_ms: 604_800_000,
            history_bytes: 20_971_520,
            max_history_bytes: 1_073_741_824,
            files_bytes: 65_536,
            max_files_bytes: 1_073_741_824,
            components: 3,
            components_used: 1,
            component_bytes: 210_000,
            component_bytes_used: 70_000,
            max_component_bytes: 1_073_741_824,
            store_bytes: 4_194_304,
        }),
    };
    let gone = GcReply {
        agents: 900,
        bytes: 18_874_368,
        components: 2,
        component_bytes: 140_000,
    };
    let without_events = HostInfo {
        events: None,
        features: Vec::new(),
        ..info.clone()
    };
    vec![
        reply::<HostHello>("", info),
        reply::<HostHello>("-without-events", without_events),
        reply::<HostHealth>("", health),
        reply::<HostStats>("", stats),
        reply::<HostDrain>("", DrainReply { remaining: 2 }),
        reply::<HostGc>("", gone),
    ]
}

fn components() -> Vec<Sample> {
    let digest = digest();
    let info = ComponentInfo {
        digest,
        size: 70_000,
        compiled: true,
        kind: "command".to_owned(),
        imports: vec![
            "wasi:cli/stdout@0.2.0".to_owned(),
            "acme:db/query@1.0.0".to_owned(),
        ],
        missing: vec!["acme:db/query@1.0.0".to_owned()],
    };
    let import = |name: &str, status, grant: Option<&str>| ImportInfo {
        name: name.to_owned(),
        status,
        grant: grant.map(str::to_owned),
    };
    let stdout = import("wasi:cli/stdout@0.2.0", ImportStatus::Provided, None);
    let runs = CheckReply {
        kind: "command".to_owned(),
        imports: vec![stdout.clone()],
        runnable: true,
        needs: ComponentNeeds {
            memory_bytes: 1_114_112,
            instances: 3,
            tables: 2,
        },
        refusal: None,
    };
    let lacks = CheckReply {
        imports: vec![
            import("acme:db/query@1.0.0", ImportStatus::Unknown, None),
            import(
                "wasi:http/types@0.2.0",
                ImportStatus::NeedsGrant,
                Some("http"),
            ),
            stdout,
        ],
        runnable: false,
        refusal: Some(WireError::new(
            ErrorCode::MissingImport,
            "it imports acme:db/query@1.0.0, which this host does not provide",
        )),
        ..runs.clone()
    };
    let components = vec![ComponentSummary {
        digest,
        size: 70_000,
        compiled: false,
    }];
    vec![
        reply::<ComponentPut>(
            "",
            PutReply {
                received: 65_536,
                complete: false,
            },
        ),
        reply::<ComponentStat>("", info),
        reply::<ComponentCheck>("", runs),
        reply::<ComponentCheck>("-refused", lacks),
        reply::<ComponentList>(
            "",
            ComponentPage {
                components,
                next: Some(digest),
            },
        ),
        reply::<ComponentRemove>("", Done {}),
    ]
}

fn agents() -> Vec<Sample> {
    let one = |agent| AgentReply { agent };
    let ended = |outcome| AgentInfo {
        state: AgentState::Exited,
        outcome: Some(outcome),
        exited_ms: Some(1_760_000_000_500),
        ..running()
    };
    let output = OutputReply {
        records: vec![line(), piece()],
        next_seq: 301,
        end: true,
        expired: Some(SeqRange {
            from_seq: 1,
            to_seq: 299,
        }),
    };
    let nothing = OutputReply {
        records: Vec::new(),
        next_seq: 0,
        end: false,
        expired: None,
    };
    let entry = |path: &str, size, kind| FileInfo {
        path: path.to_owned(),
        size,
        kind,
        modified_ms: 1_760_000_000_500,
    };
    let files = FilesPage {
        files: vec![
            entry("out/a.txt", 7, FileKind::File),
            entry("out/b", 4_096, FileKind::Dir),
            entry("out/c", 11, FileKind::Link),
            entry("out/\u{fffd}", 0, FileKind::Other),
        ],
        next: Some("out/\u{fffd}".to_owned()),
    };
    let chunk = FileChunk {
        data: ByteBuf::from(vec![0, 0xff]),
        size: 262_146,
        eof: true,
    };
    let agent = agent();
    let topics = SubscribeReply {
        events: Some("tcp://127.0.0.1:5556".to_owned()),
        topics: vec![
            format!("log.{agent}.stdout"),
            format!("log.{agent}.stderr"),
            format!("status.{agent}"),
            format!("progress.{agent}"),
        ],
        next_seq: 3,
    };
    vec![
        reply::<AgentSpawn>("", one(starting())),
        reply::<AgentSpawn>("-queued", one(queued())),
        reply::<AgentList>(
            "",
            AgentPage {
                agents: vec![starting()],
                next: Some(agent),
            },
        ),
        reply::<AgentGet>("", one(exited())),
        reply::<AgentGet>("-native", one(running())),
        reply::<AgentGet>("-gave-up", one(gave_up())),
        reply::<AgentStop>("", one(ended(Outcome::Stopped { forced: false }))),
        reply::<AgentKill>("", one(ended(Outcome::Killed))),
        reply::<AgentWait>(
            "",
            WaitReply {
                agent: running(),
                timed_out: true,
            },
        ),
        reply::<AgentStdin>("", StdinReply { accepted: 7 }),
        reply::<AgentOutput>("", output),
        reply::<AgentOutput>("-empty", nothing),
        reply::<AgentFiles>("", files),
        reply::<AgentFile>("", chunk),
        reply::<AgentSubscribe>("", topics),
        reply::<AgentForget>("", Done {}),
    ]
}
