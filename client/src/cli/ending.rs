//! How an agent ended, for people. Pure.

use std::time::Duration;

use skep_client::protocol::{AgentInfo, Outcome, RunnerKind};

use super::text;

/// What is said of an end that its exit code alone does not tell.
pub(super) fn explain(agent: &AgentInfo, outcome: &Outcome) -> Option<String> {
    let advice = match outcome {
        Outcome::Exited { .. } | Outcome::Stopped { .. } | Outcome::Killed => {
            return None;
        }
        Outcome::Trapped { .. } => "look at the agent's stderr and code",
        Outcome::OutOfFuel { .. } => "give it more with --fuel",
        Outcome::OutOfMemory {
            limit_bytes,
            asked_bytes,
        } if asked_bytes <= limit_bytes => "run it when other agents have ended",
        Outcome::OutOfMemory { .. } => "give it more with --memory",
        Outcome::Deadline { .. } => "give it more with --timeout",
        Outcome::Signaled { .. } => "look at the program",
        Outcome::StartFailed { .. } if agent.runner == RunnerKind::Native => "look at the program",
        Outcome::StartFailed { .. } => "look at the component",
        Outcome::HostLost => "start it again",
        Outcome::HostFault { .. } => "report this bug with the host's log",
    };
    let mut text = format!(
        "{} {}: {advice} ({})",
        agent.name,
        told(outcome),
        outcome.kind()
    );
    if let Outcome::Trapped { backtrace, .. } = outcome {
        for frame in backtrace {
            text.push_str("\n  at ");
            text.push_str(&text::clean(frame));
        }
    }
    Some(text)
}

/// An outcome for people.
pub(super) fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Trapped { trap, message, .. } => {
            format!("trapped, {}: {}", trap.as_str(), text::clean(message))
        }
        Outcome::OutOfFuel { limit } => {
            format!("ran out of fuel, of which it had {}", text::count(*limit))
        }
        // Within its limit, it was the host that had no more.
        Outcome::OutOfMemory {
            limit_bytes,
            asked_bytes,
        } if asked_bytes <= limit_bytes => format!(
            "ran out of memory: it asked for {}, and its host had no more to give",
            text::size(*asked_bytes)
        ),
        Outcome::OutOfMemory {
            limit_bytes,
            asked_bytes,
        } => format!(
            "ran out of memory: it asked for {} and may have {}",
            text::size(*asked_bytes),
            text::size(*limit_bytes)
        ),
        Outcome::Deadline { limit_ms } => format!(
            "ran for longer than the {} that it may",
            text::duration(Duration::from_millis(*limit_ms))
        ),
        Outcome::Signaled { signal } => format!("was ended by signal {signal}"),
        Outcome::StartFailed { code, message } => {
            format!("did not start, {code}: {}", text::clean(message))
        }
        Outcome::HostLost => "was lost with its host".to_owned(),
        Outcome::HostFault { incident } => {
            format!(
                "was ended by a bug of the host, incident {}",
                text::clean(incident)
            )
        }
        Outcome::Exited { code } => format!("exited {code}"),
        Outcome::Stopped { forced: false } => "stopped".to_owned(),
        Outcome::Stopped { forced: true } => "was stopped by force".to_owned(),
        Outcome::Killed => "was killed".to_owned(),
    }
}

/// What limits can be chosen by.
pub(super) fn stats(agent: &AgentInfo) -> String {
    let usage = &agent.usage;
    let took = match (agent.started_ms, agent.exited_ms) {
        (Some(start), Some(end)) => Duration::from_millis(end.saturating_sub(start)),
        _ => Duration::ZERO,
    };
    format!(
        "{} fuel of {}, {} peak memory of {}, {} of {}, {} cpu, {} stdout, {} stderr",
        text::count(usage.fuel_used),
        text::count(agent.limits.fuel),
        text::size(usage.memory_peak_bytes),
        text::size(agent.limits.memory_bytes),
        text::duration(took),
        text::duration(Duration::from_millis(agent.limits.wall_ms)),
        text::duration(Duration::from_millis(usage.cpu_ms)),
        text::size(usage.stdout_bytes),
        text::size(usage.stderr_bytes),
    )
}
