use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    max_agents: 3,
    max_queued: 2,
    memory_bytes: 100,
};

fn of_memory(memory_bytes: u64) -> Need {
    Need {
        memory_bytes,
        held_bytes: 1,
    }
}

fn shortage<T>(result: Result<T, Full>) -> Option<Short> {
    result.err().map(|full| full.short)
}

#[test]
fn what_there_is_room_for_starts_and_what_there_is_not_does_not() {
    for (before, asked, expected) in [
        (&[][..], 100, None),
        (&[], 101, Some(Short::Memory)),
        (&[40, 40], 20, None),
        (&[40, 40], 21, Some(Short::Memory)),
        (&[100], 0, None),
        (&[0, 0, 0], 0, Some(Short::Slots)),
        (&[1, 1], u64::MAX, Some(Short::Memory)),
    ] {
        let mut ledger = Ledger::<()>::new(BOUNDS);
        for &memory_bytes in before {
            ledger.take(of_memory(memory_bytes)).unwrap();
        }
        assert_eq!(
            shortage(ledger.take(of_memory(asked))),
            expected,
            "{before:?} {asked}"
        );
    }
}

#[test]
fn nobody_overtakes_not_even_where_it_would_fit() {
    let mut ledger = Ledger::new(BOUNDS);
    ledger.take(of_memory(60)).unwrap();
    let large = ledger.join(of_memory(50), "large").unwrap();
    let small = ledger.join(of_memory(10), "small").unwrap();
    assert_eq!(shortage(ledger.take(of_memory(1))), Some(Short::Turn));
    assert_eq!(ledger.admit(), None);
    assert_eq!(
        (ledger.position(large), ledger.position(small)),
        (Some(1), Some(2))
    );
    // Who gives up makes room for who is behind.
    assert!(ledger.leave(large) && !ledger.leave(large));
    assert_eq!(ledger.position(small), Some(1));
    assert_eq!(ledger.admit(), Some("small"));
    assert_eq!(ledger.position(small), None);
    assert_eq!((ledger.running(), ledger.admit()), (2, None));
}

#[test]
fn the_queue_is_bounded() {
    let mut ledger = Ledger::new(BOUNDS);
    ledger.take(of_memory(100)).unwrap();
    ledger.join(of_memory(1), ()).unwrap();
    let last = ledger.join(of_memory(1), ()).unwrap();
    let full = ledger.join(of_memory(1), ()).unwrap_err();
    let expected = Full {
        short: Short::Queue,
        running: 1,
        max: 3,
        queued: 2,
    };
    assert_eq!(full, expected);
    ledger.leave(last);
    ledger.join(of_memory(1), ()).unwrap();
}

#[test]
fn what_all_that_live_hold_is_bounded() {
    let holds = |memory_bytes, held_bytes| Need {
        memory_bytes,
        held_bytes,
    };
    let half = holds(50, HELD_BYTES / 2);
    let mut ledger = Ledger::new(BOUNDS);
    ledger.take(half).unwrap();
    let more = holds(1, HELD_BYTES / 2 + 1);
    assert_eq!(shortage(ledger.take(more)), Some(Short::HeldBytes));
    // Nor may it wait, since it would hold that then.
    assert_eq!(shortage(ledger.join(more, ())), Some(Short::HeldBytes));
    assert!(!ledger.specs_are_full());
    let waits = holds(51, HELD_BYTES / 2);
    ledger.join(waits, ()).unwrap();
    assert!(ledger.specs_are_full() && !ledger.queue_is_full());
    let least = holds(1, SMALL_BYTES + 1);
    assert_eq!(shortage(ledger.join(least, ())), Some(Short::HeldBytes));
    // Its turn changes nothing, an end does.
    ledger.give_back(half);
    assert_eq!(ledger.admit(), Some(()));
    assert_eq!(shortage(ledger.take(more)), Some(Short::HeldBytes));
    ledger.take(holds(1, HELD_BYTES / 2)).unwrap();
    assert_eq!(shortage(ledger.take(least)), Some(Short::HeldBytes));
    // Who asks for little is turned away by nobody's large ones.
    ledger.take(holds(1, SMALL_BYTES)).unwrap();
    ledger.give_back(waits);
    ledger.take(least).unwrap();
}

#[test]
fn nobody_waits_for_what_cannot_be() {
    let mut ledger = Ledger::new(BOUNDS);
    assert_eq!(
        shortage(ledger.join(of_memory(101), ())),
        Some(Short::Memory)
    );
    ledger.join(of_memory(100), ()).unwrap();
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Spawn(u64),
    End(usize),
    GiveUp(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..60_u64).prop_map(Move::Spawn),
        2 => (0..5_usize).prop_map(Move::End),
        1 => (0..8_usize).prop_map(Move::GiveUp),
    ];
    prop::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn the_bounds_hold_and_turns_come_in_the_order_of_arrival(moves in moves()) {
        let bounds = Bounds { max_queued: 8, ..BOUNDS };
        let mut ledger = Ledger::new(bounds);
        let mut running: Vec<(usize, Need)> = Vec::new();
        let mut waiting: VecDeque<(usize, u64)> = VecDeque::new();
        let mut needs: HashMap<usize, Need> = HashMap::new();
        for (agent, step) in moves.into_iter().enumerate() {
            match step {
                Move::Spawn(memory_bytes) => {
                    let need = of_memory(memory_bytes);
                    if ledger.take(need).is_ok() {
                        prop_assert!(waiting.is_empty());
                        running.push((agent, need));
                    } else if let Ok(ticket) = ledger.join(need, agent) {
                        needs.insert(agent, need);
                        waiting.push_back((agent, ticket));
                    }
                }
                Move::End(at) if at < running.len() => {
                    let (_, need) = running.swap_remove(at);
                    ledger.give_back(need);
                }
                Move::GiveUp(at) => {
                    if let Some((_, ticket)) = waiting.remove(at) {
                        prop_assert!(ledger.leave(ticket));
                    }
                }
                Move::End(_) => {}
            }
            while let Some(agent) = ledger.admit() {
                let (first, _) = waiting.pop_front().unwrap();
                prop_assert_eq!(first, agent);
                running.push((agent, needs[&agent]));
            }
            let memory: u64 = running.iter().map(|(_, need)| need.memory_bytes).sum();
            prop_assert!(running.len() <= bounds.max_agents && memory <= bounds.memory_bytes);
            prop_assert!(waiting.len() <= bounds.max_queued);
            prop_assert_eq!(ledger.running(), running.len());
            // Nobody waits while there is room for the first.
            if let Some((first, _)) = waiting.front() {
                let room = running.len() < bounds.max_agents
                    && memory + needs[first].memory_bytes <= bounds.memory_bytes;
                prop_assert!(!room);
            }
        }
    }
}
