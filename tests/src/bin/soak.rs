//! `soak`: hostile agents at random beside honest ones, with a report.
#![allow(clippy::print_stdout, reason = "its report is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use skep_tests::skep_binary;
use skep_tests::soak::{Plan, Report, payloads, soak, spawns};

/// Runs hostile agents on a host and tells what it, and honest agents beside
/// them, noticed of it. Ends with 1 if a promise is broken.
#[derive(Debug, Parser)]
struct Args {
    /// Hostile runs, beyond one of each case
    #[arg(long, value_name = "N", default_value_t = 500)]
    runs: usize,
    /// Hostile runs at once
    #[arg(long, value_name = "N", default_value_t = 32)]
    at_once: usize,
    /// Honest agents beside them
    #[arg(long, value_name = "N", default_value_t = 16)]
    honest: usize,
    /// Agents that spin while fairness is measured
    #[arg(long, value_name = "N", default_value_t = 64)]
    spinners: usize,
    /// Agents that print empty lines while it is measured again
    #[arg(long, value_name = "N", default_value_t = 32)]
    floods: usize,
    /// Only cases of these rows [default: all]
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// Draws the same again [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The host's binary [default: `skep` beside this one]
    #[arg(long, value_name = "PATH")]
    host: Option<PathBuf>,
    /// Writes the report as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fails for times that are over what is promised by less than ten times
    #[arg(long)]
    strict: bool,
    /// Instead, runs so many small agents in a row
    #[arg(long, value_name = "N", conflicts_with = "payloads")]
    spawns: Option<usize>,
    /// Instead, sends so many mutated requests
    #[arg(long, value_name = "N")]
    payloads: Option<usize>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let report = run(&args).await;
    println!("{report}");
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(file, json).with_context(|| file.display().to_string())?;
    }
    Ok(if report.holds(args.strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(args: &Args) -> Report {
    let host = args.host.clone().unwrap_or_else(skep_binary);
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    match (args.spawns, args.payloads) {
        (Some(count), _) => spawns(host, count).await,
        (None, Some(count)) => payloads(host, count, seed).await,
        (None, None) => {
            soak(&Plan {
                runs: args.runs,
                at_once: args.at_once,
                honest: args.honest,
                spinners: args.spinners,
                floods: args.floods,
                rows: args.rows.clone(),
                seed,
                host,
            })
            .await
        }
    }
}
