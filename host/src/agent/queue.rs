//! A line of who waits, first in, first out, in which anyone can be asked for
//! their place and may leave at any time. Joining, leaving, and asking take
//! O(log n), so that a list of ten thousand who wait is no quadratic matter.

use std::collections::BTreeMap;

/// As many joins at least lie between two renumberings.
const MIN_INDICES: usize = 64;

#[derive(Debug)]
struct Entry<T> {
    /// Where its mark is.
    index: usize,
    value: T,
}

/// The line.
#[derive(Debug)]
pub struct Queue<T> {
    /// By ticket: who came first has the lowest.
    entries: BTreeMap<u64, Entry<T>>,
    next_ticket: u64,
    marks: Marks,
    next_index: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            next_ticket: 0,
            marks: Marks::default(),
            next_index: 0,
        }
    }
}

impl<T> Queue<T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// From here on, tickets are higher than this one.
    pub fn go_on_after(&mut self, ticket: u64) {
        self.next_ticket = self.next_ticket.max(ticket.saturating_add(1));
    }

    /// Joins at the end; the ticket says who it is.
    pub fn join(&mut self, value: T) -> u64 {
        if self.next_index == self.marks.capacity() {
            self.renumber();
        }
        let (ticket, index) = (self.next_ticket, self.next_index);
        self.next_ticket += 1;
        self.next_index += 1;
        self.marks.set(index);
        self.entries.insert(ticket, Entry { index, value });
        ticket
    }

    /// Leaves, from wherever it stands.
    pub fn leave(&mut self, ticket: u64) -> Option<T> {
        let entry = self.entries.remove(&ticket)?;
        self.marks.clear(entry.index);
        Some(entry.value)
    }

    /// Who has waited longest, and the ticket.
    #[must_use]
    pub fn first(&self) -> Option<(u64, &T)> {
        let (ticket, entry) = self.entries.first_key_value()?;
        Some((*ticket, &entry.value))
    }

    /// Where a ticket stands, counted from 1.
    #[must_use]
    pub fn position(&self, ticket: u64) -> Option<usize> {
        let entry = self.entries.get(&ticket)?;
        Some(self.marks.up_to(entry.index))
    }

    /// Closes the holes that those who left have made. Room for as many again
    /// is made, so that its cost is spread over as many joins, and the marks
    /// never take more than twice what the line needs.
    fn renumber(&mut self) {
        let capacity = (2 * self.entries.len()).max(MIN_INDICES);
        self.marks = Marks::with_capacity(capacity);
        for (index, entry) in self.entries.values_mut().enumerate() {
            entry.index = index;
            self.marks.set(index);
        }
        self.next_index = self.entries.len();
    }
}

/// Marks at indices, counted in O(log n): a Fenwick tree.
#[derive(Debug, Default)]
struct Marks(Vec<u32>);

impl Marks {
    fn with_capacity(capacity: usize) -> Self {
        Self(vec![0; capacity])
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn set(&mut self, index: usize) {
        self.change(index, |count| count + 1);
    }

    fn clear(&mut self, index: usize) {
        self.change(index, |count| count.saturating_sub(1));
    }

    fn change(&mut self, index: usize, change: fn(u32) -> u32) {
        let mut node = index + 1;
        while let Some(count) = self.0.get_mut(node - 1) {
            *count = change(*count);
            node += lowest_bit(node);
        }
    }

    /// How many there are at this index and before it.
    fn up_to(&self, index: usize) -> usize {
        let mut node = index + 1;
        let mut sum = 0;
        while node > 0 {
            sum += self.0.get(node - 1).map_or(0, |count| *count as usize);
            node -= lowest_bit(node);
        }
        sum
    }
}

const fn lowest_bit(node: usize) -> usize {
    node & node.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Move {
        Join,
        /// The one at this place, if there are so many.
        Leave(usize),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            5 => Just(Move::Join),
            4 => (0..40_usize).prop_map(Move::Leave),
        ];
        prop::collection::vec(one, 0..600)
    }

    proptest! {
        #[test]
        fn everyone_stands_where_a_plain_list_has_them(moves in moves()) {
            let mut queue = Queue::default();
            let mut list: Vec<u64> = Vec::new();
            for (value, step) in moves.into_iter().enumerate() {
                match step {
                    Move::Join => list.push(queue.join(value)),
                    Move::Leave(place) if place < list.len() => {
                        let ticket = list.remove(place);
                        prop_assert!(queue.leave(ticket).is_some());
                        prop_assert_eq!(queue.leave(ticket), None);
                        prop_assert_eq!(queue.position(ticket), None);
                    }
                    Move::Leave(_) => {}
                }
                prop_assert_eq!(queue.len(), list.len());
                prop_assert_eq!(queue.first().map(|(ticket, _)| ticket), list.first().copied());
                for (place, ticket) in list.iter().enumerate() {
                    prop_assert_eq!(queue.position(*ticket), Some(place + 1));
                }
                prop_assert!(queue.marks.capacity() <= (4 * list.len()).max(600));
            }
        }
    }

    #[test]
    fn who_comes_and_goes_takes_no_room() {
        let mut queue = Queue::default();
        let first = queue.join(());
        for _ in 0..100_000 {
            let ticket = queue.join(());
            assert_eq!(queue.position(ticket), Some(2));
            queue.leave(ticket);
        }
        assert_eq!(queue.position(first), Some(1));
        assert_eq!(queue.marks.capacity(), MIN_INDICES);
    }
}
