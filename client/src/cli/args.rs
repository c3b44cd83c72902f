//! The command line's grammar: a file for each noun.

mod agent;
mod files;
mod host;
mod output;
mod spawn;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(super) use agent::{
    InspectArgs, PsArgs, RefuelArgs, RmArgs, StdinArgs, StopArgs, VerifyArgs, WaitArgs,
};
pub(super) use files::{BuildArgs, CheckArgs, CopyArgs, FilesArgs, PushArgs};
pub(super) use host::{DrainArgs, GcArgs, ServeArgs};
pub(super) use output::{AttachArgs, EventsArgs, LogsArgs, PreviewArgs};
pub(super) use spawn::{ProgramArgs, RunArgs, SpawnArgs, SpecArgs};

/// Runs agents that nobody has to trust.
#[derive(Debug, Parser)]
#[command(name = "skep", version, max_term_width = 100)]
pub(super) struct Cli {
    /// The host to ask: tcp://HOST:PORT or ipc://PATH [default: tcp://127.0.0.1:5555; `run`: none]
    #[arg(
        long,
        global = true,
        env = "SKEP_HOST",
        hide_env_values = true,
        value_name = "ENDPOINT"
    )]
    pub(super) host: Option<String>,
    /// Print JSON: one document, or one a line for what goes on and for each agent that
    /// something is done to
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one agent to its end, here or on a host
    ///
    /// Ctrl-C, SIGTERM or a closed terminal stops the agent, wherever it runs; a second Ctrl-C or
    /// SIGTERM kills it.
    #[command(override_usage = "skep run [OPTIONS] AGENT.wasm [ARGS…]")]
    Run(Box<RunArgs>),
    /// Be a host
    Serve(ServeArgs),
    /// Start an agent on a host and print its id
    #[command(override_usage = "skep spawn [OPTIONS] AGENT.wasm [ARGS…]")]
    Spawn(Box<SpawnArgs>),
    /// List agents
    Ps(PsArgs),
    /// Tell everything about one agent
    Inspect(InspectArgs),
    /// Check the receipt of an agent's run; exits with 1 if something differs, 2 if it cannot tell
    Verify(VerifyArgs),
    /// List what an agent has in its scratch directory
    Files(FilesArgs),
    /// Copy files from an agent's scratch directory to here
    Cp(CopyArgs),
    /// Print the output of agents
    Logs(LogsArgs),
    /// Print an agent's output and send it what is typed
    Attach(AttachArgs),
    /// Tell each change of state of agents as it happens
    Events(EventsArgs),
    /// Hold agents where they are
    Pause(AgentsArgs),
    /// Let paused agents go on
    Resume(AgentsArgs),
    /// Give an agent more fuel
    Refuel(RefuelArgs),
    /// Ask agents to end; after the grace they are killed
    Stop(StopArgs),
    /// End agents at once
    Kill(AgentsArgs),
    /// Wait until an agent ends and exit with its code
    Wait(WaitArgs),
    /// Send this command's stdin to an agent
    Stdin(StdinArgs),
    /// Bring a component to a host and print its digest
    Push(PushArgs),
    /// Tell what a component imports and needs, and whether it would run; runs nothing
    Check(CheckArgs),
    /// List a host's components
    Components,
    /// Delete ended agents or components
    Rm(RmArgs),
    /// Forget ended agents, and tell what a host keeps
    Gc(GcArgs),
    /// Tell how a host is; exits with 1 if it is not well
    Health,
    /// Have a host take no more agents, and wait for those it has; exits with 1 if some remain
    Drain(DrainArgs),
    /// Tell what a host has counted
    Stats,
    /// Make components of a cargo package or workspace
    Build(BuildArgs),
    /// Print a completion script for a shell
    Completions {
        /// For which
        shell: Shell,
    },
}

/// What holds when no host is named.
#[derive(Debug, Args)]
pub(super) struct EmbeddedArgs {
    /// Where compiled components are kept when it runs here, or none
    #[arg(
        long,
        value_name = "DIR|none",
        env = "SKEP_CACHE_DIR",
        hide_env_values = true
    )]
    pub(super) cache_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// Its id, the first 4 characters or more of one, or a name that only one agent bears
    pub(super) agent: String,
}

#[derive(Debug, Args)]
pub(super) struct AgentsArgs {
    /// Their ids, the first 4 characters or more of them, or names that only one agent bears
    #[arg(required = true, value_name = "AGENT")]
    pub(super) agents: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::spec::StdinSource;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_agent_is_the_agents() {
        let Command::Run(run) = parse("skep run --stats x.wasm --stats -v -- y")
            .unwrap()
            .command
        else {
            panic!("run")
        };
        assert!(run.stats);
        assert_eq!(run.program.program, ["x.wasm", "--stats", "-v", "--", "y"]);

        let Command::Run(run) = parse("skep run --native -- /bin/sh -c true")
            .unwrap()
            .command
        else {
            panic!("run")
        };
        assert!(run.spec.native);
        assert_eq!(run.program.program, ["/bin/sh", "-c", "true"]);
    }

    #[test]
    fn flags_become_what_they_mean() {
        let line = "skep spawn --fuel 1_000 --memory 128MiB --timeout 30s --limit files=3 \
                    --env A=b=c --label x=y --restart on-failure:3 --stdin open a.wasm";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Command::Spawn(spawn) = parse(&line).unwrap().command else {
            panic!("spawn")
        };
        let spec = spawn.spec;
        assert_eq!((spec.fuel, spec.memory), (Some(1000), Some(128 << 20)));
        assert_eq!(spec.timeout, Some(Duration::from_secs(30)));
        assert_eq!(spec.limit, [("files".to_owned(), 3)]);
        assert_eq!(spec.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(spec.restart.unwrap().max, Some(3));
        assert_eq!(spawn.stdin, StdinSource::Open);
    }

    #[test]
    fn a_tail_is_of_so_many_lines_and_no_more() {
        assert!(parse("skep logs --tail 1000000 x").is_ok());
        let error = parse("skep logs --tail 1000001 x").unwrap_err();
        assert!(error.contains("1000000"), "{error}");
    }

    #[test]
    fn wrong_flags_are_refused() {
        for (line, named) in [
            ("skep run", "AGENT.wasm"),
            ("skep run --colour x.wasm", "--colour"),
            ("skep run --fuel lots x.wasm", "`lots` is no number"),
            ("skep run --memory 1 x", ""),
            ("skep run --timeout 30 x.wasm", "`30` is no length of time"),
            ("skep run --dir /srv x.wasm", "HOST:GUEST"),
            ("skep run --name ../x x.wasm", "not a name"),
            ("skep run --restart maybe x.wasm", "on-failure"),
            ("skep run --limit fun=1 x.wasm", "fun"),
            ("skep build --check", "--out"),
            ("skep kill", "AGENT"),
        ] {
            match parse(line) {
                Ok(_) => assert!(named.is_empty(), "{line}"),
                Err(error) => assert!(error.contains(named), "{line}: {error}"),
            }
        }
    }
}
