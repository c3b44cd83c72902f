//! What the operator decides. A [`RawConfig`] is what a file, the environment
//! and flags say, with everything optional; a [`Config`] is what holds, checked
//! and without holes. What this build does not do is refused, not passed over.
//!
//! Nothing here reads files or the environment, but for the defaults that are
//! the machine's own: where state and the cache are kept, which binary runs, and
//! what the machine is called.

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use skep_protocol::{AgentName, Limits};
use skep_transport::Endpoint;

mod audit;
mod capacity;
mod limits;
mod machine;
mod places;
mod raw;
pub mod units;

pub use audit::Audit;
use audit::audit;
pub use capacity::Capacity;
use capacity::capacity;
use limits::{CEILINGS, ceilings, defaults};
pub use places::cache_dir;
pub use raw::{
    RawAudit, RawCapacity, RawConfig, RawDuration, RawGrants, RawLimits, RawLog, RawNative,
    RawServer, RawSize,
};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// TOML has no larger integers, so that the resolved configuration can be
/// printed and read again.
const MAX_NUMBER: u64 = i64::MAX as u64;

/// The configuration of a host, checked and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The host's id; by default it is new at each start.
    pub server_id: String,
    /// Where requests are taken.
    pub control: Endpoint,
    /// Where events are published, if they are.
    pub events: Option<Endpoint>,
    /// Where the host keeps what survives it.
    pub state_dir: PathBuf,
    /// Where compiled components are kept, if they are.
    pub cache_dir: Option<PathBuf>,
    /// The binary that compiles components and confines native programs:
    /// `skep`, or one whose `main` begins with [`crate::helper::serve_if_asked`].
    /// By default the running one, if it does; without any, no host starts.
    pub helper: Option<PathBuf>,
    /// How much the host holds.
    pub capacity: Capacity,
    /// The limits of a spec that asks for none.
    pub defaults: Limits,
    /// The highest limits that a spec may ask for.
    pub ceilings: Limits,
    /// Below which directories others may be granted; canonical paths.
    pub dir_roots: Vec<PathBuf>,
    /// How native agents run, if they may.
    pub native: Option<Native>,
    /// How long agents have to end when the host does.
    pub grace: Duration,
    /// What the host logs.
    pub log: Log,
    /// How much is kept of the record of requests, if there is one.
    pub audit: Option<Audit>,
}

/// How native agents run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// The programs that may be run; none means any.
    pub programs: Vec<PathBuf>,
    /// Whom agents are if the host is root; `nobody` if it is not said.
    pub user: Option<String>,
}

/// What the host logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Which records, in the directives of `tracing-subscriber`.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

/// The form of the host's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// A value that does not do. The operator mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// Which value: `section.key`.
    pub key: String,
    /// What is wrong with it and what would do.
    pub problem: String,
}

impl ConfigError {
    fn new(key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            problem: problem.to_string(),
        }
    }
}

impl Config {
    /// The configuration of a host inside the process of the person whom it
    /// serves: no sockets, no state that stays but the cache of compiled
    /// components, any directory, any program.
    ///
    /// The state directory does not exist yet and is the caller's to remove.
    #[must_use]
    pub fn embedded() -> Self {
        let unique = uuid::Uuid::new_v4().simple();
        Self {
            server_id: "embedded".to_owned(),
            // Never bound: the wire of an embedded host has no sockets.
            control: Endpoint::loopback(0),
            events: None,
            state_dir: std::env::temp_dir().join(format!("skep-{unique}")),
            cache_dir: places::own_cache_dir(),
            helper: crate::helper::own_binary(),
            capacity: Capacity {
                max_agents: 16,
                max_queued: 16,
                max_ended: 16,
                // One agent, of a person to whom the disk belongs.
                kept_files_bytes: MAX_NUMBER,
                components_bytes: 512 * MIB,
                ..Capacity::default()
            },
            // The only reader may be slower than the agent for a while.
            defaults: Limits {
                output_history_bytes: CEILINGS.output_history_bytes,
                ..Limits::default()
            },
            // Nobody else waits while it is given back.
            ceilings: Limits {
                memory_bytes: 4 * GIB,
                ..CEILINGS
            },
            dir_roots: vec![PathBuf::from("/")],
            native: Some(Native {
                programs: Vec::new(),
                user: None,
            }),
            grace: DEFAULT_GRACE,
            log: Log::default(),
            // Who asks is the person whose process it is.
            audit: None,
        }
    }

    /// Makes the state directory, for its owner alone, unless it is there.
    ///
    /// # Errors
    /// With `server.state_dir`, if it cannot be made.
    pub fn create_state_dir(&self) -> Result<(), ConfigError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state_dir)
            .map_err(|error| {
                let dir = self.state_dir.display();
                ConfigError::new("server.state_dir", format!("cannot make {dir}: {error}"))
            })
    }
}

const DEFAULT_GRACE: Duration = Duration::from_secs(5);

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let capacity = capacity(&raw.capacity)?;
        let ceilings = ceilings(&raw.ceilings, &capacity)?;
        let defaults = defaults(&raw.defaults, &ceilings)?;
        Ok(Self {
            server_id: server_id(raw.server.id)?,
            control: control(raw.server.control)?,
            events: events(raw.server.events)?,
            state_dir: places::state_dir(raw.server.state_dir)?,
            cache_dir: cache_dir(raw.server.cache_dir)?,
            helper: places::helper(raw.server.helper)?,
            capacity,
            defaults,
            ceilings,
            dir_roots: dir_roots(raw.grants.dir_roots.unwrap_or_default())?,
            native: native(raw.native)?,
            grace: raw.server.grace.map_or(DEFAULT_GRACE, |grace| grace.0),
            log: log(raw.log)?,
            audit: audit(raw.audit)?,
        })
    }
}

fn server_id(id: Option<String>) -> Result<String, ConfigError> {
    match id {
        // It becomes part of a topic.
        Some(id) => match id.parse::<AgentName>() {
            Ok(_) => Ok(id),
            Err(error) => Err(ConfigError::new("server.id", format!("`{id}` is {error}"))),
        },
        None => {
            let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let machine = AgentName::from_lossy(machine.trim());
            let machine: String = machine.as_str().chars().take(40).collect();
            let unique: String = (uuid::Uuid::new_v4().simple().to_string().chars())
                .take(8)
                .collect();
            Ok(format!("{machine}-{unique}"))
        }
    }
}

fn control(text: Option<String>) -> Result<Endpoint, ConfigError> {
    match text {
        Some(text) => endpoint("server.control", &text),
        None => Ok(Endpoint::loopback(5555)),
    }
}

fn events(text: Option<String>) -> Result<Option<Endpoint>, ConfigError> {
    match text.as_deref() {
        Some("none") => Ok(None),
        Some(text) => endpoint("server.events", text).map(Some),
        None => Ok(Some(Endpoint::loopback(5556))),
    }
}

fn endpoint(key: &str, text: &str) -> Result<Endpoint, ConfigError> {
    let endpoint: Endpoint = text.parse().map_err(|error| ConfigError::new(key, error))?;
    if !endpoint.is_local() {
        return Err(ConfigError::new(
            key,
            format!(
                "`{endpoint}` can be reached from other machines, and this build has no keys to \
                 tell friend from foe: use tcp://127.0.0.1:PORT or ipc://PATH, and reach it from \
                 elsewhere through a tunnel, such as ssh -L"
            ),
        ));
    }
    Ok(endpoint)
}

fn positive(key: &str, value: u64) -> Result<u64, ConfigError> {
    match value {
        0 => Err(ConfigError::new(key, "must be at least 1")),
        1..=MAX_NUMBER => Ok(value),
        _ => Err(ConfigError::new(
            key,
            format!("must be at most {MAX_NUMBER}"),
        )),
    }
}

fn dir_roots(roots: Vec<PathBuf>) -> Result<Vec<PathBuf>, ConfigError> {
    const KEY: &str = "grants.dir_roots";
    let canonical = |root: &PathBuf| {
        let shown = root.display();
        if !root.is_absolute() {
            return Err(ConfigError::new(
                KEY,
                format!("`{shown}` is not an absolute path"),
            ));
        }
        match root.canonicalize() {
            Ok(path) if path.is_dir() => Ok(path),
            Ok(_) => Err(ConfigError::new(KEY, format!("{shown} is not a directory"))),
            Err(error) => Err(ConfigError::new(KEY, format!("{shown}: {error}"))),
        }
    };
    roots.iter().map(canonical).collect()
}

fn native(raw: RawNative) -> Result<Option<Native>, ConfigError> {
    let programs = raw.programs.unwrap_or_default();
    if let Some(program) = programs.iter().find(|program| !program.is_absolute()) {
        let problem = format!("`{}` is not an absolute path", program.display());
        return Err(ConfigError::new("native.programs", problem));
    }
    let enabled = raw.enabled.unwrap_or(false);
    Ok(enabled.then_some(Native {
        programs,
        user: raw.user,
    }))
}

fn log(raw: RawLog) -> Result<Log, ConfigError> {
    let default = Log::default();
    let filter = raw.filter.unwrap_or(default.filter);
    let format = raw.format.unwrap_or(default.format);
    if filter.trim().is_empty() {
        let problem = "is empty: name a level, such as info, or off";
        return Err(ConfigError::new("log.filter", problem));
    }
    Ok(Log { filter, format })
}

#[cfg(test)]
mod tests;
