//! Of agents that are there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skep_client::protocol::AgentName;
use skep_host::config::units::{parse_count, parse_duration};

use super::{AgentArgs, AgentsArgs};
use crate::cli::spec;

#[derive(Debug, Args)]
pub(in crate::cli) struct PsArgs {
    /// Those that have ended too
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Renew the table until Ctrl-C, with progress; with --json, print each change
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
    /// Only those of this name
    #[arg(long)]
    pub(in crate::cli) name: Option<AgentName>,
    /// Only those that bear this label
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(in crate::cli) label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// Print the receipt of its last run, as JSON
    #[arg(long)]
    pub(in crate::cli) receipt: bool,
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// The file of a receipt, as `skep inspect --receipt` prints it, or an agent
    ///
    /// The record in a file (outcome, limits, usage and all else) is compared with the host's
    /// own, member by member. Where no host answers, both streams can still be compared with
    /// files; the record is not, which is told, and the exit code is 2.
    #[arg(value_name = "RECEIPT.json|AGENT")]
    pub(in crate::cli) what: String,
    /// Compare the component with this file
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) component: Option<PathBuf>,
    /// Compare the spec with this one, as JSON
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) spec: Option<PathBuf>,
    /// Compare stdout with this file, not with what the host has
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) stdout: Option<PathBuf>,
    /// Compare stderr with this file, not with what the host has
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) stderr: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RefuelArgs {
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
    /// How many instructions more it may run, such as 5_000_000_000
    #[arg(value_parser = parse_count)]
    pub(in crate::cli) fuel: u64,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// How long they have to end, such as 5s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(in crate::cli) grace: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) agents: AgentsArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    /// Give up after this time, such as 30s, and exit with 125
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StdinArgs {
    /// Close its stdin afterwards
    #[arg(long)]
    pub(in crate::cli) close: bool,
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Agents as elsewhere, or whole digests of components
    #[arg(required = true, value_name = "AGENT|DIGEST")]
    pub(in crate::cli) what: Vec<String>,
}
