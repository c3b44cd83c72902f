//! The configuration as it is written: every value optional, every unknown key
//! an error. What it serialises to can be read again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::{MapDeserializer, U64Deserializer};
use serde::de::{Error, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_protocol::{LimitName, Limits, LimitsAsk};

use super::{Config, LogFormat, units};

macro_rules! sections {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $name {
                $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
            }
        )*
    };
}

/// What a file, the environment and flags say together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// What the host is and where.
    pub server: RawServer,
    /// How much it holds.
    pub capacity: RawCapacity,
    /// The limits of a spec that asks for none.
    pub defaults: RawLimits,
    /// The highest limits that a spec may ask for.
    pub ceilings: RawLimits,
    /// What agents may be granted.
    pub grants: RawGrants,
    /// Native agents.
    pub native: RawNative,
    /// The host's log.
    pub log: RawLog,
    /// The record of requests.
    pub audit: RawAudit,
}

sections! {
    /// `[server]`
    RawServer {
        /// The host's id.
        id: String,
        /// The control endpoint.
        control: String,
        /// The events endpoint, or `none`.
        events: String,
        /// Where state is kept.
        state_dir: PathBuf,
        /// Where compiled components are kept, or `none`.
        cache_dir: PathBuf,
        /// The binary that compiles components and confines native programs; by
        /// default the running one.
        helper: PathBuf,
        /// How long agents have to end when the host does.
        grace: RawDuration,
    }

    /// `[capacity]`
    RawCapacity {
        /// Agents that are not ended and do not wait.
        max_agents: u64,
        /// Agents that wait.
        max_queued: u64,
        /// Bytes of memory that all agents may use.
        memory_bytes: RawSize,
        /// How many times that their limits may add up to.
        memory_overcommit: u64,
        /// Ended agents that are remembered.
        max_ended: u64,
        /// How long they are.
        max_ended_age: RawDuration,
        /// Bytes of the output of all agents.
        history_bytes: RawSize,
        /// Bytes of what ended agents left in their scratch.
        kept_files_bytes: RawSize,
        /// Bytes of components.
        components_bytes: RawSize,
        /// Components that are checked, and that are compiled, at a time.
        compile_workers: u64,
        /// Processor time that checking or compiling a component may take.
        compile_ms: u64,
        /// Memory that it may take.
        compile_memory_bytes: RawSize,
        /// Bytes of compiled components on disk.
        cache_bytes: RawSize,
    }

    /// `[grants]`
    RawGrants {
        /// Below which directories others may be granted.
        dir_roots: Vec<PathBuf>,
    }

    /// `[native]`
    RawNative {
        /// Whether native agents may run at all.
        enabled: bool,
        /// The programs that may be run; none means any.
        programs: Vec<PathBuf>,
        /// Whom agents are under a host that is root; by default `nobody`.
        user: String,
    }

    /// `[log]`
    RawLog {
        /// Which records.
        filter: String,
        /// In which form.
        format: LogFormat,
    }

    /// `[audit]`
    RawAudit {
        /// Whether requests are recorded.
        enabled: bool,
        /// Bytes of one file.
        max_bytes: RawSize,
        /// Files.
        files: u64,
    }
}

/// `[defaults]` or `[ceilings]`: numbers, or texts with a unit such as `64MiB`
/// or `30s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RawLimits(pub LimitsAsk);

impl<'de> Deserialize<'de> for RawLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let amounts = BTreeMap::<String, Amount>::deserialize(deserializer)?;
        let mut numbers = BTreeMap::new();
        for (name, amount) in amounts {
            let number = match amount {
                Amount::Number(number) => number,
                Amount::Text(text) => units::parse_limit(&name, &text)
                    .map_err(|error| D::Error::custom(format_args!("`{name}`: {error}")))?,
            };
            numbers.insert(name, number);
        }
        let numbers = numbers
            .iter()
            .map(|(name, number)| (name.as_str(), *number));
        asks(numbers).map(Self)
    }
}

/// The limits of a spec that asks for these. The error says which name is
/// unknown, and which ones are not.
pub(super) fn asks<'a, E: Error>(
    limits: impl Iterator<Item = (&'a str, u64)>,
) -> Result<LimitsAsk, E> {
    LimitsAsk::deserialize(MapDeserializer::new(
        limits.map(|(name, value)| (name, Asked(value))),
    ))
}

/// A number where an `Option` is expected: serde's own would refuse that.
struct Asked(u64);

impl<E: Error> IntoDeserializer<'_, E> for Asked {
    type Deserializer = AskedDeserializer<E>;
    fn into_deserializer(self) -> Self::Deserializer {
        AskedDeserializer(self.0.into_deserializer())
    }
}

struct AskedDeserializer<E>(U64Deserializer<E>);

impl<'de, E: Error> Deserializer<'de> for AskedDeserializer<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum
        identifier ignored_any
    }
}

/// A number of bytes: a number, or a text such as `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RawSize(pub u64);

impl<'de> Deserialize<'de> for RawSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Amount::deserialize(deserializer)? {
            Amount::Number(bytes) => Ok(Self(bytes)),
            Amount::Text(text) => units::parse_size(&text).map(Self).map_err(D::Error::custom),
        }
    }
}

/// A length of time: a text such as `5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDuration(pub Duration);

impl Serialize for RawDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::parse_duration(&text)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

enum Amount {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;
        impl Visitor<'_> for AmountVisitor {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text with a unit such as \"64MiB\" or \"30s\"")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount::Number(number))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Amount, E> {
                u64::try_from(number)
                    .map(Amount::Number)
                    .map_err(|_| E::custom("must not be negative"))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(AmountVisitor)
    }
}

impl From<&Config> for RawConfig {
    /// The whole configuration, with every default written out.
    fn from(config: &Config) -> Self {
        let Config {
            server_id,
            control,
            events,
            state_dir,
            capacity,
            ..
        } = config;
        Self {
            server: RawServer {
                id: Some(server_id.clone()),
                control: Some(control.to_string()),
                events: Some(
                    events
                        .as_ref()
                        .map_or("none".to_owned(), ToString::to_string),
                ),
                state_dir: Some(state_dir.clone()),
                cache_dir: Some(config.cache_dir.clone().unwrap_or_else(|| "none".into())),
                helper: config.helper.clone(),
                grace: Some(RawDuration(config.grace)),
            },
            capacity: RawCapacity {
                max_agents: Some(capacity.max_agents as u64),
                max_queued: Some(capacity.max_queued as u64),
                memory_bytes: Some(RawSize(capacity.memory_bytes)),
                memory_overcommit: Some(capacity.memory_overcommit),
                max_ended: Some(capacity.max_ended as u64),
                max_ended_age: Some(RawDuration(capacity.max_ended_age)),
                history_bytes: Some(RawSize(capacity.history_bytes)),
                kept_files_bytes: Some(RawSize(capacity.kept_files_bytes)),
                components_bytes: Some(RawSize(capacity.components_bytes)),
                compile_workers: Some(capacity.compile_workers as u64),
                compile_ms: u64::try_from(capacity.compile_time.as_millis()).ok(),
                compile_memory_bytes: Some(RawSize(capacity.compile_memory_bytes)),
                cache_bytes: Some(RawSize(capacity.cache_bytes)),
            },
            defaults: whole(&config.defaults),
            ceilings: whole(&config.ceilings),
            grants: RawGrants {
                dir_roots: Some(config.dir_roots.clone()),
            },
            native: RawNative {
                enabled: Some(config.native.is_some()),
                programs: config.native.as_ref().map(|native| native.programs.clone()),
                user: config
                    .native
                    .as_ref()
                    .and_then(|native| native.user.clone()),
            },
            log: RawLog {
                filter: Some(config.log.filter.clone()),
                format: Some(config.log.format),
            },
            audit: RawAudit {
                enabled: Some(config.audit.is_some()),
                max_bytes: config.audit.map(|audit| RawSize(audit.max_bytes)),
                files: config.audit.map(|audit| audit.files.into()),
            },
        }
    }
}

fn whole(limits: &Limits) -> RawLimits {
    let pairs = LimitName::ALL
        .iter()
        .map(|&name| (name.as_str(), limits.get(name)));
    // The name of each limit is the name of its field.
    RawLimits(asks::<serde::de::value::Error>(pairs).unwrap_or_default())
}
