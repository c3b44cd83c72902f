//! `skep run`: one agent to its end, on a host in this process or on another.

use std::io::IsTerminal;
use std::time::Duration;

use skep_client::protocol::AgentId;
use skep_client::protocol::event::ProgressEvent;
use skep_client::protocol::spec::{OnFuelExhausted, Stdin};
use skep_client::{Client, FollowOptions, WatchEvent};

use super::args::RunArgs;
use super::embedded::Embedded;
use super::failure::Failure;
use super::progress::ProgressLine;
use super::signals::Signals;
use super::sink::{Form, Sink};
use super::spec::StdinSource;
use super::{Context, Outcome, connect, ending, exit, logging, queue, spec, stdin};

/// How long the final state may take to be told once all output is there.
const LAST_WORD: Duration = Duration::from_secs(30);

/// How long a kill may take when this command fails.
const LAST_BLOW: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, args: RunArgs) -> Outcome {
    logging::quiet()?;
    let signals = Signals::new()?;
    match context.named_host()? {
        Some(endpoint) => {
            let client = connect(endpoint).await?;
            run_on(&client, context, args, signals).await
        }
        None if args.spec.on_fuel_exhausted == Some(OnFuelExhausted::Pause) => {
            Err(Failure::of_skep(
                "an agent that pauses without fuel needs a host on which it can be refuelled: name \
                 one with --host or SKEP_HOST, or leave --on-fuel-exhausted out",
            ))
        }
        None => {
            let (embedded, client) = Embedded::start(&args.embedded)?;
            let outcome = run_on(&client, context, args, signals).await;
            embedded.end().await;
            outcome
        }
    }
}

async fn run_on(
    client: &Client,
    context: &Context,
    args: RunArgs,
    mut signals: Signals,
) -> Outcome {
    let (stats, grace) = (args.stats, args.grace);
    let source = match &args.stdin {
        StdinSource::Closed | StdinSource::Open => None,
        StdinSource::Own => stdin::own_if_readable()?,
        StdinSource::File(path) => Some(stdin::file(path)?),
    };
    let kind = match (&source, &args.stdin) {
        (None, StdinSource::Closed | StdinSource::Own) => Stdin::Closed,
        _ => Stdin::Open,
    };
    let when_full = args.spec.when_full();
    let spec = tokio::select! {
        spec = spec::build(args.spec, args.program, kind, client) => spec?,
        // Nothing is there yet that would have to be stopped.
        signal = signals.next() => return Err(Failure::quiet(exit::of_signal(signal))),
    };
    let spawning = client.spawn(spec, when_full);
    tokio::pin!(spawning);
    let (agent, asked) = tokio::select! {
        agent = &mut spawning => (agent?, false),
        // The agent may be there already, and would stay.
        _ = signals.next() => tokio::select! {
            agent = spawning => (agent?, true),
            signal = signals.next() => return Err(Failure::quiet(exit::of_signal(signal))),
        },
    };

    queue::tell(&agent);

    let interrupts = tokio::spawn(obey(client.clone(), agent.id, grace, signals, asked));
    let pump = source.map(|source| {
        let client = client.clone();
        tokio::spawn(async move {
            if let Err(failure) = stdin::pump(&client, agent.id, source, true).await {
                failure.tell();
            }
        })
    });
    let form = if context.json { Form::Json } else { Form::Raw };
    let mut sink = Sink::new(form);
    if let Err(failure) = show(client, agent.id, &mut sink, form).await {
        // Nobody sees what the agent does: it has no business to go on.
        let _ = tokio::time::timeout(LAST_BLOW, client.kill(agent.id)).await;
        return Err(failure);
    }
    let ended = client.wait(agent.id, Some(LAST_WORD)).await?;
    interrupts.abort();
    // It has enough now, and has no cause to complain that the host goes.
    if let Some(pump) = pump {
        pump.abort();
    }
    sink.ended(&ended)?;
    sink.flush()?;
    let Some(outcome) = &ended.outcome else {
        return Err(Failure::of_skep(
            "the agent has ended without an outcome: report this bug",
        ));
    };
    if let Some(explanation) = ending::explain(&ended, outcome) {
        sink.note(&explanation)?;
    }
    if stats {
        sink.note(&ending::stats(&ended))?;
    }
    Ok(exit::of_outcome(outcome))
}

/// Writes the agent's output until it ends.
async fn show(client: &Client, agent: AgentId, sink: &mut Sink, form: Form) -> Result<(), Failure> {
    let mut log = client.follow(agent, FollowOptions::default());
    // Progress is for eyes, and for programs that want to know everything.
    let eyes = std::io::stderr().is_terminal() && form == Form::Raw;
    let mut watch = match eyes || form == Form::Json {
        true => Some(client.watch(agent).await?),
        false => None,
    };
    let mut line = ProgressLine::default();
    loop {
        let event = async {
            match &mut watch {
                Some(watch) => watch.next().await,
                None => None,
            }
        };
        let item = tokio::select! {
            biased;
            item = log.next() => item?,
            Some(event) = event => {
                if let WatchEvent::Progress(progress) = event {
                    show_progress(&progress, sink, &mut line, eyes).map_err(broken)?;
                }
                continue;
            }
        };
        line.hide();
        let Some(item) = item else { return Ok(()) };
        sink.item(&item).map_err(broken)?;
        // As much at a time as there is.
        while let Some(item) = log.try_next() {
            sink.item(&item).map_err(broken)?;
        }
        sink.flush().map_err(broken)?;
    }
}

fn show_progress(
    progress: &ProgressEvent,
    sink: &mut Sink,
    line: &mut ProgressLine,
    eyes: bool,
) -> std::io::Result<()> {
    sink.progress(progress)?;
    sink.flush()?;
    // In the midst of a line it would write over a prompt.
    if eyes && !sink.line_is_open() {
        line.show(progress);
    }
    Ok(())
}

/// An error of writing the agent's output.
fn broken(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Failure::quiet(exit::NOBODY_READS)
    } else {
        error.into()
    }
}

/// The first signal asks the agent to stop, the second kills it, the third ends
/// this command whatever the host says.
async fn obey(
    client: Client,
    agent: AgentId,
    grace: Option<Duration>,
    mut signals: Signals,
    asked: bool,
) {
    if !asked {
        signals.next().await;
    }
    if std::io::stderr().is_terminal() {
        eprintln!("\nskep: stopping the agent; Ctrl-C again kills it");
    }
    let stopping = tokio::spawn({
        let client = client.clone();
        async move { client.stop(agent, grace).await }
    });
    signals.next().await;
    stopping.abort();
    let killing = tokio::spawn(async move { client.kill(agent).await });
    let signal = signals.next().await;
    killing.abort();
    std::process::exit(i32::from(exit::of_signal(signal)));
}
