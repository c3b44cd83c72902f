//! Whether a tree is to stand still, and whether it does.

use std::sync::Arc;
use std::time::Duration;

use super::cgroup::Cgroup;
use super::control::Control;
use super::look::Look;
use super::wire;

/// The time between two looks at a tree that is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) wanted: bool,
    /// By the cgroup; or else by signals.
    frozen: bool,
    stands: bool,
    look: Look<bool>,
    /// The look that is under way is at what was before the last turn.
    outdated: bool,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            wanted: false,
            frozen: false,
            stands: false,
            look: Look::every(LOOK_EVERY),
            outdated: false,
        }
    }
}

impl Hold {
    /// Holds the tree, or lets it go on: with a cgroup at once and without a
    /// trace; or else by signals, for which it gives the command to the shim.
    pub(super) fn turn(&mut self, cgroup: Option<&Cgroup>) -> Option<u8> {
        self.wanted = !self.wanted;
        self.stands = false;
        self.outdated = self.look.at_once();
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

    /// Waits for a look at it. Safe to cancel.
    pub(super) async fn has_come_true(
        &mut self,
        control: &Arc<Control>,
        cgroup: Option<&Cgroup>,
    ) -> bool {
        self.stands = if self.frozen {
            self.look.due().await;
            cgroup.is_some_and(Cgroup::is_frozen)
        } else {
            let control = Arc::clone(control);
            let look = || tokio::task::spawn_blocking(move || control.has_stopped());
            let seen = self.look.next(look).await.unwrap_or(false);
            !std::mem::take(&mut self.outdated) && seen
        };
        self.stands
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_look_from_before_a_turn_tells_nothing() {
        let control = Arc::new(Control::new(Arc::default()));
        // A process without children, below which all stands still.
        control.lives(Some(i32::MAX));
        let mut hold = Hold::default();
        hold.turn(None);
        let (over, when) = tokio::sync::oneshot::channel::<()>();
        let mut look = Some(async { when.await.is_ok() });
        while !hold.look.at_once() {
            tokio::select! {
                biased;
                seen = hold.look.next(|| tokio::spawn(look.take().unwrap())) => panic!("{seen:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        hold.turn(None);
        hold.turn(None);
        over.send(()).unwrap();
        assert!(!hold.has_come_true(&control, None).await);
        assert!(hold.has_come_true(&control, None).await);
    }

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
