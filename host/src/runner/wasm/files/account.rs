//! What one agent holds on disk and keeps open, against its limits: the pure
//! part. Nothing here touches a file; the lock is held for a few instructions,
//! and no two agents share one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_protocol::Limits;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::descriptors::{Descriptors, Taken};
use crate::runner::wasm::usage::Meters;
use crate::runner::{Amount, DiskUse};

/// It would be more than the agent may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// WASI has no code for too many open files. Nothing else here is a quota, so
/// that a guest can tell it from a full disk.
pub(super) fn too_many(_: Full) -> ErrorCode {
    ErrorCode::Quota
}

/// Which file it is, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity(pub(super) u64, pub(super) u64);

/// What was behind a name that is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removed {
    pub(super) identity: Identity,
    /// Its logical bytes; none for a directory.
    pub(super) bytes: u64,
    /// Whether that was its last name.
    pub(super) last: bool,
}

/// The account of one agent.
#[derive(Debug)]
pub(super) struct Account {
    disk: Amount,
    held: DiskUse,
    open_files: u64,
    descriptors: Descriptors,
    meters: Arc<Meters>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: u64,
    /// The files of the scratch directory that are open. As many at most as
    /// may be open.
    scratch: HashMap<Identity, Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    handles: u64,
    /// It has no name any more, and still counts.
    unlinked: bool,
}

impl Account {
    /// Of an agent that holds this already.
    pub(super) fn new(
        limits: &Limits,
        held: DiskUse,
        descriptors: Descriptors,
        meters: Arc<Meters>,
    ) -> Self {
        meters.disk(held.lock().bytes);
        Self {
            held,
            disk: Amount {
                files: limits.files,
                bytes: limits.disk_bytes,
            },
            open_files: limits.open_files,
            descriptors,
            meters,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an amount before it is used; what is not kept is given back.
    pub(super) fn reserve(&self, asked: Amount) -> Result<Reserved<'_>, Full> {
        let mut all = self.held.lock();
        let within = |held: u64, asked: u64, limit: u64| {
            let sum = held.checked_add(asked).filter(|sum| *sum <= limit);
            // What asks for nothing is never refused.
            if asked == 0 {
                Ok(held)
            } else {
                sum.ok_or(Full)
            }
        };
        *all = Amount {
            files: within(all.files, asked.files, self.disk.files)?,
            bytes: within(all.bytes, asked.bytes, self.disk.bytes)?,
        };
        self.meters.disk(all.bytes);
        Ok(Reserved {
            account: self,
            amount: asked,
        })
    }

    pub(super) fn give_back(&self, amount: Amount) {
        if amount == Amount::default() {
            return;
        }
        let mut all = self.held.lock();
        *all = Amount {
            files: all.files.saturating_sub(amount.files),
            bytes: all.bytes.saturating_sub(amount.bytes),
        };
        self.meters.disk(all.bytes);
    }

    /// A name in the scratch directory is gone. A file that is still open
    /// counts until it is closed.
    pub(super) fn removed(&self, gone: Removed) {
        let mut state = self.state();
        if gone.last
            && let Some(opened) = state.scratch.get_mut(&gone.identity)
        {
            opened.unlinked = true;
            return;
        }
        let amount = Amount {
            files: 1,
            bytes: if gone.last { gone.bytes } else { 0 },
        };
        drop(state);
        self.give_back(amount);
    }

    /// Room for one more open file: the agent's, and the host's.
    pub(super) fn open(self: &Arc<Self>) -> Result<Slot, Full> {
        let mut state = self.state();
        if state.open >= self.open_files {
            return Err(Full);
        }
        let descriptor = self.descriptors.take(1).ok_or(Full)?;
        state.open += 1;
        Ok(Slot {
            account: Arc::clone(self),
            _descriptor: descriptor,
        })
    }

    /// A file of the scratch directory was opened.
    pub(super) fn opened(&self, identity: Identity) {
        self.state().scratch.entry(identity).or_default().handles += 1;
    }

    /// It was closed; it has so many bytes.
    pub(super) fn closed(&self, identity: Identity, bytes: u64) {
        let mut state = self.state();
        let Some(opened) = state.scratch.get_mut(&identity) else {
            return;
        };
        opened.handles = opened.handles.saturating_sub(1);
        if opened.handles > 0 {
            return;
        }
        if let Some(Opened { unlinked: true, .. }) = state.scratch.remove(&identity) {
            drop(state);
            self.give_back(Amount { files: 1, bytes });
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Amount {
        *self.held.lock()
    }
}

/// An amount that is given back unless it was used.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    account: &'a Account,
    amount: Amount,
}

impl Reserved<'_> {
    /// All of it was used.
    pub(super) fn keep(mut self) {
        self.amount = Amount::default();
    }

    /// So many of its bytes were used.
    pub(super) fn keep_bytes(mut self, bytes: u64) {
        self.amount.bytes = self.amount.bytes.saturating_sub(bytes);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.account.give_back(self.amount);
    }
}

/// One of the files that an agent may have open.
#[derive(Debug)]
pub(super) struct Slot {
    account: Arc<Account>,
    _descriptor: Taken,
}

impl Slot {
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.account.state();
        state.open = state.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::meters;
    use super::*;

    fn account(files: u64, disk_bytes: u64, open_files: u64) -> Arc<Account> {
        let limits = Limits {
            files,
            disk_bytes,
            open_files,
            ..Limits::default()
        };
        Arc::new(Account::new(
            &limits,
            DiskUse::default(),
            Descriptors::new(3),
            meters(),
        ))
    }

    #[test]
    fn what_is_not_kept_is_given_back() {
        let account = account(2, 100, 1);
        let held = |files, bytes| assert_eq!(account.held(), Amount { files, bytes });
        account.reserve(Amount::bytes(100)).unwrap().keep_bytes(40);
        held(0, 40);
        drop(
            account
                .reserve(Amount {
                    files: 2,
                    bytes: 60,
                })
                .unwrap(),
        );
        held(0, 40);
        assert_eq!(account.reserve(Amount::bytes(61)).unwrap_err(), Full);
        assert_eq!(account.reserve(Amount::bytes(u64::MAX)).unwrap_err(), Full);
        let both = Amount { files: 3, bytes: 1 };
        assert_eq!(account.reserve(both).unwrap_err(), Full);
        held(0, 40);
        account
            .reserve(Amount {
                files: 2,
                bytes: 60,
            })
            .unwrap()
            .keep();
        held(2, 100);
        account.reserve(Amount::default()).unwrap().keep();
        account.give_back(Amount { files: 9, bytes: 9 });
        held(0, 91);
    }

    #[test]
    fn an_open_file_counts_without_a_name() {
        let account = account(9, 100, 2);
        account
            .reserve(Amount {
                files: 2,
                bytes: 30,
            })
            .unwrap()
            .keep();
        let identity = Identity(1, 2);
        let removed = |last| Removed {
            identity,
            bytes: 30,
            last,
        };
        account.opened(identity);
        account.opened(identity);
        account.removed(removed(false));
        assert_eq!(
            account.held(),
            Amount {
                files: 1,
                bytes: 30
            }
        );
        account.removed(removed(true));
        account.closed(identity, 30);
        assert_eq!(
            account.held(),
            Amount {
                files: 1,
                bytes: 30
            }
        );
        account.closed(identity, 30);
        assert_eq!(account.held(), Amount::default());
        account.closed(identity, 30);
    }

    #[test]
    fn a_run_goes_on_with_what_the_one_before_it_holds() {
        let limits = Limits {
            files: 2,
            disk_bytes: 100,
            ..Limits::default()
        };
        let held = DiskUse::default();
        let run = || Account::new(&limits, held.clone(), Descriptors::new(3), meters());
        let first = run();
        first
            .reserve(Amount {
                files: 1,
                bytes: 60,
            })
            .unwrap()
            .keep();
        let second = run();
        assert_eq!(second.meters.read().disk_bytes, Some(60));
        assert_eq!(second.reserve(Amount::bytes(41)).unwrap_err(), Full);
        second.reserve(Amount::bytes(40)).unwrap().keep();
        // What the first had open is closed late, as a slow disk may have it.
        first.give_back(Amount::bytes(60));
        second
            .reserve(Amount {
                files: 1,
                bytes: 60,
            })
            .unwrap()
            .keep();
        assert_eq!(run().reserve(Amount::files(1)).unwrap_err(), Full);
    }

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let account = account(1, 1, 2);
        let slots = [account.open().unwrap(), account.open().unwrap()];
        assert_eq!(account.open().unwrap_err(), Full);
        drop(slots);
        let slot = account.open().unwrap();
        // Another agent, with more room of its own than the host has.
        let other = Account {
            descriptors: account.descriptors.clone(),
            ..Account::new(
                &Limits::default(),
                DiskUse::default(),
                Descriptors::new(0),
                meters(),
            )
        };
        let other = Arc::new(other);
        let slots = [other.open().unwrap(), other.open().unwrap()];
        assert_eq!(other.open().unwrap_err(), Full);
        drop((slot, slots));
        other.open().unwrap();
    }
}
