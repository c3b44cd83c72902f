//! `skep serve`: the host.

use std::io::Write;

use serde_json::json;
use skep_client::Endpoint;
use skep_host::config::{Config, RawConfig};
use skep_host::{Endpoints, Host, Purpose};
use skep_transport::ServerConfig;
use tokio::runtime::Builder;

use super::args::ServeArgs;
use super::failure::Failure;
use super::settings::Settings;
use super::signals::Signals;
use super::{Context, Outcome, exit, logging, print, text};

pub(super) fn serve(context: &Context, args: &ServeArgs) -> Outcome {
    let settings = Settings::load(args, std::env::vars_os()).map_err(Failure::of_skep)?;
    let config = settings.config().map_err(Failure::of_skep)?;
    if args.print_config {
        return print_config(context, &config);
    }
    logging::start(&config.log)
        .map_err(|problem| Failure::of_skep(settings.blame("log.filter", &problem)))?;
    config
        .create_state_dir()
        .map_err(|error| Failure::of_skep(settings.blame(&error.key, &error.problem)))?;
    give_back_when_idle();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of_skep(format!("cannot start a runtime: {error}")))?;
    let outcome = runtime.block_on(host(context, &config));
    runtime.shutdown_background();
    outcome
}

/// Has the allocator give memory back to the system by itself. Otherwise it does
/// as more is asked for, and a host that has become quiet would keep what it had.
fn give_back_when_idle() {
    // Not by default: helpers, which are this binary too, must have one thread.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!("memory is given back only as more is asked for: {error}");
    }
}

async fn host(context: &Context, config: &Config) -> Outcome {
    // Before anything is there to be ended.
    let mut signals = Signals::of_host()?;
    let (wire, sockets) = skep_transport::serve(ServerConfig::new(
        config.control.clone(),
        config.events.clone(),
    ))
    .map_err(|error| Failure::of_skep(format!("cannot listen: {error}")))?;
    let endpoints = Endpoints {
        control: sockets.control_endpoint().to_string(),
        events: sockets.events_endpoint().map(Endpoint::to_string),
    };
    let host = Host::start(config, wire, endpoints.clone(), Purpose::Serve)
        .map_err(|error| Failure::of_skep(format!("the host does not start: {error}")))?;
    announce(context, config, &endpoints);

    signals.next().await;
    tell_end(config, host.agents().all());
    let ending = async {
        host.shutdown().await;
        sockets.close().await;
    };
    tokio::select! {
        () = ending => Ok(0),
        // What runs in this process goes with it, and native agents' shims see it go.
        signal = signals.next_but_hangup() => {
            tell("ending at once");
            Ok(exit::of_signal(signal))
        }
    }
}

fn tell_end(config: &Config, agents: u64) {
    if agents == 0 {
        return tell("ending");
    }
    let grace = text::duration(config.grace);
    tell(&format!(
        "ending: {} agents have {grace} to stop; a second signal ends the host at once",
        text::count(agents)
    ));
}

/// To a terminal that may have been closed, which is why the host ends.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "skep: {text}");
}

fn announce(context: &Context, config: &Config, endpoints: &Endpoints) {
    let Endpoints { control, events } = endpoints;
    if context.json {
        let line = json!({
            "server_id": config.server_id,
            "control": control,
            "events": events,
            "state_dir": config.state_dir,
        });
        // Whoever started it may not listen; it serves all the same.
        let _ = print::line(&line.to_string());
    }
    let events = events.as_deref().unwrap_or("none");
    eprintln!(
        "skep: listening on {control}, events on {events}, state in {}",
        config.state_dir.display()
    );
}

fn print_config(context: &Context, config: &Config) -> Outcome {
    let whole = RawConfig::from(config);
    if context.json {
        return print::json(&whole);
    }
    let text = toml::to_string(&whole)
        .map_err(|error| Failure::of_skep(format!("cannot be written as TOML: {error}")))?;
    print::bytes(text.as_bytes())
}
