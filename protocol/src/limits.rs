//! Limits: their names, their defaults and the forms they take.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident $variant:ident = $default:expr,)*) => {
        /// The name of a limit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum LimitName {
            $($(#[$doc])* $variant,)*
        }

        impl LimitName {
            /// Every limit.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name as it stands on the wire and in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)*
                }
            }
        }

        /// The limits that a spec asks for. What is left out comes from the
        /// operator's defaults.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitsAsk {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<u64>,)*
        }

        impl LimitsAsk {
            /// What is asked of one limit.
            #[must_use]
            pub const fn get(&self, name: LimitName) -> Option<u64> {
                match name {
                    $(LimitName::$variant => self.$field,)*
                }
            }
        }

        /// The limits of one agent, resolved: every one has a value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Limits {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Limits {
            /// The value of one limit.
            #[must_use]
            pub const fn get(&self, name: LimitName) -> u64 {
                match name {
                    $(LimitName::$variant => self.$field,)*
                }
            }

            /// These limits, with what is asked in their place.
            #[must_use]
            pub fn with(mut self, ask: &LimitsAsk) -> Self {
                $(if let Some(value) = ask.$field { self.$field = value; })*
                self
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

limits! {
    /// Instructions that the guest may run (wasm).
    fuel Fuel = 1_000_000_000_000,
    /// Milliseconds from the start of compiling to the end, without those
    /// in which it was paused.
    wall_ms WallMs = 3_600_000,
    /// Bytes: the sum over all linear memories and tables, or over all
    /// processes.
    memory_bytes MemoryBytes = 64 * MIB,
    /// Core instances that the component may make (wasm).
    instances Instances = 64,
    /// Handles to resources that the guest may hold (wasm).
    handles Handles = 1024,
    /// Bytes that one call to the host may pass (wasm).
    hostcall_bytes HostcallBytes = 2 * MIB,
    /// Bytes of stdin that wait to be read.
    stdin_bytes StdinBytes = MIB,
    /// Bytes of output that the host remembers.
    output_history_bytes OutputHistoryBytes = 8 * MIB,
    /// Bytes of output a second; what is faster waits.
    output_bytes_per_s OutputBytesPerS = 64 * MIB,
    /// Milliseconds that the agent may stay paused in all.
    paused_ms PausedMs = 24 * 3_600_000,
    /// Bytes of the component.
    component_bytes ComponentBytes = 64 * MIB,
    /// Bytes of all arguments and all of the environment.
    args_env_bytes ArgsEnvBytes = 64 * 1024,
    /// Logical bytes that the agent may put under its writable directories
    /// (wasm).
    disk_bytes DiskBytes = 64 * MIB,
    /// Files, directories and links that it may make there (wasm).
    files Files = 4096,
    /// Files and directories that the agent may hold open; a native one, in
    /// each of its processes.
    open_files OpenFiles = 64,
    /// Processes and threads (native).
    processes Processes = 64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_takes_the_place_of_the_default() {
        let ask = LimitsAsk {
            fuel: Some(7),
            processes: Some(1),
            ..LimitsAsk::default()
        };
        let limits = Limits::default().with(&ask);
        assert_eq!(limits.fuel, 7);
        assert_eq!(limits.wall_ms, 3_600_000);
        assert_eq!(limits.get(LimitName::Processes), 1);
    }
}
