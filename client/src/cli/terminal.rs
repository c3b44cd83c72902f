//! The terminal while an agent is attached: lines and their editing as ever, but
//! the detach keys come at once.

use std::io::{self, IsTerminal};

use rustix::termios::{
    InputModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::keys::DetachKeys;

/// Keys that a terminal keeps for itself.
const SPECIAL: [SpecialCodeIndex; 13] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];
/// `_POSIX_VDISABLE` of Linux.
const NO_KEY: u8 = 0;

/// What the terminal was before; dropping it makes it so again.
#[derive(Debug)]
pub(super) struct Attached {
    before: Termios,
}

impl Attached {
    /// `None` where stdin is no terminal, or one that cannot be changed.
    pub(super) fn set(keys: &DetachKeys) -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut mode = before.clone();
        change(&mut mode, keys.bytes());
        tcsetattr(io::stdin(), OptionalActions::Now, &mode).ok()?;
        Some(Self { before })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// No raw mode: an agent has no terminal that would echo and edit. The last of
/// the keys ends a line instead, as Return does, and none of them means anything
/// else: Ctrl-Q would let output go on.
fn change(mode: &mut Termios, keys: &[u8]) {
    for code in SPECIAL {
        if keys.contains(&mode.special_codes[code]) {
            mode.special_codes[code] = NO_KEY;
        }
    }
    if let Some(last) = keys.last() {
        mode.special_codes[SpecialCodeIndex::VEOL] = *last;
    }
    if mode.special_codes[SpecialCodeIndex::VSTART] == NO_KEY
        || mode.special_codes[SpecialCodeIndex::VSTOP] == NO_KEY
    {
        // Half of it would stop output for good.
        mode.input_modes.remove(InputModes::IXON);
    }
}
