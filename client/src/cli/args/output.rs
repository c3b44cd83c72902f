//! What agents write, and what becomes of them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use skep_client::protocol::event::Stream;

use super::AgentArgs;
use crate::cli::keys::DetachKeys;
use crate::cli::place::Place;
use crate::cli::spec;

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// Go on until the agents end; those that come later are not followed
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Begin with this record, at this time (2026-11-21T12:00:00Z), or so long ago (10m, 2h30m)
    #[arg(long, value_name = "SEQ|TIME")]
    pub(in crate::cli) since: Option<Place>,
    /// End before this record or time
    #[arg(long, value_name = "SEQ|TIME", conflicts_with = "follow")]
    pub(in crate::cli) until: Option<Place>,
    /// Begin with the last N lines of each agent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub(in crate::cli) tail: Option<u64>,
    /// Only this stream
    #[arg(long, value_enum)]
    pub(in crate::cli) stream: Option<StreamArg>,
    /// Put the time, in UTC, before each line
    #[arg(long)]
    pub(in crate::cli) timestamps: bool,
    /// All agents of the host, also those that have ended
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// All agents that bear this label
    #[arg(long, value_name = "K=V", value_parser = spec::parse_label)]
    pub(in crate::cli) label: Vec<(String, String)>,
    #[command(flatten)]
    pub(in crate::cli) previews: PreviewArgs,
    /// Their ids, the first 4 characters or more of them, or names that only one agent bears
    #[arg(
        required_unless_present_any = ["all", "label"],
        conflicts_with_all = ["all", "label"],
        value_name = "AGENT"
    )]
    pub(in crate::cli) agents: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PreviewArgs {
    /// Save previews of results in this directory, as NAME-N.EXT: at most 1,000, and 256 MiB
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) preview_dir: Option<PathBuf>,
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
pub(in crate::cli) struct AttachArgs {
    /// What to type to leave it running: ctrl-X keys or characters, with commas between
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(in crate::cli) detach_keys: DetachKeys,
    /// Send nothing to its stdin
    #[arg(long)]
    pub(in crate::cli) no_stdin: bool,
    /// Leave it running at Ctrl-C
    #[arg(long)]
    pub(in crate::cli) no_stop: bool,
    /// Begin with this record, at this time, or so long ago (10m), instead of now
    #[arg(long, value_name = "SEQ|TIME")]
    pub(in crate::cli) since: Option<Place>,
    #[command(flatten)]
    pub(in crate::cli) previews: PreviewArgs,
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Only of these, and only until all have ended
    #[arg(value_name = "AGENT")]
    pub(in crate::cli) agents: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum StreamArg {
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
