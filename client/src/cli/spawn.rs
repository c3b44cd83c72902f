//! `skep spawn`: starts an agent on a host and leaves it there.

use serde_bytes::ByteBuf;
use skep_client::Client;
use skep_client::protocol::op::WhenFull;
use skep_client::protocol::spec::{ComponentRef, Stdin};
use skep_client::protocol::{AgentInfo, AgentSpec};

use super::args::SpawnArgs;
use super::failure::Failure;
use super::spec::StdinSource;
use super::{Context, Outcome, components, print, queue, spec, stdin};

/// Files up to this size come with the spawn; larger ones are sent afterwards,
/// as the agent reads them.
const INLINE: usize = 256 * 1024;

pub(super) async fn spawn(context: &Context, args: SpawnArgs) -> Outcome {
    let client = context.client().await?;
    let (kind, source) = match &args.stdin {
        StdinSource::Closed => (Stdin::Closed, None),
        StdinSource::Open => (Stdin::Open, None),
        StdinSource::Own => (Stdin::Open, stdin::own_if_readable()?),
        StdinSource::File(path) => match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() <= INLINE as u64 => {
                let data =
                    std::fs::read(path).map_err(|error| Failure::of_file(path.as_ref(), &error))?;
                (Stdin::Data(ByteBuf::from(data)), None)
            }
            _ => (Stdin::Open, Some(stdin::file(path).await?)),
        },
    };
    let when_full = args.spec.when_full();
    let spec = spec::build(args.spec, args.program, kind, &client).await?;
    let agent = start(&client, spec, when_full).await?;
    queue::tell(&agent);
    if context.json {
        print::json(&agent)?;
    } else {
        print::line(&agent.id.to_string())?;
    }
    if let Some(source) = source {
        stdin::pump(&client, agent.id, source, true).await?;
    }
    Ok(0)
}

/// Starts an agent.
pub(super) async fn start(
    client: &Client,
    spec: AgentSpec,
    when_full: Option<WhenFull>,
) -> Result<AgentInfo, Failure> {
    let digest = match &spec.component {
        Some(ComponentRef::Digest(digest)) => Some(*digest),
        _ => None,
    };
    let started = client.spawn(spec, when_full).await;
    started.map_err(|error| match digest {
        Some(digest) => components::of_digest(digest, error),
        None => error.into(),
    })
}
