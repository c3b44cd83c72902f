//! Whether an agent may start now, has to wait, or is refused: pure policy over
//! what all agents of a host have together.
//!
//! First in, first out: who came later never overtakes, also not a small agent
//! for which there would be room a large one for which there is none. Else a
//! stream of small ones would keep the large one waiting for ever.

use super::queue::Queue;

const MIB: u64 = 1024 * 1024;

/// Bytes that the specs of all agents that run or wait may hold: their texts,
/// environment and stdin, none of which counts as the agents' own memory. One more
/// is refused, or eleven thousand specs of 10 MiB would be 110 GB.
const HELD_BYTES: u64 = 512 * MIB;

/// A spec that holds no more than this is taken all the same: else some sixty large ones
/// would turn everybody away. As many as agents may run and wait, 700 MiB by default.
const SMALL_BYTES: u64 = 64 * 1024;

/// What an operator lets all agents have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Agents that are not ended and do not wait.
    pub max_agents: usize,
    /// Agents that wait.
    pub max_queued: usize,
    /// What the memory limits of the former may add up to.
    pub memory_bytes: u64,
}

/// What one agent takes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Its limit of memory; 0 where nothing holds it to one.
    pub memory_bytes: u64,
    /// What the host holds of it until it has ended.
    pub held_bytes: u64,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// Every slot is taken.
    Slots,
    /// The limits of memory would add up to too much.
    Memory,
    /// Others wait for their turn.
    Turn,
    /// As many wait as may.
    Queue,
    /// Specs hold as many bytes as they may.
    HeldBytes,
}

/// There is no room for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Full {
    pub short: Short,
    pub running: usize,
    pub max: usize,
    pub queued: usize,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            short,
            running,
            max,
            queued,
        } = self;
        match short {
            Short::Slots => write!(f, "all {max} slots of the host are taken"),
            Short::Memory => write!(
                f,
                "the memory limits of the host's {running} agents leave no room for this one's"
            ),
            Short::Turn => write!(f, "{queued} agents wait for their turn"),
            Short::Queue => write!(f, "{running} agents run and {queued} wait, and no more may"),
            Short::HeldBytes => write!(
                f,
                "with what {running} agents that run and {queued} that wait were given as texts, \
                 environment and stdin this one's would be more than the {} MiB of all",
                HELD_BYTES / MIB
            ),
        }?;
        f.write_str(": try again when agents have ended")
    }
}

#[derive(Debug)]
struct Waiting<W> {
    need: Need,
    waiter: W,
}

/// What is taken, and who waits for it. `W` is how a waiter is told.
#[derive(Debug)]
pub struct Ledger<W> {
    bounds: Bounds,
    running: usize,
    memory_bytes: u64,
    queue: Queue<Waiting<W>>,
    /// Of those that run and those that wait.
    held_bytes: u64,
}

impl<W> Ledger<W> {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            running: 0,
            memory_bytes: 0,
            queue: Queue::default(),
            held_bytes: 0,
        }
    }

    /// Takes room at once.
    ///
    /// # Errors
    /// [`Full`]; the agent may [wait](Self::join).
    pub fn take(&mut self, need: Need) -> Result<(), Full> {
        let short = (self.short_of(need))
            .or((!self.queue.is_empty()).then_some(Short::Turn))
            .or(self.holds_too_much_with(need).then_some(Short::HeldBytes));
        match short {
            Some(short) => Err(self.full(short)),
            None => {
                self.hold(need);
                self.enter(need);
                Ok(())
            }
        }
    }

    /// Waits for room, after all who do already; the ticket says who it is.
    ///
    /// # Errors
    /// [`Full`], where no more may wait, or waiting would be in vain.
    pub fn join(&mut self, need: Need, waiter: W) -> Result<u64, Full> {
        let short = if need.memory_bytes > self.bounds.memory_bytes {
            Some(Short::Memory)
        } else if self.queue.len() >= self.bounds.max_queued {
            Some(Short::Queue)
        } else if self.holds_too_much_with(need) {
            Some(Short::HeldBytes)
        } else {
            None
        };
        if let Some(short) = short {
            return Err(self.full(short));
        }
        self.hold(need);
        Ok(self.queue.join(Waiting { need, waiter }))
    }

    /// Waits again, after a host before has let it wait: however many do, nobody
    /// who was let in is turned away.
    ///
    /// # Errors
    /// [`Full`], if waiting would be in vain.
    pub fn join_again(&mut self, need: Need, waiter: W) -> Result<u64, Full> {
        if need.memory_bytes > self.bounds.memory_bytes {
            return Err(self.full(Short::Memory));
        }
        self.hold(need);
        Ok(self.queue.join(Waiting { need, waiter }))
    }

    /// From here on, tickets are higher than this one.
    pub fn go_on_after(&mut self, ticket: u64) {
        self.queue.go_on_after(ticket);
    }

    /// Gives up waiting. Says whether it was: else its turn had come.
    pub fn leave(&mut self, ticket: u64) -> bool {
        let left = self.queue.leave(ticket);
        if let Some(Waiting { need, .. }) = &left {
            self.held_bytes = self.held_bytes.saturating_sub(need.held_bytes);
        }
        left.is_some()
    }

    /// Gives back what an agent took.
    pub fn give_back(&mut self, need: Need) {
        self.running = self.running.saturating_sub(1);
        self.memory_bytes = self.memory_bytes.saturating_sub(need.memory_bytes);
        self.held_bytes = self.held_bytes.saturating_sub(need.held_bytes);
    }

    /// Takes room for who has waited longest, if there is enough. To be called
    /// until there is not, whenever some was given back or someone left.
    pub fn admit(&mut self) -> Option<W> {
        let (ticket, Waiting { need, .. }) = self.queue.first()?;
        let need = *need;
        if self.short_of(need).is_some() {
            return None;
        }
        let Waiting { waiter, .. } = self.queue.leave(ticket)?;
        self.enter(need);
        Some(waiter)
    }

    /// Where a ticket stands, counted from 1; `None` once its turn has come.
    #[must_use]
    pub fn position(&self, ticket: u64) -> Option<usize> {
        self.queue.position(ticket)
    }

    /// Whether as many wait as may, and some do.
    #[must_use]
    pub fn queue_is_full(&self) -> bool {
        !self.queue.is_empty() && self.queue.len() >= self.bounds.max_queued
    }

    /// Whether what specs hold leaves room for small ones alone.
    #[must_use]
    pub fn specs_are_full(&self) -> bool {
        self.held_bytes >= HELD_BYTES
    }

    /// Agents that are not ended and do not wait.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    fn short_of(&self, need: Need) -> Option<Short> {
        let memory_bytes = self.memory_bytes.saturating_add(need.memory_bytes);
        if self.running >= self.bounds.max_agents {
            Some(Short::Slots)
        } else if memory_bytes > self.bounds.memory_bytes {
            Some(Short::Memory)
        } else {
            None
        }
    }

    fn holds_too_much_with(&self, need: Need) -> bool {
        need.held_bytes > SMALL_BYTES
            && self.held_bytes.saturating_add(need.held_bytes) > HELD_BYTES
    }

    fn hold(&mut self, need: Need) {
        self.held_bytes = self.held_bytes.saturating_add(need.held_bytes);
    }

    fn enter(&mut self, need: Need) {
        self.running += 1;
        self.memory_bytes = self.memory_bytes.saturating_add(need.memory_bytes);
    }

    fn full(&self, short: Short) -> Full {
        Full {
            short,
            running: self.running,
            max: self.bounds.max_agents,
            queued: self.queue.len(),
        }
    }
}

#[cfg(test)]
mod tests;
