//! Watches of epoll. The kernel counts them by user, across all namespaces: who has
//! all of them leaves none to the other agents of that user, nor to the host where
//! that is its user too, which then answers no new client. There is no limit of a
//! process on them but that of its descriptors.

use skep_protocol::Limits;

use super::Refused;

/// Which part of all that a user may have one agent may take.
const SHARE: u64 = 16;

/// How many watches an agent may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watches {
    most: u64,
}

impl Watches {
    /// As the kernel says; as many as anybody wants where it doesn't.
    pub(super) fn of_kernel() -> Self {
        let all = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches");
        let all = all.ok().and_then(|all| all.trim().parse().ok());
        Self::share_of(all.unwrap_or(u64::MAX))
    }

    fn share_of(all: u64) -> Self {
        // Machines of less than 5 GiB have few, and who asks for nothing is not refused.
        let Limits {
            processes,
            open_files,
            ..
        } = Limits::default();
        Self {
            most: (all / SHARE).max(could_have(processes, open_files)),
        }
    }

    /// # Errors
    /// [`Refused::TooManyWatches`]
    pub(super) fn admit(self, limits: &Limits) -> Result<(), Refused> {
        let Limits {
            processes,
            open_files,
            ..
        } = *limits;
        if could_have(processes, open_files) <= self.most {
            return Ok(());
        }
        let of_one = self.most / processes.max(1);
        Err(Refused::TooManyWatches {
            processes,
            open_files,
            // The most of which the product is no more.
            most: of_one.saturating_mul(4).saturating_add(3).isqrt(),
        })
    }
}

/// How many watches so many processes could have: each watches with one half of its
/// descriptors the other half.
fn could_have(processes: u64, open_files: u64) -> u64 {
    let of_one = open_files.saturating_mul(open_files) / 4;
    of_one.saturating_mul(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(processes: u64, open_files: u64) -> Limits {
        Limits {
            processes,
            open_files,
            ..Limits::default()
        }
    }

    #[test]
    fn nobody_takes_more_than_a_share() {
        let watches = Watches::share_of(5_491_511);
        for (processes, most) in [(1, 1171), (2, 828), (28, 221), (64, 146), (4096, 18)] {
            watches.admit(&limits(processes, most)).unwrap();
            assert!(could_have(processes, most) <= 5_491_511 / SHARE);
            assert_eq!(
                watches.admit(&limits(processes, most + 1)),
                Err(Refused::TooManyWatches {
                    processes,
                    open_files: most + 1,
                    most
                })
            );
        }
        watches.admit(&limits(u64::MAX, u64::MAX)).unwrap_err();
    }

    #[test]
    fn who_asks_for_nothing_is_refused_nowhere() {
        for all in [0, 1000, 1 << 20, u64::MAX] {
            Watches::share_of(all).admit(&Limits::default()).unwrap();
        }
        Watches::of_kernel().admit(&Limits::default()).unwrap();
    }
}
