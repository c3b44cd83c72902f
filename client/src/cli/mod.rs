//! The command line: one file a command or noun. It prints, it maps failures
//! to exit codes, and it leaves everything else to the library and the host.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use skep_client::{Client, ConnectionConfig, Endpoint};
use tokio::runtime::Builder;

mod agent;
mod args;
mod attach;
mod away;
mod board;
mod build;
mod check;
mod components;
mod conclusion;
mod embedded;
mod ending;
mod events;
mod exit;
mod failure;
mod files;
mod gc;
mod host;
mod inspect;
mod keys;
mod lines;
mod local;
mod logging;
mod logs;
mod owner;
mod place;
mod previews;
mod print;
mod progress;
mod ps;
mod queue;
mod restarts;
mod run;
mod serve;
mod settings;
mod show;
mod signals;
mod sink;
mod spawn;
mod spec;
mod stdin;
mod target;
mod terminal;
mod text;
mod typed;
mod verify;
mod wait;

use args::{Cli, Command};
use failure::Failure;

/// What a command ends with: an exit code, or why there is none of its own.
type Outcome = Result<u8, Failure>;

/// How long a host may take to answer for the first time. The connection tries
/// a few times in it.
const CONNECT: Duration = Duration::from_secs(2);

/// The longest pause between attempts to reach a host that went away.
const RECONNECT: Duration = Duration::from_secs(2);

/// What all commands share.
#[derive(Debug)]
struct Context {
    host: Option<String>,
    json: bool,
}

impl Context {
    /// The host that was named, if one was.
    fn named_host(&self) -> Result<Option<Endpoint>, Failure> {
        match self.host.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => match text.parse() {
                Ok(endpoint) => Ok(Some(endpoint)),
                Err(error) => Err(Failure::of_skep(format!("--host or SKEP_HOST: {error}"))),
            },
        }
    }

    /// The client of the host that was named, or of this machine's.
    async fn client(&self) -> Result<Client, Failure> {
        connect(self.endpoint()?).await
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        Ok(self.named_host()?.unwrap_or(Endpoint::loopback(5555)))
    }
}

async fn connect(endpoint: Endpoint) -> Result<Client, Failure> {
    connect_with(ConnectionConfig::new(endpoint)).await
}

async fn connect_with(mut config: ConnectionConfig) -> Result<Client, Failure> {
    // A person waits: a host that is back is found soon.
    config.reconnect_max = RECONNECT;
    let endpoint = config.control.clone();
    let client = Client::connect(config);
    match client.connected(CONNECT).await {
        Ok(()) => Ok(client),
        Err(_) => Err(Failure::of_skep(format!(
            "no host answers at {endpoint}: start one with `skep serve`, or name another with \
             --host or SKEP_HOST"
        ))),
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too.
            let failed = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if failed { exit::SKEP_FAILED } else { 0 });
        }
    };
    let context = Context {
        host: cli.host,
        json: cli.json,
    };
    let code = {
        let _log = logging::Ends;
        dispatch(&context, cli.command).unwrap_or_else(|failure| failure.tell())
    };
    // Ends threads that wait for a terminal, too.
    std::process::exit(i32::from(code))
}

fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Run(args) => parallel(run::run(context, *args)),
        Command::Serve(args) => serve::serve(context, &args),
        Command::Spawn(args) => alone(spawn::spawn(context, *args)),
        Command::Ps(args) => alone(ps::ps(context, &args)),
        Command::Inspect(args) => alone(inspect::inspect(context, &args)),
        Command::Verify(args) => alone(verify::verify(context, &args)),
        Command::Files(args) => alone(files::list(context, &args)),
        Command::Cp(args) => alone(files::copy(context, &args)),
        Command::Logs(args) => alone(logs::logs(context, &args)),
        Command::Attach(args) => parallel(attach::attach(context, &args)),
        Command::Events(args) => alone(events::events(context, &args)),
        Command::Pause(args) => alone(agent::pause(context, &args)),
        Command::Resume(args) => alone(agent::resume(context, &args)),
        Command::Refuel(args) => alone(agent::refuel(context, &args)),
        Command::Stop(args) => alone(agent::stop(context, &args)),
        Command::Kill(args) => alone(agent::kill(context, &args)),
        Command::Wait(args) => alone(wait::wait(context, &args)),
        Command::Stdin(args) => alone(stdin::stdin(context, &args)),
        Command::Push(args) => alone(components::push(context, &args)),
        Command::Check(args) => parallel(check::check(context, args)),
        Command::Components => alone(components::list(context)),
        Command::Rm(args) => alone(components::remove(context, &args)),
        Command::Gc(args) => alone(gc::gc(context, &args)),
        Command::Health => alone(host::health(context)),
        Command::Drain(args) => alone(host::drain(context, &args)),
        Command::Stats => alone(host::stats(context)),
        Command::Build(args) => build::build(context, &args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skep", &mut script);
            print::bytes(&script)
        }
    }
}

/// Runs a command that only asks. The connection has threads of its own.
fn alone(command: impl Future<Output = Outcome>) -> Outcome {
    block_on(&mut Builder::new_current_thread(), command)
}

/// Runs a command with a host in this process, or one that must hear signals
/// while it waits for whoever reads its output.
fn parallel(command: impl Future<Output = Outcome>) -> Outcome {
    block_on(Builder::new_multi_thread().worker_threads(2), command)
}

fn block_on(builder: &mut Builder, command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::of_skep(format!("cannot start a runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}
