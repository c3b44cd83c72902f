//! Files of an agent, and components.

use std::path::PathBuf;

use clap::Args;
use skep_client::protocol::spec::DirGrant;
use skep_host::config::units::parse_size;

use super::EmbeddedArgs;
use crate::cli::spec;

#[derive(Debug, Args)]
pub(in crate::cli) struct FilesArgs {
    /// The agent, and which directory of its scratch
    #[arg(value_name = "AGENT[:PATH]")]
    pub(in crate::cli) what: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CopyArgs {
    /// Copy what lies in the directory PATH into the directory TO, which is made unless it is there
    #[arg(short, long)]
    pub(in crate::cli) recursive: bool,
    /// The agent, and which file of its scratch
    #[arg(value_name = "AGENT:PATH")]
    pub(in crate::cli) from: String,
    /// A file, a directory that is there to put it in, or - for stdout
    pub(in crate::cli) to: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PushArgs {
    /// The component
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// As if it were granted this directory
    #[arg(long, value_name = "HOST:GUEST[:ro]", value_parser = spec::parse_dir)]
    pub(in crate::cli) dir: Vec<DirGrant>,
    /// As if it were granted a private writable directory at /
    #[arg(long)]
    pub(in crate::cli) scratch: bool,
    /// As if it had this much memory, such as 128MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(in crate::cli) memory: Option<u64>,
    /// As if this limit were set, such as instances=100
    #[arg(long, value_name = "NAME=VALUE", value_parser = spec::parse_limit)]
    pub(in crate::cli) limit: Vec<(String, u64)>,
    #[command(flatten)]
    pub(in crate::cli) embedded: EmbeddedArgs,
    /// The component's file, which is brought to the host, or its digest there
    pub(in crate::cli) file: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildArgs {
    /// The package or workspace
    #[arg(default_value = ".")]
    pub(in crate::cli) dir: PathBuf,
    /// Where to put the components, with a manifest of what they were built from
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) out: Option<PathBuf>,
    /// Build nothing: tell which components in --out no longer fit their sources
    #[arg(long, requires = "out")]
    pub(in crate::cli) check: bool,
}
