//! `skep serve`: the host.

use std::time::Duration;

use serde_json::json;
use skep_client::Endpoint;
use skep_host::config::{Config, RawConfig};
use skep_host::{Endpoints, Host, Purpose};
use skep_transport::{BindError, ServerConfig, Sockets, Wire};
use tokio::runtime::Builder;
use tokio::time::Instant;

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
    logging::serve(&config.log)
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
    skep_host::allocator::purges_with(purge);
}

/// Has the allocator give back all that is free.
#[expect(
    unsafe_code,
    reason = "the crates for jemalloc have no function for it"
)]
fn purge() {
    let (nothing, none) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the name is that of a control that takes and returns nothing; 4096 stands
    // for all arenas (MALLCTL_ARENAS_ALL).
    let refused = unsafe {
        tikv_jemalloc_sys::mallctl(c"arena.4096.purge".as_ptr(), nothing, none, nothing, 0)
    };
    if refused != 0 {
        tracing::warn!("the allocator does not give memory back: error {refused}");
    }
}

async fn host(context: &Context, config: &Config) -> Outcome {
    // Before anything is there to be ended.
    let mut signals = Signals::with_hangup()?;
    let (wire, sockets) = listen(config)
        .await
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
            print::tell("ending at once");
            Ok(exit::of_signal(signal))
        }
    }
}

/// Listens where it is to; with patience where the host before was just killed, which
/// has its addresses until the kernel has taken it and what it was starting apart.
async fn listen(config: &Config) -> Result<(Wire, Sockets), BindError> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        let (control, events) = (config.control.clone(), config.events.clone());
        match skep_transport::serve(ServerConfig::new(control, events)) {
            Err(BindError::InUse { .. }) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            served => return served,
        }
    }
}

fn tell_end(config: &Config, agents: u64) {
    if agents == 0 {
        return print::tell("ending");
    }
    let grace = text::duration(config.grace);
    print::tell(&format!(
        "ending: {} agents have {grace} to stop; a second signal ends the host at once",
        text::count(agents)
    ));
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
        // Whoever started it may not listen, or not read: it serves all the same.
        tokio::task::spawn_blocking(move || print::line(&line.to_string()));
    }
    let events = events.as_deref().unwrap_or("none");
    print::tell(&format!(
        "listening on {control}, events on {events}, state in {}",
        config.state_dir.display()
    ));
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
