//! Whether a tree is to stand still, and whether it does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cgroup::Cgroup;
use super::control::Control;
use super::link::Shim;
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
    /// trace; or else by signals, which the shim sends.
    pub(super) fn turn(&mut self, shim: &mut Shim, cgroup: Option<&Cgroup>) {
        self.wanted = !self.wanted;
        self.stands = false;
        self.look_at = Instant::now();
        self.frozen = cgroup.is_some_and(|cgroup| cgroup.freeze(self.wanted).is_ok());
        if !self.frozen {
            shim.command(if self.wanted {
                wire::PAUSE
            } else {
                wire::RESUME
            });
        }
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
