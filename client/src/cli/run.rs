//! `skep run`: one agent to its end, on a host in this process or on another.

use std::io::{self, IsTerminal};
use std::time::Duration;

use skep_client::protocol::op::WhenFull;
use skep_client::protocol::spec::{OnFuelExhausted, RestartPolicy, Stdin};
use skep_client::protocol::{AgentId, AgentInfo, AgentSpec};
use skep_client::{Client, Follow, FollowOptions, Watch};
use tokio::sync::mpsc;

use super::args::RunArgs;
use super::conclusion::conclude;
use super::embedded::Embedded;
use super::failure::Failure;
use super::files;
use super::owner::Owner;
use super::previews::Previews;
use super::show::{Beside, STOPPING, View};
use super::signals::Signals;
use super::sink::{Form, Sink};
use super::spec::StdinSource;
use super::target::Target;
use super::{
    Context, Outcome, connect, ending, exit, logging, queue, restarts, spawn, spec, stdin, text,
};

/// How long a kill may take when this command fails.
const LAST_BLOW: Duration = Duration::from_secs(1);

/// Where the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a host in this process, of which nobody else knows.
    Here,
    /// On another.
    There,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Outcome {
    logging::quiet()?;
    let signals = Signals::with_hangup()?;
    match context.named_host()? {
        Some(endpoint) => {
            let client = connect(endpoint).await?;
            run_on(&client, context, args, signals, Place::There).await
        }
        None if args.spec.on_fuel_exhausted == Some(OnFuelExhausted::Pause) => {
            Err(Failure::of_skep(
                "an agent that pauses without fuel needs a host on which it can be refuelled: name \
                 one with --host or SKEP_HOST, or leave --on-fuel-exhausted out",
            ))
        }
        None => {
            let (embedded, client) = Embedded::start(&args.embedded)?;
            let outcome = run_on(&client, context, args, signals, Place::Here).await;
            embedded.end().await;
            outcome
        }
    }
}

async fn run_on(
    client: &Client,
    context: &Context,
    mut args: RunArgs,
    mut signals: Signals,
    place: Place,
) -> Outcome {
    if place == Place::Here {
        spec::at_home(&args.spec, &mut args.program)?;
    }
    let (stats, grace) = (args.stats, args.grace);
    let form = if context.json { Form::Json } else { Form::Raw };
    let showing = Showing::new(&args, form, place)?;
    let outputs = outputs(&args)?;
    args.spec.scratch |= !outputs.is_empty();
    let when_full = args.spec.when_full();
    let building = async {
        let (source, kind) = source(&args.stdin).await?;
        let spec = spec::build(args.spec, args.program, kind, client).await?;
        Ok::<_, Failure>((source, spec))
    };
    let (source, spec) = tokio::select! {
        built = building => built?,
        // Nothing is there yet that would have to be stopped.
        signal = signals.next() => return Err(Failure::quiet(exit::of_signal(signal))),
    };
    // Here nobody else has agents, and none of its reports is too early.
    let early = match showing.wants_events && place == Place::Here {
        true => Some(client.watch_all().await?),
        false => None,
    };
    let (agent, asked) = start(client, spec, when_full, &mut signals).await?;
    queue::tell(&agent);

    let (answering, answers) = mpsc::channel(1);
    let obeying = obey(client.clone(), agent.id, grace, signals, asked, answering);
    let interrupts = tokio::spawn(obeying);
    let pump = source.map(|source| {
        let client = client.clone();
        tokio::spawn(async move {
            if let Err(failure) = stdin::pump(&client, agent.id, source, true).await {
                failure.tell();
            }
        })
    });
    let mut sink = Sink::in_place_of_the_agent(form);
    let mut log = client.follow(agent.id, FollowOptions::default());
    let shown = showing.show(client, &agent, early, answers, &mut log, &mut sink);
    if let Err(failure) = shown.await {
        // Nobody sees what the agent does: it has no business to go on.
        let _ = tokio::time::timeout(LAST_BLOW, client.kill(agent.id)).await;
        return Err(failure);
    }
    let (ended, code) = conclude(client, &agent, &mut log, &mut sink).await?;
    // Whoever is tired of waiting for them can still end this.
    let fetched = fetch(client, agent.id, &outputs, &mut sink).await?;
    interrupts.abort();
    // It has enough now, and has no cause to complain that the host goes.
    if let Some(pump) = pump {
        pump.abort();
    }
    if stats {
        sink.note(&ending::stats(&ended))?;
    }
    // What the agent itself says of its failure counts for more.
    Ok(if code == 0 { fetched } else { code })
}

/// What is shown of the agent besides its output.
struct Showing {
    view: View,
    previews: Option<Previews>,
    hints: bool,
    notes: Option<restarts::Notes>,
    wants_events: bool,
}

impl Showing {
    fn new(args: &RunArgs, form: Form, place: Place) -> Result<Self, Failure> {
        let view = match args.quiet && form != Form::Json {
            true => View::None,
            false => View::of(form, true),
        };
        let previews = Previews::new(&args.previews)?;
        let hints = place == Place::There && !args.quiet;
        let again = args.spec.restart.unwrap_or_default().policy != RestartPolicy::Never;
        let notes = (again && !args.quiet && form == Form::Raw).then(restarts::Notes::default);
        let told = hints || notes.is_some();
        Ok(Self {
            wants_events: Beside::wants_events(&view, previews.as_ref(), told),
            view,
            previews,
            hints,
            notes,
        })
    }

    /// Shows the agent until it ends. Its events come from `early`, where that
    /// was there before it.
    async fn show(
        self,
        client: &Client,
        agent: &AgentInfo,
        early: Option<Watch>,
        answers: mpsc::Receiver<&'static str>,
        log: &mut Follow,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let watch = match early {
            Some(watch) => Some(watch.only(agent.id)),
            None if self.wants_events => Some(client.watch(agent.id).await?),
            None => None,
        };
        let mut beside = Beside {
            agent: agent.id,
            name: agent.name.clone(),
            view: self.view,
            previews: self.previews,
            watch,
            hints: self.hints,
            notes: self.notes,
            answers,
        };
        beside.show(client, log, sink).await
    }
}

type Source = mpsc::Receiver<io::Result<Vec<u8>>>;

/// Where the agent's stdin comes from, and what it is told of it.
async fn source(from: &StdinSource) -> Result<(Option<Source>, Stdin), Failure> {
    let source = match from {
        StdinSource::Closed | StdinSource::Open => None,
        StdinSource::Own => stdin::own_if_readable()?,
        StdinSource::File(path) => Some(stdin::file(path).await?),
    };
    let kind = match (&source, from) {
        (None, StdinSource::Closed | StdinSource::Own) => Stdin::Closed,
        _ => Stdin::Open,
    };
    Ok((source, kind))
}

/// Starts the agent; whether a signal came meanwhile. At a second one it is not
/// waited for.
async fn start(
    client: &Client,
    spec: AgentSpec,
    when_full: Option<WhenFull>,
    signals: &mut Signals,
) -> Result<(AgentInfo, bool), Failure> {
    let spawning = spawn::start(client, spec, when_full);
    tokio::pin!(spawning);
    tokio::select! {
        agent = &mut spawning => Ok((agent?, false)),
        // The agent may be there already, and would stay.
        _ = signals.next() => tokio::select! {
            agent = spawning => Ok((agent?, true)),
            signal = signals.next_but_hangup() => Err(Failure::quiet(exit::of_signal(signal))),
        },
    }
}

/// Where outputs are to be written, looked at before anything runs.
fn outputs(args: &RunArgs) -> Result<Vec<(String, Target)>, Failure> {
    (args.output.iter())
        .map(|(path, file)| Ok((path.clone(), Target::of(file, path)?)))
        .collect()
}

/// Copies what the agent left; gives the exit code of the first that is missing.
async fn fetch(
    client: &Client,
    agent: AgentId,
    outputs: &[(String, Target)],
    sink: &mut Sink,
) -> Outcome {
    let mut code = 0;
    for (path, target) in outputs {
        let fetched = files::fetch(client, Owner::passing(agent), path, target).await;
        if let Err(failure) = fetched {
            sink.note(&format!("the output `{}` is not copied", text::clean(path)))?;
            let told = failure.tell();
            if code == 0 {
                code = told;
            }
        }
    }
    Ok(code)
}

/// The first signal asks the agent to stop, the second kills it, the third ends
/// this command whatever the host says. Of a closed terminal only the first counts.
async fn obey(
    client: Client,
    agent: AgentId,
    grace: Option<Duration>,
    mut signals: Signals,
    asked: bool,
    answers: mpsc::Sender<&'static str>,
) {
    if !asked {
        signals.next().await;
    }
    if io::stderr().is_terminal() {
        let _ = answers.try_send(STOPPING);
    }
    let stopping = tokio::spawn({
        let client = client.clone();
        async move { client.stop(agent, grace).await }
    });
    signals.next_but_hangup().await;
    stopping.abort();
    let killing = tokio::spawn(async move { client.kill(agent).await });
    let signal = signals.next_but_hangup().await;
    killing.abort();
    logging::end();
    std::process::exit(i32::from(exit::of_signal(signal)));
}
