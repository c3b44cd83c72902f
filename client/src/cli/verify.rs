//! `skep verify` and `skep inspect --receipt`: a receipt against the bytes that
//! it speaks of.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};
use skep_client::Client;
use skep_client::protocol::event::Stream;
use skep_client::protocol::receipt::{CanonicalSpec, StreamHash, StreamReceipt};
use skep_client::protocol::{self, AgentInfo, AgentSpec, Digest, ErrorCode, Receipt};

use super::args::VerifyArgs;
use super::failure::Failure;
use super::{Context, Outcome, agent, connect, exit, print, text};

/// What came of comparing one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Verified,
    Differs,
    /// What it would be compared with is gone.
    Expired,
    /// What it would be compared with is on a host that does not answer.
    NotCompared,
}

#[derive(Debug, Serialize)]
struct Check {
    part: &'static str,
    verdict: Verdict,
    detail: String,
}

impl Check {
    fn of(part: &'static str, same: bool, detail: impl Into<String>) -> Self {
        Self {
            part,
            verdict: if same {
                Verdict::Verified
            } else {
                Verdict::Differs
            },
            detail: detail.into(),
        }
    }

    fn expired(part: &'static str, detail: impl Into<String>) -> Self {
        Self {
            part,
            verdict: Verdict::Expired,
            detail: detail.into(),
        }
    }

    fn not_compared(part: &'static str, detail: impl Into<String>) -> Self {
        Self {
            part,
            verdict: Verdict::NotCompared,
            detail: detail.into(),
        }
    }
}

/// `skep verify RECEIPT.json|AGENT`
pub(super) async fn verify(context: &Context, args: &VerifyArgs) -> Outcome {
    let file = Path::new(&args.what);
    let mut checks = Vec::new();
    let (receipt, host) = if file.is_file() {
        let (receipt, written) = parse(file)?;
        let endpoint = context.endpoint()?;
        let host = match connect(endpoint.clone()).await {
            Ok(client) => {
                checks.push(against_record(&client, &receipt, &written).await?);
                Some(client)
            }
            // Of the streams it is not needed then.
            Err(_) if args.stdout.is_some() && args.stderr.is_some() => {
                checks.push(Check::not_compared(
                    "record",
                    format!("no host answers at {endpoint}: whoever changed it is not found out"),
                ));
                None
            }
            Err(failure) => return Err(failure),
        };
        (receipt, host)
    } else {
        let client = context.client().await?;
        let agent = agent::find(&client, &args.what).await?;
        (receipt_of(client.get(agent).await?)?, Some(client))
    };
    checks.extend(against_files(&receipt, args)?);
    if let Some(client) = &host {
        checks.extend(against_history(client, &receipt, args).await?);
    }
    tell(context, &checks)
}

/// The receipt of an agent that has ended.
pub(super) fn receipt_of(agent: AgentInfo) -> Result<Receipt, Failure> {
    agent.receipt.ok_or_else(|| {
        Failure::of_skep(match agent.outcome {
            None => {
                "the agent has not ended, and a receipt is written at the end: `skep wait` waits \
                 for it"
            }
            Some(protocol::Outcome::HostLost) => {
                "the host was killed while the agent ran, and nobody saw all that it printed: \
                 there is no receipt of it"
            }
            Some(_) => "the host failed to keep a receipt of this agent: its log says why",
        })
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::of_file(path, &error))
}

/// The receipt in a file, and all that is written there: also what no receipt has.
fn parse(file: &Path) -> Result<(Receipt, Map<String, Value>), Failure> {
    let bytes = read(file)?;
    let parsed = serde_json::from_slice(&bytes)
        .and_then(|receipt| Ok((receipt, serde_json::from_slice(&bytes)?)));
    parsed.map_err(|error| Failure::of_skep(format!("{} is no receipt: {error}", file.display())))
}

/// What the host itself says of that run. It has every member, the digest of the
/// spec among them; one that is missing in the file, or is there in addition, was
/// changed as much as another.
async fn against_record(
    client: &Client,
    receipt: &Receipt,
    written: &Map<String, Value>,
) -> Result<Check, Failure> {
    const WITH: &str = "the host's own receipt of this run";
    let agent = match client.get(receipt.agent).await {
        Ok(agent) => agent,
        Err(error) if error.code() == Some(ErrorCode::NotFound) => {
            let detail = "the host has forgotten the agent, or never had it";
            return Ok(Check::expired("record", detail));
        }
        Err(error) => return Err(error.into()),
    };
    let own = match agent.receipt.map(serde_json::to_value) {
        Some(Ok(Value::Object(own))) => own,
        _ => return Ok(Check::of("record", false, "the host has no receipt of it")),
    };
    let names: BTreeSet<&String> = own.keys().chain(written.keys()).collect();
    let differing: Vec<&str> = (names.into_iter())
        .filter(|name| own.get(*name) != written.get(*name))
        .map(String::as_str)
        .collect();
    let detail = match differing.is_empty() {
        true => WITH.to_owned(),
        false => format!("{WITH}, which has another {}", differing.join(", ")),
    };
    Ok(Check::of("record", differing.is_empty(), detail))
}

/// What the person brings.
fn against_files(receipt: &Receipt, args: &VerifyArgs) -> Result<Vec<Check>, Failure> {
    let mut checks = Vec::new();
    if let Some(path) = &args.spec {
        let spec: AgentSpec = serde_json::from_slice(&read(path)?)
            .map_err(|error| Failure::of_skep(format!("{} is no spec: {error}", path.display())))?;
        let form = CanonicalSpec::of(&spec).map_err(|error| {
            Failure::of_skep(format!("{} has no canonical form: {error}", path.display()))
        })?;
        let same = form.digest() == receipt.spec_digest;
        checks.push(Check::of("spec", same, path.display().to_string()));
    }
    if let Some(path) = &args.component {
        let same = Some(Digest::of(&read(path)?)) == receipt.component;
        checks.push(Check::of("component", same, path.display().to_string()));
    }
    for (part, path, expected) in [
        ("stdout", &args.stdout, receipt.stdout),
        ("stderr", &args.stderr, receipt.stderr),
    ] {
        if let Some(path) = path {
            let mut hash = StreamHash::default();
            hash.update(&read(path)?);
            let same = hash.finish() == expected;
            checks.push(Check::of(part, same, path.display().to_string()));
        }
    }
    Ok(checks)
}

/// What the host still has of the output.
async fn against_history(
    client: &Client,
    receipt: &Receipt,
    args: &VerifyArgs,
) -> Result<Vec<Check>, Failure> {
    let wanted = [
        ("stdout", args.stdout.is_none(), receipt.stdout),
        ("stderr", args.stderr.is_none(), receipt.stderr),
    ];
    let history = history(client, receipt).await?;
    let mut checks = Vec::new();
    for (index, (part, wanted, expected)) in wanted.into_iter().enumerate() {
        if !wanted {
            continue;
        }
        checks.push(match &history {
            None => Check::expired(part, "the host has forgotten the agent, or never had it"),
            Some((found, lost)) => {
                let found = found.get(index);
                let same = found == Some(&expected);
                let bytes = text::count(expected.bytes);
                match (same, lost) {
                    (false, true) => Check::expired(
                        part,
                        format!("the host no longer has all of the {bytes} bytes"),
                    ),
                    (same, _) => Check::of(part, same, format!("{bytes} bytes, on the host")),
                }
            }
        });
    }
    Ok(checks)
}

/// What the host has of both streams of that run, and whether some of it may be
/// gone. Nothing if it has no such agent.
async fn history(
    client: &Client,
    receipt: &Receipt,
) -> Result<Option<([StreamReceipt; 2], bool)>, Failure> {
    let mut hashes = Stream::ALL.map(|_| StreamHash::default());
    let mut lost = false;
    let mut from = 0;
    loop {
        let reply = match client
            .output(receipt.agent, None, from, Some(1 << 20))
            .await
        {
            Err(error) if error.code() == Some(ErrorCode::NotFound) => return Ok(None),
            reply => reply?,
        };
        // What is gone before a record of an earlier run was of earlier ones too.
        let first = reply.records.first();
        lost |= reply.expired.is_some() && first.is_none_or(|first| first.run >= receipt.run);
        for record in &reply.records {
            let mut streams = Stream::ALL.iter().zip(&mut hashes);
            if record.run == receipt.run
                && let Some((_, hash)) = streams.find(|(stream, _)| **stream == record.stream)
            {
                hash.update(&record.data);
                hash.update(if record.partial { b"" } else { b"\n" });
            }
        }
        if reply.end || reply.next_seq <= from {
            return Ok(Some((hashes.map(StreamHash::finish), lost)));
        }
        from = reply.next_seq;
    }
}

/// Says what came of it; the worst is the exit code.
fn tell(context: &Context, checks: &[Check]) -> Outcome {
    let any = |verdict| checks.iter().any(|check| check.verdict == verdict);
    let code = if any(Verdict::Differs) {
        exit::NO
    } else if any(Verdict::Expired) || any(Verdict::NotCompared) {
        exit::UNSURE
    } else {
        0
    };
    if context.json {
        print::json(&serde_json::json!({ "verified": code == 0, "checks": checks }))?;
        return Ok(code);
    }
    let mut table = print::table(["PART", "VERDICT", "COMPARED WITH"]);
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Verified => "verified",
            Verdict::Differs => "differs",
            Verdict::Expired => "expired",
            Verdict::NotCompared => "not compared",
        };
        table.add_row([check.part, verdict, &text::clean(&check.detail)]);
    }
    print::print_table(table)?;
    Ok(code)
}
