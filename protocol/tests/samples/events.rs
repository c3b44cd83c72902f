//! Events.

use serde_bytes::ByteBuf;
use skep_protocol::event::{HostEvent, Preview, ProgressEvent, StatusEvent};
use skep_protocol::{AgentState, Usage};

use super::parts::{agent, line, outcomes, piece, receipt, usage, waits_for_next_run};
use super::{Sample, dashed, event, replies};

pub(super) fn all() -> Vec<Sample> {
    let agent = agent();
    let time_ms = 1_760_000_000_000;
    let running = StatusEvent {
        agent,
        generation: 1,
        state: AgentState::Running,
        outcome: None,
        restart: None,
        receipt: None,
        usage: Usage::default(),
        last_seq: None,
        time_ms,
    };
    let waits = StatusEvent {
        generation: 5,
        state: AgentState::Starting,
        restart: Some(waits_for_next_run()),
        usage: Usage {
            restarts: 1,
            ..usage()
        },
        last_seq: Some(2),
        ..running.clone()
    };
    let stage = ProgressEvent {
        agent,
        stage: "reading".to_owned(),
        step: None,
        total: None,
        fraction: None,
        eta_ms: None,
        note: None,
        preview: None,
        time_ms,
    };
    let progress = ProgressEvent {
        step: Some(3),
        total: Some(4),
        fraction: Some(0.75),
        eta_ms: Some(1_500),
        note: Some("page 3".to_owned()),
        preview: Some(Preview {
            mime: "image/png".to_owned(),
            data: ByteBuf::from(vec![0x89]),
        }),
        ..stage.clone()
    };
    let host = HostEvent {
        server_id: "b7e23ec2-9af1-4c11-a1a4-2f6d8c9e0a11".to_owned(),
        uptime_ms: 5_000,
        agents: replies::counts(),
        time_ms,
    };
    let mut samples = vec![
        event("log", "log.<agent>.stdout", line()),
        event("log-partial", "log.<agent>.stderr", piece()),
        event("progress", "progress.<agent>", stage),
        event("progress-full", "progress.<agent>", progress),
        event("host", "host.<server-id>", host),
        event("status-running", "status.<agent>", running.clone()),
        event("status-waits", "status.<agent>", waits),
    ];
    samples.extend(outcomes().into_iter().map(|outcome| {
        let name = format!("status-exited-{}", dashed(outcome.kind()));
        let status = StatusEvent {
            generation: 2,
            state: AgentState::Exited,
            receipt: Some(Box::new(receipt(outcome.clone()))),
            outcome: Some(outcome),
            usage: usage(),
            last_seq: Some(300),
            ..running.clone()
        };
        event(&name, "status.<agent>", status)
    }));
    samples
}
