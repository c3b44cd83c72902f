//! An agent that waits for its turn, as people are told.

use std::io::IsTerminal;
use std::time::Duration;

use skep_client::protocol::info::QueueInfo;
use skep_client::protocol::{AgentInfo, AgentState};

use super::{print, text};

/// `place 3, about 12.3 s`
pub(super) fn place(queue: &QueueInfo) -> String {
    let mut place = format!("place {}", text::count(queue.position));
    if let Some(ms) = queue.estimated_wait_ms {
        place.push_str(", about ");
        place.push_str(&text::duration(Duration::from_millis(ms)));
    }
    place
}

/// Tells whoever looks on why nothing happens yet.
pub(super) fn tell(agent: &AgentInfo) {
    if agent.state != AgentState::Queued || !std::io::stderr().is_terminal() {
        return;
    }
    let place = agent.queue.as_ref().map(place).unwrap_or_default();
    print::tell(&format!(
        "the host is full: the agent waits for its turn, {place}"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let told = |position, estimated_wait_ms| {
            place(&QueueInfo {
                position,
                estimated_wait_ms,
            })
        };
        assert_eq!(told(1, None), "place 1");
        assert_eq!(told(1200, Some(12_300)), "place 1,200, about 12.3 s");
    }
}
