//! Whether the host is well, and if not, why: what a task of its own finds out now
//! and then, so that whoever asks is answered at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_protocol::op::{HealthCode, HealthReason};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// How often the event loop is asked to be on time: ten wake-ups a second.
const TICK: Duration = Duration::from_millis(100);

/// For how long its worst is remembered.
const REMEMBERED: Duration = Duration::from_secs(10);

/// An event loop that is later than this keeps clients waiting; they ask again
/// after seconds.
const LATE: Duration = Duration::from_secs(1);

/// How often the disk is looked at, and whether events were dropped.
const LOOK: Duration = Duration::from_secs(5);

/// For how long dropped events are told of.
const DROPS_TOLD: Duration = Duration::from_secs(60);

/// Below this a disk is low, or below a twentieth of it, if that is less.
const LOW_BYTES: u64 = 256 * 1024 * 1024;
const LOW_SHARE: u64 = 20;

/// What is known of the host's state.
#[derive(Debug, Default)]
pub struct Vitals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    late: Worst,
    disk: Option<Space>,
    storage: Option<String>,
    dropped: u64,
    dropped_at: Option<Instant>,
}

/// Room on a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    free: u64,
    total: u64,
}

impl Space {
    const fn is_low(self) -> bool {
        let share = self.total / LOW_SHARE;
        self.free < if share < LOW_BYTES { share } else { LOW_BYTES }
    }

    fn of(dir: &Path) -> std::io::Result<Self> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(Self {
            // What the host may use, which is less than what root may.
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// The longest of the delays of late: at most one for each second.
#[derive(Debug, Default)]
struct Worst(VecDeque<(Instant, Duration)>);

impl Worst {
    fn note(&mut self, now: Instant, delay: Duration) {
        self.forget(now);
        match self.0.back_mut() {
            Some((since, worst))
                if now.saturating_duration_since(*since) < Duration::from_secs(1) =>
            {
                *worst = (*worst).max(delay);
            }
            _ => self.0.push_back((now, delay)),
        }
    }

    fn read(&mut self, now: Instant) -> Duration {
        self.forget(now);
        self.0
            .iter()
            .map(|(_, delay)| *delay)
            .max()
            .unwrap_or_default()
    }

    fn forget(&mut self, now: Instant) {
        self.0
            .retain(|(since, _)| now.saturating_duration_since(*since) < REMEMBERED);
    }
}

impl Vitals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is the matter with the state directory, or that nothing is.
    fn storage(&self, trouble: Option<String>) {
        self.state().storage = trouble;
    }

    fn looked(&self, now: Instant, space: Option<Space>, dropped: u64) {
        let mut state = self.state();
        state.disk = space;
        if dropped > state.dropped {
            state.dropped = dropped;
            state.dropped_at = Some(now);
        }
    }

    /// Why the host is not well, as far as was found out.
    #[must_use]
    pub fn reasons(&self, now: Instant) -> Vec<HealthReason> {
        let mut reasons = Vec::new();
        let mut because = |code, message| reasons.push(HealthReason { code, message });
        let mut state = self.state();
        let late = state.late.read(now);
        if let Some(Space { free, total }) = state.disk.filter(|space| space.is_low()) {
            because(
                HealthCode::DiskLow,
                format!(
                    "the disk of the state directory has {free} of {total} bytes left: make room"
                ),
            );
        }
        if let Some(trouble) = &state.storage {
            because(HealthCode::Storage, trouble.clone());
        }
        if late >= LATE {
            because(
                HealthCode::EventLoopLate,
                format!(
                    "its event loop was up to {} ms late within the last {} s: the machine has too \
                     much to do",
                    late.as_millis(),
                    REMEMBERED.as_secs()
                ),
            );
        }
        if state
            .dropped_at
            .is_some_and(|at| now.saturating_duration_since(at) < DROPS_TOLD)
        {
            because(
                HealthCode::EventsDropped,
                format!(
                    "it dropped events within the last {} s, {} since its start: followers read \
                     them from the history",
                    DROPS_TOLD.as_secs(),
                    state.dropped
                ),
            );
        }
        reasons
    }
}

/// Finds it out, until told to end.
pub(crate) async fn watch(core: Arc<Core>, state_dir: PathBuf, end: CancellationToken) {
    // One at a time: a disk that does not answer takes one thread.
    let mut looking: Option<Looking> = None;
    let mut look_at = Instant::now();
    loop {
        let due = Instant::now() + TICK;
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep_until(due) => {}
        }
        let now = Instant::now();
        core.vitals
            .state()
            .late
            .note(now, now.saturating_duration_since(due));
        match looking.take() {
            Some(Looking { found, .. }) if found.is_finished() => {
                let found = found.await.map_err(std::io::Error::other).flatten();
                saw(&core, &state_dir, found);
                look_at = now + LOOK;
            }
            Some(still) => {
                if now.saturating_duration_since(still.since) >= LOOK {
                    let path = state_dir.display();
                    let trouble = format!("the disk of the state directory {path} does not answer");
                    core.vitals.storage(Some(trouble));
                }
                looking = Some(still);
            }
            None if now >= look_at => {
                let dir = state_dir.clone();
                looking = Some(Looking {
                    since: now,
                    found: tokio::task::spawn_blocking(move || Space::of(&dir)),
                });
            }
            None => {}
        }
    }
}

/// A look at the disk, which may take its time.
struct Looking {
    since: Instant,
    found: JoinHandle<std::io::Result<Space>>,
}

fn saw(core: &Core, state_dir: &Path, found: std::io::Result<Space>) {
    let space = match found {
        Ok(space) => {
            core.vitals.storage(None);
            Some(space)
        }
        Err(error) => {
            let path = state_dir.display();
            core.vitals.storage(Some(format!(
                "the state directory {path} cannot be looked at: {error}"
            )));
            None
        }
    };
    let dropped = core.meter.read().events_dropped;
    core.vitals.looked(Instant::now(), space, dropped);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn codes(vitals: &Vitals, now: Instant) -> Vec<HealthCode> {
        vitals
            .reasons(now)
            .into_iter()
            .map(|reason| reason.code)
            .collect()
    }

    #[test]
    fn a_disk_is_low_by_its_size() {
        const GIB: u64 = 1 << 30;
        for (free, total, low) in [
            (255 << 20, 100 * GIB, true),
            (256 << 20, 100 * GIB, false),
            (3 << 20, 64 << 20, true),
            (4 << 20, 64 << 20, false),
            (0, 0, false),
        ] {
            assert_eq!(Space { free, total }.is_low(), low, "{free} of {total}");
        }
        assert!(Space::of(Path::new("/")).unwrap().total > 0);
        Space::of(Path::new("/nowhere/at/all")).unwrap_err();
    }

    #[test]
    fn what_was_found_is_told_until_it_is_over() {
        let vitals = Vitals::default();
        let start = Instant::now();
        assert_eq!(codes(&vitals, start), []);
        vitals.state().late.note(start, LATE);
        vitals.state().late.note(start + SECOND / 2, SECOND / 10);
        let low = Space {
            free: 1,
            total: 1 << 40,
        };
        vitals.looked(start, Some(low), 7);
        vitals.storage(Some("no".to_owned()));
        let all = [
            HealthCode::DiskLow,
            HealthCode::Storage,
            HealthCode::EventLoopLate,
            HealthCode::EventsDropped,
        ];
        assert_eq!(codes(&vitals, start + SECOND), all);
        vitals.storage(None);
        vitals.looked(start + 20 * SECOND, None, 7);
        assert_eq!(
            codes(&vitals, start + 20 * SECOND),
            [HealthCode::EventsDropped]
        );
        assert_eq!(codes(&vitals, start + DROPS_TOLD), []);
    }

    #[test]
    fn the_worst_is_remembered_in_little_room() {
        let mut worst = Worst::default();
        let start = Instant::now();
        for tick in 0..1_000_u64 {
            let delay = Duration::from_millis(if tick == 950 { 700 } else { 3 });
            worst.note(start + TICK * u32::try_from(tick).unwrap(), delay);
            assert!(worst.0.len() <= 11, "{}", worst.0.len());
        }
        let end = start + TICK * 1_000;
        assert_eq!(worst.read(end), Duration::from_millis(700));
        assert_eq!(worst.read(end + REMEMBERED), Duration::ZERO);
    }
}
