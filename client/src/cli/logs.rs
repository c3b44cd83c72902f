//! `skep logs`: an agent's output, what is there or until it ends.

use skep_client::protocol::AgentId;
use skep_client::protocol::event::Stream;
use skep_client::{Client, FollowOptions, LogItem};

use super::args::LogsArgs;
use super::failure::Failure;
use super::sink::{Form, Sink};
use super::{Context, Outcome, agent};

pub(super) async fn logs(context: &Context, args: &LogsArgs) -> Outcome {
    let client = context.client().await?;
    let agent = agent::find(&client, &args.agent.agent).await?;
    let form = match (context.json, args.timestamps) {
        (true, _) => Form::Json,
        (false, true) => Form::Timestamps,
        (false, false) => Form::Raw,
    };
    let mut sink = Sink::new(form);
    let options = FollowOptions {
        streams: args.stream.map(|stream| vec![Stream::from(stream)]),
        from_seq: args.since,
    };
    if args.follow {
        follow(&client, agent, options, &mut sink).await?;
    } else {
        history(&client, agent, options, &mut sink).await?;
    }
    Ok(0)
}

async fn follow(
    client: &Client,
    agent: AgentId,
    options: FollowOptions,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let mut log = client.follow(agent, options);
    while let Some(item) = log.next().await? {
        sink.item(&item)?;
        while let Some(item) = log.try_next() {
            sink.item(&item)?;
        }
        sink.flush()?;
    }
    Ok(())
}

/// What there is now.
async fn history(
    client: &Client,
    agent: AgentId,
    options: FollowOptions,
    sink: &mut Sink,
) -> Result<(), Failure> {
    // Where the history ends now: an agent that writes on is not followed.
    let end = client.get(agent).await?.next_seq;
    let mut from = options.from_seq;
    while from < end {
        let reply = client
            .output(agent, options.streams.as_deref(), from, None)
            .await?;
        if let Some(gap) = reply.expired {
            sink.item(&LogItem::Gap(gap))?;
        }
        for record in reply.records {
            if record.seq < end {
                sink.item(&LogItem::Record(record))?;
            }
        }
        sink.flush()?;
        if reply.end || reply.next_seq <= from {
            break;
        }
        from = reply.next_seq;
    }
    Ok(())
}
