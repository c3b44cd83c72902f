//! Of a host.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skep_host::config::units::parse_duration;

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// The configuration's file
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Print the resolved configuration, with its defaults, and exit
    #[arg(long)]
    pub(in crate::cli) print_config: bool,
    /// server.id
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// server.control: where requests are taken
    #[arg(long, value_name = "ENDPOINT")]
    pub(in crate::cli) control: Option<String>,
    /// server.events: where events are published, or none
    #[arg(long, value_name = "ENDPOINT|none")]
    pub(in crate::cli) events: Option<String>,
    /// server.state_dir
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) state_dir: Option<PathBuf>,
    /// server.cache_dir: where compiled components are kept, or none
    #[arg(long, value_name = "DIR|none")]
    pub(in crate::cli) cache_dir: Option<PathBuf>,
    /// server.grace: how long agents have to end when the host does
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) grace: Option<String>,
    /// capacity.max_agents
    #[arg(long, value_name = "N")]
    pub(in crate::cli) max_agents: Option<u64>,
    /// capacity.max_queued
    #[arg(long, value_name = "N")]
    pub(in crate::cli) max_queued: Option<u64>,
    /// grants.dir_roots: below which directories others may be granted
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) dir_root: Vec<PathBuf>,
    /// native.enabled: let native agents run
    #[arg(long)]
    pub(in crate::cli) allow_native: bool,
    /// Set any value, such as defaults.fuel=1000000 or log.format=json
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(in crate::cli) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// How long to wait for them, such as 60s; at most an hour
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub(in crate::cli) timeout: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GcArgs {
    /// Forget agents that ended at least so long ago, such as 1h, or 0s for all
    /// that have ended; by default those older than the host keeps them
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(in crate::cli) older_than: Option<Duration>,
    /// Delete components that no agent uses, too
    #[arg(long)]
    pub(in crate::cli) components: bool,
    /// Remove nothing: tell what would be
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}
