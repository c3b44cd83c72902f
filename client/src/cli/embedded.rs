//! A host in this process, without sockets, for one command.

use skep_client::Client;
use skep_host::config::Config;
use skep_host::{Endpoints, Host, Purpose};

use super::args::EmbeddedArgs;
use super::failure::Failure;

/// The host, with what it leaves behind.
pub(super) struct Embedded {
    host: Host,
    config: Config,
}

impl Embedded {
    pub(super) fn start(args: &EmbeddedArgs) -> Result<(Self, Client), Failure> {
        let mut config = Config::embedded();
        config.cache_dir = skep_host::config::cache_dir(args.cache_dir.clone())
            .map_err(|error| Failure::of_skep(format!("--cache-dir: {}", error.problem)))?;
        let (wire, connection) = skep_transport::local();
        let host = Host::start(&config, wire, Endpoints::default(), Purpose::RunOne)
            .map_err(|error| Failure::of_skep(format!("the host does not start: {error}")))?;
        Ok((Self { host, config }, Client::over(connection)))
    }

    pub(super) async fn end(self) {
        self.host.shutdown().await;
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.config.state_dir);
    }
}
