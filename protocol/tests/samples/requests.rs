//! Requests.

use serde_bytes::ByteBuf;
use skep_protocol::AgentState;
use skep_protocol::event::Stream;
use skep_protocol::op::{
    AgentFile, AgentFiles, AgentForget, AgentGet, AgentKill, AgentList, AgentOutput, AgentPause,
    AgentRefuel, AgentResume, AgentSpawn, AgentStdin, AgentStop, AgentSubscribe, AgentWait,
    ComponentCheck, ComponentList, ComponentPut, ComponentRemove, ComponentStat, HostDrain, HostGc,
    HostHealth, HostHello, HostStats, Request, WhenFull,
};

use super::parts::{agent, digest, full_spec, minimal_spec, native_spec, texts};
use super::{Sample, request};

pub(super) fn all() -> Vec<Sample> {
    let agent = agent();
    let digest = digest();
    let spawn = |variant, spec, when_full| {
        request(variant, AgentSpawn { spec, when_full }, Request::AgentSpawn)
    };
    let list = AgentList {
        states: Some(AgentState::ALL.to_vec()),
        name: Some("log-errors".parse().unwrap()),
        labels: texts([("team", "night")]),
        limit: Some(1000),
        after: Some(agent),
    };
    let any = AgentList {
        states: None,
        name: None,
        labels: texts([]),
        limit: None,
        after: None,
    };
    let output = AgentOutput {
        agent,
        streams: Some(Stream::ALL.to_vec()),
        from_seq: Some(300),
        max_bytes: Some(1_048_576),
    };
    let whole_output = AgentOutput {
        agent,
        streams: None,
        from_seq: None,
        max_bytes: None,
    };
    let stdin = AgentStdin {
        agent,
        data: Some(ByteBuf::from(b"a line\n".to_vec())),
        close: false,
    };
    let close = AgentStdin {
        agent,
        data: None,
        close: true,
    };
    let files = AgentFiles {
        agent,
        path: None,
        after: None,
        limit: None,
    };
    let more_files = AgentFiles {
        agent,
        path: Some("out".to_owned()),
        after: Some("out/a.txt".to_owned()),
        limit: Some(1_000),
    };
    let file = AgentFile {
        agent,
        path: "out/b.bin".to_owned(),
        offset: 262_144,
        max_bytes: Some(1_048_576),
    };
    let put = ComponentPut {
        digest,
        size: 70_000,
        offset: 65_536,
        data: ByteBuf::from(vec![0, 0xff]),
    };
    let check = ComponentCheck {
        digest,
        grants: None,
        limits: None,
    };
    let full_check = ComponentCheck {
        digest,
        grants: Some(full_spec().grants),
        limits: Some(full_spec().limits),
    };
    let gc = HostGc {
        older_than_ms: None,
        components: false,
        dry_run: false,
    };
    let full_gc = HostGc {
        older_than_ms: Some(3_600_000),
        components: true,
        dry_run: true,
    };
    let page = ComponentList {
        limit: Some(100),
        after: Some(digest),
    };
    vec![
        request("", HostHello {}, Request::HostHello),
        request("", HostHealth {}, Request::HostHealth),
        request("", HostStats {}, Request::HostStats),
        request(
            "",
            HostDrain {
                timeout_ms: Some(30_000),
            },
            Request::HostDrain,
        ),
        request("", gc, Request::HostGc),
        request("-full", full_gc, Request::HostGc),
        request("", put, Request::ComponentPut),
        request("", ComponentStat { digest }, Request::ComponentStat),
        request("", check, Request::ComponentCheck),
        request("-full", full_check, Request::ComponentCheck),
        request("", page, Request::ComponentList),
        request("", ComponentRemove { digest }, Request::ComponentRemove),
        spawn("", minimal_spec(), None),
        spawn("-full", full_spec(), Some(WhenFull::Reject)),
        spawn("-native", native_spec(), Some(WhenFull::Queue)),
        request("", any, Request::AgentList),
        request("-full", list, Request::AgentList),
        request("", AgentGet { agent }, Request::AgentGet),
        request("", AgentPause { agent }, Request::AgentPause),
        request("", AgentResume { agent }, Request::AgentResume),
        request(
            "",
            AgentRefuel {
                agent,
                fuel: 5_000_000_000,
            },
            Request::AgentRefuel,
        ),
        request(
            "",
            AgentStop {
                agent,
                grace_ms: None,
            },
            Request::AgentStop,
        ),
        request(
            "-full",
            AgentStop {
                agent,
                grace_ms: Some(250),
            },
            Request::AgentStop,
        ),
        request("", AgentKill { agent }, Request::AgentKill),
        request(
            "",
            AgentWait {
                agent,
                timeout_ms: 30_000,
            },
            Request::AgentWait,
        ),
        request("", stdin, Request::AgentStdin),
        request("-close", close, Request::AgentStdin),
        request("", whole_output, Request::AgentOutput),
        request("-full", output, Request::AgentOutput),
        request("", files, Request::AgentFiles),
        request("-full", more_files, Request::AgentFiles),
        request("", file, Request::AgentFile),
        request(
            "",
            AgentSubscribe {
                agent,
                streams: None,
            },
            Request::AgentSubscribe,
        ),
        request(
            "-full",
            AgentSubscribe {
                agent,
                streams: Some(vec![Stream::Stderr]),
            },
            Request::AgentSubscribe,
        ),
        request("", AgentForget { agent }, Request::AgentForget),
    ]
}
