//! How long agents take, by component, so that one that waits can be told for
//! how long about. Recent ones count more.

use std::collections::HashMap;
use std::time::Duration;

use skep_protocol::Digest;

/// Components that are remembered; beyond it the one that ended longest ago is
/// forgotten, and its next agent is told the mean of all.
const COMPONENTS: usize = 256;

/// An agent's share in the mean: one in eight.
const SHARE: u32 = 8;

#[derive(Debug, Clone, Copy)]
struct Mean {
    time: Duration,
    /// When it was last changed, in ends of agents.
    at: u64,
}

/// The means.
#[derive(Debug, Default)]
pub struct Pace {
    of: HashMap<Digest, Mean>,
    all: Option<Duration>,
    ends: u64,
}

impl Pace {
    /// Notes that an agent has ended, and how long it had taken.
    pub fn note(&mut self, component: Option<Digest>, time: Duration) {
        self.ends += 1;
        self.all = Some(drawn(self.all, time));
        let Some(component) = component else { return };
        if self.of.len() >= COMPONENTS && !self.of.contains_key(&component) {
            let oldest = self.of.iter().min_by_key(|(_, mean)| mean.at);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.of.remove(&oldest);
            }
        }
        let before = self.of.get(&component).map(|mean| mean.time);
        let mean = Mean {
            time: drawn(before, time),
            at: self.ends,
        };
        self.of.insert(component, mean);
    }

    /// How long it takes until the turn of who stands at `position` comes while
    /// so many run, if they take as long as agents of this component did; or,
    /// where none has ended, as all did. `None` where nothing is known.
    #[must_use]
    pub fn wait(
        &self,
        component: Option<Digest>,
        position: usize,
        running: usize,
    ) -> Option<Duration> {
        let own = component.and_then(|digest| self.of.get(&digest));
        let mean = own.map(|mean| mean.time).or(self.all)?;
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        let running = u32::try_from(running.max(1)).unwrap_or(u32::MAX);
        Some(mean.saturating_mul(position) / running)
    }
}

fn drawn(mean: Option<Duration>, time: Duration) -> Duration {
    match mean {
        None => time,
        Some(mean) => (mean - mean / SHARE).saturating_add(time / SHARE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn digest(n: usize) -> Option<Digest> {
        Some(Digest::of(&n.to_le_bytes()))
    }

    #[test]
    fn the_wait_is_that_of_the_component_and_else_that_of_all() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(digest(1), 1, 1), None);
        pace.note(digest(1), 8 * SECOND);
        assert_eq!(pace.wait(digest(1), 3, 2), Some(12 * SECOND));
        assert_eq!(pace.wait(digest(2), 1, 1), Some(8 * SECOND));
        pace.note(digest(2), 16 * SECOND);
        assert_eq!(pace.wait(digest(1), 1, 1), Some(8 * SECOND));
        assert_eq!(pace.wait(digest(2), 1, 0), Some(16 * SECOND));
        assert_eq!(pace.wait(None, 1, 1), Some(9 * SECOND));
    }

    #[test]
    fn components_without_end_are_forgotten() {
        let mut pace = Pace::default();
        for n in 0..3 * COMPONENTS {
            pace.note(digest(0), SECOND);
            pace.note(digest(n + 1), 100 * SECOND);
        }
        assert_eq!(pace.of.len(), COMPONENTS);
        assert_eq!(pace.wait(digest(0), 1, 1), Some(SECOND));
    }
}
