//! The command line's grammar.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use skep_client::protocol::AgentName;
use skep_client::protocol::event::Stream;
use skep_client::protocol::spec::{DirGrant, OnFuelExhausted, Restart};
use skep_host::config::units::{parse_count, parse_duration, parse_size};

use super::keys::DetachKeys;
use super::place::Place;
use super::spec::{self, StdinSource};

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
    /// Print JSON: one document, or one a line for what goes on
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one agent to its end, here or on a host
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
    /// Check the receipt of an agent's run; exits with 1 if something differs, 2 if it is gone
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

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Where its stdin comes from: a file, - for this command's, or closed
    #[arg(
        long,
        value_name = "FILE|-|closed",
        default_value = "-",
        hide_default_value = true
    )]
    pub(super) stdin: StdinSource,
    /// Copy PATH of its scratch directory to FILE once it has ended, however it did; implies
    /// --scratch
    #[arg(long, value_name = "PATH:FILE", value_parser = spec::parse_output)]
    pub(super) output: Vec<(String, PathBuf)>,
    /// How long it has to end after Ctrl-C, such as 5s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) grace: Option<Duration>,
    /// Print one line at the end: fuel, peak memory, time, output
    #[arg(long)]
    pub(super) stats: bool,
    /// Tell nothing of its progress
    #[arg(short, long)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) previews: PreviewArgs,
    #[command(flatten)]
    pub(super) embedded: EmbeddedArgs,
    #[command(flatten)]
    pub(super) program: ProgramArgs,
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
pub(super) struct SpawnArgs {
    #[command(flatten)]
    pub(super) spec: SpecArgs,
    /// Where its stdin comes from: a file, - for this command's, closed, or open for `skep stdin`
    #[arg(long, value_name = "FILE|-|open|closed", default_value = "closed")]
    pub(super) stdin: StdinSource,
    #[command(flatten)]
    pub(super) program: ProgramArgs,
}

#[derive(Debug, Args)]
pub(super) struct ProgramArgs {
    /// A component's file or digest, or with --native a program; then its arguments
    // One list, so that everything behind its first member belongs to the agent.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "AGENT.wasm [ARGS]"
    )]
    pub(super) program: Vec<String>,
}

/// What an agent is and what it is given.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Run a program of this system instead of a component: --native -- PROGRAM ARGS
    #[arg(long)]
    pub(super) native: bool,
    /// What people call it [default: the file's stem]
    #[arg(long)]
    pub(super) name: Option<AgentName>,
    /// Put K into its environment; K alone takes the value from here
    #[arg(long, value_name = "K[=V]", value_parser = spec::parse_env)]
    pub(super) env: Vec<(String, String)>,
    /// Grant it a directory, writable unless :ro
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = spec::parse_dir)]
    pub(super) dir: Vec<DirGrant>,
    /// Grant it a private writable directory at /
    #[arg(long)]
    pub(super) scratch: bool,
    /// Give it FILE, read-only, as /inputs/PATH; a native agent finds the directory in SKEP_INPUTS
    #[arg(long, value_name = "FILE:PATH", value_parser = spec::parse_input)]
    pub(super) input: Vec<(PathBuf, String)>,
    /// How many instructions it may run, such as 10G
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(super) fuel: Option<u64>,
    /// How much memory it may have, such as 128MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) memory: Option<u64>,
    /// How long it may run, such as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// Set any limit by its name, such as output_history_bytes=64MiB
    #[arg(long, value_name = "NAME=VALUE", value_parser = spec::parse_limit)]
    pub(super) limit: Vec<(String, u64)>,
    /// What it is asked to do
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) task: String,
    /// What it should know to do it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) context: String,
    /// How it should behave, whatever the task
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) system_prompt: String,
    /// The language model it should use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) model: String,
    /// Mark it, for filters
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(super) label: Vec<(String, String)>,
    /// When it runs again: never, on-failure or always; the last two take :MAX
    #[arg(long, value_name = "POLICY", value_parser = spec::parse_restart)]
    pub(super) restart: Option<Restart>,
    /// What happens when its fuel is used up: exit or pause
    #[arg(long, value_name = "exit|pause", value_parser = spec::parse_on_fuel)]
    pub(super) on_fuel_exhausted: Option<OnFuelExhausted>,
    /// Fail at once where the host is full, instead of waiting for a turn
    #[arg(long)]
    pub(super) no_queue: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration's file
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the resolved configuration, with its defaults, and exit
    #[arg(long)]
    pub(super) print_config: bool,
    /// server.id
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<String>,
    /// server.control: where requests are taken
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) control: Option<String>,
    /// server.events: where events are published, or none
    #[arg(long, value_name = "ENDPOINT|none")]
    pub(super) events: Option<String>,
    /// server.state_dir
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// server.cache_dir: where compiled components are kept, or none
    #[arg(long, value_name = "DIR|none")]
    pub(super) cache_dir: Option<PathBuf>,
    /// server.grace: how long agents have to end when the host does
    #[arg(long, value_name = "TIME")]
    pub(super) grace: Option<String>,
    /// capacity.max_agents
    #[arg(long, value_name = "N")]
    pub(super) max_agents: Option<u64>,
    /// capacity.max_queued
    #[arg(long, value_name = "N")]
    pub(super) max_queued: Option<u64>,
    /// grants.dir_roots: below which directories others may be granted
    #[arg(long, value_name = "DIR")]
    pub(super) dir_root: Vec<PathBuf>,
    /// native.enabled: let native agents run
    #[arg(long)]
    pub(super) allow_native: bool,
    /// Set any value, such as defaults.fuel=1000000 or log.format=json
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(super) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Those that have ended too
    #[arg(short, long)]
    pub(super) all: bool,
    /// Renew the table until Ctrl-C, with progress; with --json, print each change
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Only those of this name
    #[arg(long)]
    pub(super) name: Option<AgentName>,
    /// Only those that bear this label
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(super) label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// How long to wait for them, such as 60s; at most an hour
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub(super) timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// Its id, the beginning of one, or a name that only one agent bears
    pub(super) agent: String,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Print the receipt of its last run, as JSON
    #[arg(long)]
    pub(super) receipt: bool,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The file of a receipt, as `skep inspect --receipt` prints it, or an agent
    #[arg(value_name = "RECEIPT.json|AGENT")]
    pub(super) what: String,
    /// Compare the component with this file
    #[arg(long, value_name = "FILE")]
    pub(super) component: Option<PathBuf>,
    /// Compare the spec with this one, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) spec: Option<PathBuf>,
    /// Compare stdout with this file, not with what the host has
    #[arg(long, value_name = "FILE")]
    pub(super) stdout: Option<PathBuf>,
    /// Compare stderr with this file, not with what the host has
    #[arg(long, value_name = "FILE")]
    pub(super) stderr: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct FilesArgs {
    /// The agent, and which directory of its scratch
    #[arg(value_name = "AGENT[:PATH]")]
    pub(super) what: String,
}

#[derive(Debug, Args)]
pub(super) struct CopyArgs {
    /// Copy what lies in the directory PATH into the directory TO
    #[arg(short, long)]
    pub(super) recursive: bool,
    /// The agent, and which file of its scratch
    #[arg(value_name = "AGENT:PATH")]
    pub(super) from: String,
    /// A file, a directory to put it in, or - for stdout
    pub(super) to: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct AgentsArgs {
    /// Their ids, the beginnings of them, or names that only one agent bears
    #[arg(required = true, value_name = "AGENT")]
    pub(super) agents: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Go on until the agents end; those that come later are not followed
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Begin with this record, at this time (2026-11-21T12:00:00Z), or so long ago (10m, 2h30m)
    #[arg(long, value_name = "SEQ|TIME")]
    pub(super) since: Option<Place>,
    /// End before this record or time
    #[arg(long, value_name = "SEQ|TIME", conflicts_with = "follow")]
    pub(super) until: Option<Place>,
    /// Begin with the last N lines of each agent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub(super) tail: Option<u64>,
    /// Only this stream
    #[arg(long, value_enum)]
    pub(super) stream: Option<StreamArg>,
    /// Put the time, in UTC, before each line
    #[arg(long)]
    pub(super) timestamps: bool,
    /// All agents of the host, also those that have ended
    #[arg(long)]
    pub(super) all: bool,
    /// All agents that bear this label
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(super) label: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) previews: PreviewArgs,
    /// Their ids, the beginnings of them, or names that only one agent bears
    #[arg(
        required_unless_present_any = ["all", "label"],
        conflicts_with_all = ["all", "label"],
        value_name = "AGENT"
    )]
    pub(super) agents: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    /// Save previews of results in this directory, as NAME-N.EXT: at most 1,000, and 256 MiB
    #[arg(long, value_name = "DIR")]
    pub(super) preview_dir: Option<PathBuf>,
}

/// Its output goes to stdout and stderr from now on, and stdin goes to it: on a
/// terminal a line at a time, with the usual editing, since an agent has no
/// terminal of its own. The end of stdin (Ctrl-D) closes the agent's. This
/// command ends with the agent, and with its exit code.
///
/// The detach keys leave the agent running and end this command with 0. Ctrl-C
/// asks the agent to stop, as in `skep run`, and a second one kills it; with
/// --no-stop it leaves the agent running, as SIGTERM and a closed terminal do.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct AttachArgs {
    /// What to type to leave it running: ctrl-X keys or characters, with commas between
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(super) detach_keys: DetachKeys,
    /// Send nothing to its stdin
    #[arg(long)]
    pub(super) no_stdin: bool,
    /// Leave it running at Ctrl-C
    #[arg(long)]
    pub(super) no_stop: bool,
    /// Begin with this record, at this time, or so long ago (10m), instead of now
    #[arg(long, value_name = "SEQ|TIME")]
    pub(super) since: Option<Place>,
    #[command(flatten)]
    pub(super) previews: PreviewArgs,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only of these, and only until all have ended
    #[arg(value_name = "AGENT")]
    pub(super) agents: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StreamArg {
    Stdout,
    Stderr,
}

impl From<StreamArg> for Stream {
    fn from(arg: StreamArg) -> Self {
        match arg {
            StreamArg::Stdout => Self::Stdout,
            StreamArg::Stderr => Self::Stderr,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RefuelArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How many instructions more it may run, such as 5_000_000_000
    #[arg(value_parser = parse_count)]
    pub(super) fuel: u64,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// How long they have to end, such as 5s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) grace: Option<Duration>,
    #[command(flatten)]
    pub(super) agents: AgentsArgs,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Give up after this time, such as 30s, and exit with 125
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(super) struct StdinArgs {
    /// Close its stdin afterwards
    #[arg(long)]
    pub(super) close: bool,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// The component
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// As if it were granted this directory
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = spec::parse_dir)]
    pub(super) dir: Vec<DirGrant>,
    /// As if it were granted a private writable directory at /
    #[arg(long)]
    pub(super) scratch: bool,
    /// As if it had this much memory, such as 128MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) memory: Option<u64>,
    /// As if this limit were set, such as instances=100
    #[arg(long, value_name = "NAME=VALUE", value_parser = spec::parse_limit)]
    pub(super) limit: Vec<(String, u64)>,
    #[command(flatten)]
    pub(super) embedded: EmbeddedArgs,
    /// The component's file, which is brought to the host, or its digest there
    pub(super) file: String,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Agents as elsewhere, or whole digests of components
    #[arg(required = true, value_name = "AGENT|DIGEST")]
    pub(super) what: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Forget agents that ended at least so long ago, such as 1h, or 0s for all
    /// that have ended; by default those older than the host keeps them
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) older_than: Option<Duration>,
    /// Delete components that no agent uses, too
    #[arg(long)]
    pub(super) components: bool,
    /// Remove nothing: tell what would be
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The package or workspace
    #[arg(default_value = ".")]
    pub(super) dir: PathBuf,
    /// Where to put the components, with a manifest of what they were built from
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Build nothing: tell which components in --out no longer fit their sources
    #[arg(long, requires = "out")]
    pub(super) check: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

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
