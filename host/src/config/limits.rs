//! The limits that the operator sets: what agents get, and what they may ask for.

use skep_protocol::{LimitName, Limits};

use super::raw::{self, RawLimits};
use super::{Capacity, ConfigError, GIB, MIB, positive};

/// The ceilings of an operator who names none: room for a large job, none for
/// what could only be a mistake.
pub(super) const CEILINGS: Limits = Limits {
    fuel: 1_000_000_000_000_000,
    wall_ms: 7 * 24 * 3_600_000,
    // Given back in one call of the system, which takes 0.1 s for each of these: its
    // thread for guests, or its kill, waits that long.
    memory_bytes: GIB,
    // As many memories, each of which takes addresses: so that a few agents take no
    // large part of those.
    instances: 128,
    // Each costs the host up to 450 bytes, which are no memory of the guest's and count
    // nowhere: so 4.5 MiB an agent.
    handles: 10_000,
    // What takes about as long to copy as a turn lasts: nobody goes between.
    hostcall_bytes: 4 * MIB,
    stdin_bytes: 64 * MIB,
    output_history_bytes: 256 * MIB,
    output_bytes_per_s: GIB,
    paused_ms: 30 * 24 * 3_600_000,
    component_bytes: 256 * MIB,
    args_env_bytes: MIB,
    disk_bytes: 64 * GIB,
    files: 1_000_000,
    open_files: 1024,
    // As many as are killed within 0.1 s where no cgroup shares the processors; 4,096 took
    // 0.3 to 4 s, and neighbours waited as long.
    processes: 1024,
};

fn limits(section: &str, base: Limits, raw: &RawLimits) -> Result<Limits, ConfigError> {
    let ask = &raw.0;
    for &name in LimitName::ALL {
        if let Some(value) = ask.get(name) {
            positive(&format!("{section}.{}", name.as_str()), value)?;
        }
    }
    Ok(base.with(ask))
}

/// No agent is promised more memory than all may use together.
pub(super) fn ceilings(asked: &RawLimits, capacity: &Capacity) -> Result<Limits, ConfigError> {
    let most = capacity.memory_bytes;
    let base = Limits {
        memory_bytes: CEILINGS.memory_bytes.min(most),
        ..CEILINGS
    };
    let ceilings = limits("ceilings", base, asked)?;
    if ceilings.memory_bytes > most {
        let problem = format!(
            "{} is over capacity.memory_bytes, which is {most}",
            ceilings.memory_bytes
        );
        return Err(ConfigError::new("ceilings.memory_bytes", problem));
    }
    Ok(ceilings)
}

/// An operator who lowers a ceiling need not lower the default too; one who
/// sets both wrongly is told.
pub(super) fn defaults(asked: &RawLimits, ceilings: &Limits) -> Result<Limits, ConfigError> {
    let base = Limits::default();
    let lowered = LimitName::ALL.iter().filter_map(|&name| {
        let ceiling = ceilings.get(name);
        (base.get(name) > ceiling).then_some((name.as_str(), ceiling))
    });
    let lowered = raw::asks::<serde::de::value::Error>(lowered)
        .map_err(|error| ConfigError::new("ceilings", error))?;
    let defaults = limits("defaults", base.with(&lowered), asked)?;
    for &name in LimitName::ALL {
        let (default, ceiling) = (defaults.get(name), ceilings.get(name));
        if default > ceiling {
            let name = name.as_str();
            let problem = format!("{default} is over ceilings.{name}, which is {ceiling}");
            return Err(ConfigError::new(format!("defaults.{name}"), problem));
        }
    }
    Ok(defaults)
}
