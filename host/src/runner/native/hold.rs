//! Whether a tree is to stand still, and whether it does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cgroup::Cgroup;
use super::control::Control;
use super::wire;

/// The time between two looks at a tree that is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) wanted: bool,
    /// By the cgroup; or else by signals.
    frozen: bool,
    stands: bool,
    pub(super) look_at: Instant,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            wanted: false,
            frozen: false,
            stands: false,
            look_at: Instant::now(),
        }
    }
}

impl Hold {
    /// Holds the tree, or lets it go on: with a cgroup at once and without a
    /// trace; or else by signals, for which it gives the command to the shim.
    pub(super) fn turn(&mut self, cgroup: Option<&Cgroup>) -> Option<u8> {
        self.wanted = !self.wanted;
        self.stands = false;
        self.look_at = Instant::now();
        let freeze = |frozen| cgroup.is_some_and(|cgroup| cgroup.freeze(frozen).is_ok());
        if self.wanted {
            self.frozen = freeze(true);
            return (!self.frozen).then_some(wire::PAUSE);
        }
        // By what held it: a thaw does not wake what signals have stopped.
        if !self.frozen {
            return Some(wire::RESUME);
        }
        if !freeze(false) {
            tracing::warn!(
                "a paused agent was not let go on: pause and resume it again, or kill it"
            );
        }
        None
    }

    /// Whether somebody waits to hear that the tree stands.
    pub(super) fn looks(&self) -> bool {
        self.wanted && !self.stands
    }

    pub(super) async fn has_come_true(
        &mut self,
        control: &Arc<Control>,
        cgroup: Option<&Cgroup>,
    ) -> bool {
        self.stands = if self.frozen {
            cgroup.is_some_and(Cgroup::is_frozen)
        } else {
            let control = Arc::clone(control);
            let look = tokio::task::spawn_blocking(move || control.has_stopped());
            look.await.unwrap_or(false)
        };
        self.look_at = Instant::now() + LOOK_EVERY;
        self.stands
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_goes_on_by_what_held_it() {
        let base = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::make(base.path().join("agent")).unwrap();
        let dir = fs::read_dir(base.path()).unwrap().next().unwrap().unwrap();
        let file = dir.path().join("cgroup.freeze");
        let mut hold = Hold::default();

        // Nothing can be written to it, until it is gone.
        fs::create_dir(&file).unwrap();
        assert_eq!(hold.turn(Some(&cgroup)), Some(wire::PAUSE));
        fs::remove_dir(&file).unwrap();
        assert_eq!(hold.turn(Some(&cgroup)), Some(wire::RESUME));

        for frozen in ["1", "0"] {
            assert_eq!(hold.turn(Some(&cgroup)), None);
            assert_eq!(fs::read_to_string(&file).unwrap(), frozen);
        }
        fs::remove_file(&file).unwrap();

        assert_eq!(hold.turn(None), Some(wire::PAUSE));
        assert_eq!(hold.turn(None), Some(wire::RESUME));
    }
}
