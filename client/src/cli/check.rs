//! `skep check`: what a component imports and needs, and whether it would run.

use std::path::Path;

use skep_client::protocol::op::{CheckReply, ComponentCheck, ImportInfo, ImportStatus};
use skep_client::protocol::spec::Grants;
use skep_client::protocol::{Digest, LimitsAsk, WireError};
use skep_client::{Client, ClientError};

use super::args::CheckArgs;
use super::embedded::Embedded;
use super::failure::{Failure, advice};
use super::{Context, Outcome, components, connect, exit, logging, print, spec, text};

/// What is known of a component that the host does not even take.
#[derive(Debug, serde::Serialize)]
struct Refused {
    runnable: bool,
    imports: Vec<ImportInfo>,
    refusal: WireError,
}

pub(super) async fn check(context: &Context, args: CheckArgs) -> Outcome {
    logging::quiet()?;
    match context.named_host()? {
        Some(endpoint) => {
            let client = connect(endpoint).await?;
            check_on(&client, context, args).await
        }
        None => {
            let (embedded, client) = Embedded::start(&args.embedded)?;
            let outcome = check_on(&client, context, args).await;
            embedded.end().await;
            outcome
        }
    }
}

async fn check_on(client: &Client, context: &Context, args: CheckArgs) -> Outcome {
    let limits = spec::named_limits(&args.limit).map_err(Failure::of_skep)?;
    let digest = match digest_of(client, &args.file).await? {
        Ok(digest) => digest,
        Err(refusal) => return tell_refused(context, refusal),
    };
    let asked = ComponentCheck {
        digest,
        grants: Some(Grants {
            dirs: args.dir,
            scratch: args.scratch,
            ..Grants::default()
        }),
        limits: Some(LimitsAsk {
            memory_bytes: args.memory.or(limits.memory_bytes),
            ..limits
        }),
    };
    let reply = client.check_component(&asked).await;
    let reply = reply.map_err(|error| components::of_digest(digest, error))?;
    match reply.refusal {
        // It was taken as any bytes are, and is no component of any kind.
        Some(refusal) if reply.kind == "blob" => tell_refused(context, refusal),
        _ => tell(context, &reply),
    }
}

/// The component on the host; the inner error is why the host does not take it.
async fn digest_of(client: &Client, file: &str) -> Result<Result<Digest, WireError>, Failure> {
    let path = Path::new(file);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return match file.parse() {
                Ok(digest) => Ok(Ok(digest)),
                Err(_) => Err(Failure::of_program(path, &error)),
            };
        }
    };
    match client.upload(&bytes).await {
        Ok(digest) => Ok(Ok(digest)),
        Err(ClientError::Refused(refusal)) if exit::is_of_component(&refusal) => Ok(Err(*refusal)),
        Err(error) => Err(error.into()),
    }
}

fn tell(context: &Context, reply: &CheckReply) -> Outcome {
    if context.json {
        print::json(reply)?;
    } else {
        let needs = &reply.needs;
        tell_imports(&reply.imports)?;
        print::line(&format!(
            "a {}; to start it needs {} of memory ({} bytes), {} instances and {} tables",
            text::clean(&reply.kind),
            text::size(needs.memory_bytes),
            text::count(needs.memory_bytes),
            text::count(needs.instances),
            text::count(needs.tables),
        ))?;
        tell_verdict(reply.refusal.as_ref())?;
    }
    Ok(if reply.runnable { 0 } else { exit::CANNOT_RUN })
}

fn tell_refused(context: &Context, refusal: WireError) -> Outcome {
    let lacks = refusal.details.imports.iter().flatten();
    let imports: Vec<_> = lacks
        .map(|name| ImportInfo {
            name: name.clone(),
            status: ImportStatus::Unknown,
            grant: None,
        })
        .collect();
    if context.json {
        print::json(&Refused {
            runnable: false,
            imports,
            refusal,
        })?;
    } else {
        tell_imports(&imports)?;
        tell_verdict(Some(&refusal))?;
    }
    Ok(exit::CANNOT_RUN)
}

fn tell_imports(imports: &[ImportInfo]) -> Outcome {
    if imports.is_empty() {
        return Ok(0);
    }
    let mut table = print::table(["IMPORT", "STATUS", "REMARK"]);
    for import in imports {
        let status = match import.status {
            ImportStatus::Provided => "provided",
            ImportStatus::NeedsGrant => "needs grant",
            ImportStatus::Unknown => "unknown",
        };
        table.add_row([text::clean(&import.name), status.to_owned(), remark(import)]);
    }
    print::print_table(table)
}

/// What a name and a status do not say themselves.
fn remark(import: &ImportInfo) -> String {
    let interface = import.name.split(['@', '#']).next().unwrap_or_default();
    match (import.status, interface) {
        (ImportStatus::Unknown, _) => "no host of this build has it: build without it".to_owned(),
        (ImportStatus::NeedsGrant, _) => {
            let grant = import.grant.as_deref().unwrap_or_default();
            format!("grant it {}", text::clean(grant))
        }
        (ImportStatus::Provided, "wasi:filesystem/preopens") => {
            "finds what --dir and --scratch grant".to_owned()
        }
        (ImportStatus::Provided, name) if name.starts_with("wasi:sockets/") => {
            "refused at each call: agents have no network".to_owned()
        }
        (ImportStatus::Provided, _) => String::new(),
    }
}

fn tell_verdict(refusal: Option<&WireError>) -> Outcome {
    let Some(refusal) = refusal else {
        return print::line("it runs here");
    };
    let mut line = format!("it does not run here: {}", text::clean(&refusal.message));
    if let Some(advice) = advice(refusal) {
        line.push_str(": ");
        line.push_str(advice);
    }
    print::line(&format!("{line} ({})", refusal.code))
}
