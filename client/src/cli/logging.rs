//! Where this process's own log goes: stderr.

use skep_host::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

use super::failure::Failure;

/// For a command with a host in its process: only what a person must know,
/// unless `SKEP_LOG_FILTER` asks for more.
pub(super) fn quiet() -> Result<(), Failure> {
    let filter = std::env::var("SKEP_LOG_FILTER")
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or_else(|| "error".to_owned());
    start(&Log {
        filter,
        format: LogFormat::Text,
    })
    .map_err(|problem| Failure::of_skep(format!("SKEP_LOG_FILTER: {problem}")))
}

/// Starts the log, or says what is wrong with its filter.
pub(super) fn start(log: &Log) -> Result<(), String> {
    // Every client that leaves is an event to zeromq. A directive of the
    // operator's own for it takes the place of this one.
    let filter = format!("zeromq=warn,{}", log.filter);
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| error.to_string())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would tell of a stderr that takes nothing by `eprintln!`, which
        // panics then, in whichever of the host's threads it was.
        .log_internal_errors(false)
        .with_ansi(use_colours());
    // One that a test has started already stays.
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

fn use_colours() -> bool {
    use std::io::IsTerminal;
    // https://no-color.org: whatever its value, if it is not empty.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stderr().is_terminal()
}
