//! What an agent is and what it is given: `skep run` and `skep spawn`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skep_client::protocol::AgentName;
use skep_client::protocol::spec::{DirGrant, OnFuelExhausted, Restart};
use skep_host::config::units::{parse_count, parse_duration, parse_size};

use super::{EmbeddedArgs, PreviewArgs};
use crate::cli::spec::{self, StdinSource};

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    #[command(flatten)]
    pub(in crate::cli) spec: SpecArgs,
    /// Where its stdin comes from: a file, - for this command's, or closed
    #[arg(
        long,
        value_name = "FILE|-|closed",
        default_value = "-",
        hide_default_value = true
    )]
    pub(in crate::cli) stdin: StdinSource,
    /// Copy PATH of its scratch directory to FILE once it has ended, however it did; implies
    /// --scratch
    #[arg(long, value_name = "PATH:FILE", value_parser = spec::parse_output)]
    pub(in crate::cli) output: Vec<(String, PathBuf)>,
    /// How long it has to end after Ctrl-C, such as 5s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(in crate::cli) grace: Option<Duration>,
    /// Print one line at the end: fuel, peak memory, time, output
    #[arg(long)]
    pub(in crate::cli) stats: bool,
    /// Tell nothing of its progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    #[command(flatten)]
    pub(in crate::cli) previews: PreviewArgs,
    #[command(flatten)]
    pub(in crate::cli) embedded: EmbeddedArgs,
    #[command(flatten)]
    pub(in crate::cli) program: ProgramArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SpawnArgs {
    #[command(flatten)]
    pub(in crate::cli) spec: SpecArgs,
    /// Where its stdin comes from: a file, - for this command's, closed, or open for `skep stdin`
    #[arg(long, value_name = "FILE|-|open|closed", default_value = "closed")]
    pub(in crate::cli) stdin: StdinSource,
    #[command(flatten)]
    pub(in crate::cli) program: ProgramArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProgramArgs {
    /// A component's file or digest, or with --native a program; then its arguments
    // One list, so that everything behind its first member belongs to the agent.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "AGENT.wasm [ARGS]"
    )]
    pub(in crate::cli) program: Vec<String>,
}

/// What an agent is and what it is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct SpecArgs {
    /// Run a program of this system instead of a component: --native -- PROGRAM ARGS
    #[arg(long)]
    pub(in crate::cli) native: bool,
    /// What people call it [default: the file's stem]
    #[arg(long)]
    pub(in crate::cli) name: Option<AgentName>,
    /// Put K into its environment; K alone takes the value from here
    #[arg(long, value_name = "K[=V]", value_parser = spec::parse_env)]
    pub(in crate::cli) env: Vec<(String, String)>,
    /// Grant it a directory, writable unless :ro
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = spec::parse_dir)]
    pub(in crate::cli) dir: Vec<DirGrant>,
    /// Grant it a private writable directory at /
    #[arg(long)]
    pub(in crate::cli) scratch: bool,
    /// Give it FILE, read-only, as /inputs/PATH; a native agent finds the directory in SKEP_INPUTS
    #[arg(long, value_name = "FILE:PATH", value_parser = spec::parse_input)]
    pub(in crate::cli) input: Vec<(PathBuf, String)>,
    /// How many instructions it may run, such as 10G
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(in crate::cli) fuel: Option<u64>,
    /// How much memory it may have, such as 128MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(in crate::cli) memory: Option<u64>,
    /// How long it may run, such as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Set any limit by its name, such as output_history_bytes=64MiB
    #[arg(long, value_name = "NAME=VALUE", value_parser = spec::parse_limit)]
    pub(in crate::cli) limit: Vec<(String, u64)>,
    /// What it is asked to do
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) task: String,
    /// What it should know to do it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) context: String,
    /// How it should behave, whatever the task
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) system_prompt: String,
    /// The language model it should use
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) model: String,
    /// Mark it, for filters
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(in crate::cli) label: Vec<(String, String)>,
    /// When it runs again: never, on-failure or always; the last two take :MAX
    #[arg(long, value_name = "POLICY", value_parser = spec::parse_restart)]
    pub(in crate::cli) restart: Option<Restart>,
    /// What happens when its fuel is used up: exit or pause
    #[arg(long, value_name = "exit|pause", value_parser = spec::parse_on_fuel)]
    pub(in crate::cli) on_fuel_exhausted: Option<OnFuelExhausted>,
    /// Fail at once where the host is full, instead of waiting for a turn
    #[arg(long)]
    pub(in crate::cli) no_queue: bool,
}
