//! Payloads that were requests once: each has one answer, none a panic, and the
//! host does not grow.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use skep_client::Client;
use skep_client::protocol::op::{AgentOutput, AgentSpawn, Operation};
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentId, AgentSpec, ErrorCode, RequestId};
use skep_protocol::codec::encode_request;
use zeromq::DealerSocket;

use super::{LEFT_BEHIND, Report, mib};
use crate::fuzz::{golden, mutated};
use crate::guests::{guest, probe, spec};
use crate::process::HostProcess;
use crate::raw::{Raw, new_id, request};
use crate::resources::resident;

/// So many are sent before their answers are read.
const AT_ONCE: usize = 200;
/// After so many there is a new agent to be spoken of.
const OF_ONE_AGENT: usize = 5000;
/// What a host may remember of answers: 64 MiB. Until it does, it grows.
const UNTIL_FULL: usize = 4;

/// What came of payloads.
#[derive(Debug, Default)]
pub struct Bombarded {
    /// How many were sent.
    pub sent: u64,
    /// How many were answered, by the code of the refusal.
    pub answers: BTreeMap<String, u64>,
    /// What was resident after a quarter of them, in bytes.
    pub before: u64,
    /// And at the end.
    pub after: u64,
}

impl Bombarded {
    /// How many were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// How many were answered with an incident.
    #[must_use]
    pub fn incidents(&self) -> usize {
        let incidents = self.answers.get("internal").copied().unwrap_or_default();
        usize::try_from(incidents).unwrap_or(usize::MAX)
    }
}

/// Sends so many payloads to a host of its own.
pub async fn payloads(host: PathBuf, count: usize, seed: u64) -> Report {
    let host = HostProcess::start_from(host, &HOST).await;
    let seen = bombard(&host, count, seed).await;
    let mut report = Report::new("payloads", seed);
    report.fact("sent", seen.sent.to_string());
    for (code, answers) in &seen.answers {
        let code = if code.is_empty() { "granted" } else { code };
        report.fact(&format!("answered: {code}"), answers.to_string());
    }
    let missing = seen.sent.saturating_sub(seen.answered());
    report.none(
        "without an answer",
        usize::try_from(missing).unwrap_or(usize::MAX),
    );
    report.none("answered with an incident", seen.incidents());
    report.none("panics in the host's log", host.panics().len());
    report.fact("resident after a quarter", mib(seen.before));
    let growth = seen.after.saturating_sub(seen.before);
    report.at_most("growth from there on", growth, LEFT_BEHIND);
    report
}

/// How such a host is started: what it remembers of agents must not be what
/// grows, nor fill its answers.
const HOST: [&str; 2] = ["--set", "capacity.max_ended=50"];

/// Sends so many mutated payloads and reads every answer.
///
/// # Panics
/// If the host does not answer.
pub async fn bombard(host: &HostProcess, count: usize, seed: u64) -> Bombarded {
    let mut random = fastrand::Rng::with_seed(seed);
    let client = host.client();
    client.upload(&guest("hello")).await.expect("an upload");
    let mut raw = Raw::connect(&host.control()).await;
    let mut seen = Bombarded::default();
    let (mut corpus, mut agents) = (Vec::new(), Vec::new());
    for number in 0..count {
        if number % OF_ONE_AGENT == 0 {
            end_all(&client, &mut agents).await;
            corpus = requests(&client, &mut agents).await;
        }
        let mut payload = mutated(&mut random, &corpus);
        renew_id(&mut payload);
        if payload.is_empty() {
            // That would be no payload at all.
            payload.push(0);
        }
        raw.send(payload).await;
        seen.sent += 1;
        if (number + 1) % AT_ONCE == 0 {
            read(&mut raw, &mut seen.answers).await;
        }
        if number == count / UNTIL_FULL {
            seen.before = resident(host.pid());
        }
    }
    // Those that wait for an end have their answer now.
    end_all(&client, &mut agents).await;
    for agent in client
        .list_all(&skep_client::AgentFilter::default())
        .await
        .expect("a list")
    {
        match client.kill(agent.id).await {
            // The end of another may have made the host forget one that had ended.
            Err(error) if error.code() == Some(ErrorCode::NotFound) => {}
            killed => drop(killed.expect("a kill")),
        }
    }
    read(&mut raw, &mut seen.answers).await;
    while seen.answered() < seen.sent {
        *seen
            .answers
            .entry(raw.answer().await.code().to_owned())
            .or_default() += 1;
    }
    seen.after = resident(host.pid());
    seen
}

/// Reads all answers up to one that is known to be the last of those that do
/// not wait for anything.
async fn read(raw: &mut Raw<DealerSocket>, answers: &mut BTreeMap<String, u64>) {
    let last = new_id();
    raw.send(request(&last, "host.hello", json!({}))).await;
    loop {
        let answer = raw.answer().await;
        if answer.id() == last {
            return;
        }
        *answers.entry(answer.code().to_owned()).or_default() += 1;
    }
}

async fn end_all(client: &Client, agents: &mut Vec<AgentId>) {
    for agent in agents.drain(..) {
        // A payload may have made the host forget it.
        let _ = client.kill(agent).await;
    }
}

/// Every request, of agents that nobody knows and of one that is there.
async fn requests(client: &Client, agents: &mut Vec<AgentId>) -> Vec<Vec<u8>> {
    let sleeper = probe(&["sleep", "600000"]);
    let agent = client.spawn(sleeper, None).await.expect("a spawn").id;
    agents.push(agent);
    let mut hello = spec("hello", &["you"]);
    hello.component = Some(ComponentRef::Digest(skep_protocol::Digest::of(&guest(
        "hello",
    ))));
    let of = |op: &str, mut body: Value| {
        if let Some(fields) = body.as_object_mut() {
            fields.insert("agent".to_owned(), json!(agent));
        }
        request(&new_id(), op, body)
    };
    let mut corpus = golden("request-");
    // After that one, no spawn would be taken any more.
    const LAST: &[u8] = b"host.drain";
    corpus.retain(|payload| !payload.windows(LAST.len()).any(|bytes| bytes == LAST));
    corpus.extend([
        written(&AgentSpawn {
            spec: hello.clone(),
            when_full: None,
        }),
        written(&AgentSpawn {
            spec: rich(hello),
            when_full: None,
        }),
        written(&AgentOutput {
            agent,
            streams: None,
            from_seq: Some(0),
            max_bytes: Some(100),
        }),
        of("agent.get", json!({})),
        of("agent.wait", json!({"timeout_ms": 10})),
        of("agent.stop", json!({"grace_ms": 10})),
        of("agent.kill", json!({})),
        of("agent.stdin", json!({"close": true})),
        of("agent.subscribe", json!({})),
        of("agent.forget", json!({})),
    ]);
    corpus
}

fn rich(mut spec: AgentSpec) -> AgentSpec {
    spec.labels = [("a".to_owned(), "b".to_owned())].into();
    spec.env = [("A".to_owned(), "b".to_owned())].into();
    spec.task = "say hello".to_owned();
    spec.limits.fuel = Some(1_000_000_000);
    spec.limits.wall_ms = Some(60_000);
    spec.grants.scratch = true;
    spec
}

fn written<O: Operation>(body: &O) -> Vec<u8> {
    encode_request(RequestId::random(), body).expect("a request")
}

/// Gives it an id that nothing has borne, so that it is not answered from
/// memory.
fn renew_id(payload: &mut [u8]) {
    const KEY: &[u8] = b"\xa2id\xd9\x24";
    let key = payload.windows(KEY.len()).position(|bytes| bytes == KEY);
    let id = key.and_then(|at| payload.get_mut(at + KEY.len()..at + KEY.len() + 36));
    if let Some(id) = id {
        id.copy_from_slice(new_id().as_bytes());
    }
}
