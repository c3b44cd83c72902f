use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn component(bytes: &[u8]) -> Component {
    Component::new(
        Digest::of(bytes),
        Bytes::copy_from_slice(bytes),
        Facts::default(),
    )
}

fn take_gone(store: &Components) -> Vec<Gone> {
    let gone = store.owed(usize::MAX);
    store.told(gone.len());
    gone
}

#[test]
fn an_upload_is_resumed_where_it_broke_off() {
    let store = Components::new(1000);
    let digest = Digest::of(b"abcdef");
    assert!(matches!(
        store.put(digest, 6, 0, b"").unwrap(),
        Put::Partial { received: 0 }
    ));
    assert!(matches!(
        store.put(digest, 6, 4, b"ef").unwrap(),
        Put::Partial { received: 0 }
    ));
    assert!(matches!(
        store.put(digest, 6, 0, b"ab").unwrap(),
        Put::Partial { received: 2 }
    ));
    assert!(matches!(
        store.put(digest, 7, 2, b"cd"),
        Err(StoreError::Chunk { field: "size", .. })
    ));
    assert!(matches!(
        store.put(digest, 6, 5, b"ff"),
        Err(StoreError::Chunk {
            field: "offset",
            ..
        })
    ));
    let Put::Assembled(upload, room) = store.put(digest, 6, 1, b"bcd").unwrap() else {
        panic!("whole")
    };
    let data = upload.assemble();
    assert_eq!(data, b"abcdef");
    store.insert(component(&data), Some(room)).unwrap();
    assert!(matches!(
        store.put(digest, 6, 0, b"ab").unwrap(),
        Put::Whole { size: 6 }
    ));
}

#[test]
fn a_claim_takes_no_memory_and_evicts_nothing() {
    let store = Components::new(1000);
    store.insert(component(&[7; 900]), None).unwrap();
    let digest = Digest::of(b"");
    for size in [100, 1000, u64::MAX / 2] {
        assert!(matches!(
            store.put(digest, size, 0, b""),
            Ok(Put::Partial { received: 0 })
        ));
    }
    assert_eq!(store.state().uploads.len(), 0);
    store.put(digest, 1 << 40, (1 << 40) - 1, b"x").unwrap();
    assert_eq!(store.state().bytes, 901);
    assert!(matches!(
        store.put(digest, u64::MAX, u64::MAX - 1, b"xxx"),
        Err(StoreError::Chunk {
            field: "offset",
            ..
        })
    ));
    assert!(store.get(&Digest::of(&[7; 900])).is_some());
    assert!(store.remove(&digest));
    assert_eq!(store.state().bytes, 900);
}

#[test]
fn what_uploads_hold_is_bounded() {
    let store = Components::new(10);
    let digest = Digest::of(b"");
    store.put(digest, 100, 0, b"12345678").unwrap();
    assert!(matches!(
        store.put(digest, 100, 8, b"9012"),
        Err(StoreError::Full { .. })
    ));
    let many = Components::new(1 << 20);
    for piece in 0..MAX_PIECES as u64 {
        many.put(digest, 1 << 20, piece * 2, b"x").unwrap();
    }
    assert!(matches!(
        many.put(digest, 1 << 20, 1 << 19, b"x"),
        Err(StoreError::Chunk {
            field: "offset",
            ..
        })
    ));
}

#[test]
fn what_is_whole_counts_until_it_is_held_or_refused() {
    let store = Components::new(20);
    let (data, other) = (b"12345678", b"1234567890abc");
    let whole = || match store.put(Digest::of(data), 8, 0, data).unwrap() {
        Put::Assembled(upload, room) => (upload.assemble(), room),
        put => panic!("{put:?}"),
    };
    let put_other = || store.put(Digest::of(other), 13, 0, other).map(drop);
    let full = Err(StoreError::Full {
        held: 8,
        asked: 13,
        bound: 20,
    });
    let (_, room) = whole();
    assert_eq!(put_other(), full);
    drop(room);
    assert_eq!(put_other(), Ok(()));
    assert_eq!(store.totals().bytes, 0);
    let (bytes, room) = whole();
    let _held = store.insert(component(&bytes), None).unwrap();
    assert_eq!(store.totals().bytes, 16);
    store.insert(component(&bytes), Some(room)).unwrap();
    assert_eq!((store.totals().bytes, put_other()), (8, full));
}

#[test]
fn bytes_that_are_being_checked_are_not_brought_again() {
    let store = Components::new(100);
    let digest = Digest::of(b"1234");
    let put = |offset, data: &[u8]| store.put(digest, 4, offset, data).unwrap();
    for refused in [true, false] {
        assert!(matches!(put(0, b"12"), Put::Partial { received: 2 }));
        let Put::Assembled(upload, room) = put(2, b"34") else {
            panic!("whole")
        };
        let Put::Checked(decided) = put(2, b"34") else {
            panic!("the same chunk")
        };
        assert!(matches!(put(0, b""), Put::Checked(_)));
        let more = || store.put(digest, 4, 0, b"");
        let waiting: Vec<_> = std::iter::from_fn(|| more().ok()).collect();
        assert_eq!(waiting.len(), MAX_CHECKED - 1);
        assert_eq!(more().unwrap_err(), StoreError::BeingChecked(digest));
        drop(waiting);
        assert!(more().is_ok());
        assert!(!decided.is_cancelled());
        assert_eq!(store.totals().bytes, 4);
        if refused {
            drop(room);
        } else {
            let whole = component(&upload.assemble());
            store.insert(whole, Some(room)).unwrap();
        }
        assert!(decided.is_cancelled());
    }
    assert!(matches!(put(2, b"34"), Put::Whole { size: 4 }));
}

#[test]
fn a_chunk_has_a_mebibyte_at_most() {
    let store = Components::new(1 << 30);
    let bytes = vec![1; (1 << 20) + 1];
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    assert!(matches!(
        store.put(digest, size, 0, &bytes),
        Err(StoreError::Chunk { field: "data", .. })
    ));
    assert_eq!(store.totals().bytes, 0);
    assert!(matches!(
        store.put(digest, size, 0, &bytes[1..]),
        Ok(Put::Partial { received }) if received == 1 << 20
    ));
}

#[tokio::test(start_paused = true)]
async fn uploads_are_few_and_make_room_when_nobody_goes_on_with_them() {
    let store = Components::new(1 << 20);
    let begin = |number: usize, offset| {
        let digest = Digest::of(&number.to_be_bytes());
        store.put(digest, 3, offset, b"x").map(|_| ())
    };
    for number in 0..64 {
        begin(number, 0).unwrap();
    }
    assert_eq!(begin(64, 0), Err(StoreError::TooManyUploads));
    tokio::time::advance(Duration::from_secs(599)).await;
    assert_eq!(begin(64, 0), Err(StoreError::TooManyUploads));
    // Those that are there go on.
    begin(0, 1).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    begin(64, 0).unwrap();
    let gone = take_gone(&store);
    assert_eq!(gone.len(), 63, "all but the one that went on");
    let first = Gone::Upload(Digest::of(&0_usize.to_be_bytes()));
    assert_eq!(store.still_gone(vec![first]), []);
    assert_eq!(store.totals().bytes, 3);
}

#[test]
fn room_is_made_by_least_recent_use_and_never_from_what_is_used() {
    let store = Components::new(10);
    let first = store.insert(component(b"11111"), None).unwrap();
    store.insert(component(b"22222"), None).unwrap();
    store.insert(component(b"33333"), None).unwrap();
    assert!(store.get(&Digest::of(b"22222")).is_none());
    assert!(store.get(&first.digest).is_some(), "it is held by an agent");
    let second = store.get(&Digest::of(b"33333")).unwrap();
    assert!(matches!(
        store.insert(component(b"4"), None),
        Err(StoreError::Full { .. })
    ));
    drop((first, second));
    store.insert(component(b"4"), None).unwrap();
}

#[test]
fn what_is_deleted_counts_until_no_agent_is_made_of_it() {
    let store = Components::new(10);
    let held = store.insert(component(b"1111111"), None).unwrap();
    store.insert(component(b"22"), None).unwrap();
    assert!(store.remove(&held.digest) && !store.remove(&held.digest));
    assert!(store.get(&held.digest).is_none());
    assert!(store.remove(&Digest::of(b"22")));
    assert_eq!(store.state().bytes, 7);
    assert!(matches!(
        store.insert(component(b"3333"), None),
        Err(StoreError::Full { .. })
    ));
    drop(held);
    store.insert(component(b"3333"), None).unwrap();
    assert_eq!(store.state().bytes, 4);
}

proptest! {
    #[test]
    fn chunks_in_any_order_make_the_whole(
        data in proptest::collection::vec(any::<u8>(), 1..200),
        cuts in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..40),
    ) {
        let store = Components::new(1000);
        let digest = Digest::of(&data);
        let mut assembled = None;
        for (a, b) in cuts.into_iter().chain([(0, data.len())]) {
            let (a, b) = (a % (data.len() + 1), b % (data.len() + 1));
            let (a, b) = if (a, b) == (0, 0) { (0, data.len()) } else { (a.min(b), a.max(b)) };
            if let Put::Assembled(whole, _room) = store.put(digest, data.len() as u64, a as u64, &data[a..b]).unwrap() {
                assembled = Some(whole.assemble());
                break;
            }
        }
        prop_assert_eq!(assembled.unwrap(), data);
    }
}

#[test]
fn what_agents_use_is_never_let_go() {
    let store = Components::new(1000);
    let used = store.insert(component(&[1; 100]), None).unwrap();
    let deleted = store.insert(component(&[2; 10]), None).unwrap();
    store.insert(component(&[3; 200]), None).unwrap();
    store.insert(component(&[4; 300]), None).unwrap();
    assert!(store.remove(&deleted.digest));
    let totals = Totals {
        components: 4,
        used: 2,
        bytes: 610,
        bytes_used: 110,
        bound: 1000,
    };
    assert_eq!(store.totals(), totals);
    assert_eq!(store.remove_unused(true), (2, 500));
    assert_eq!(store.totals(), totals, "it was only asked");
    assert_eq!(store.remove_unused(false), (2, 500));
    assert_eq!(store.remove_unused(false), (0, 0));
    assert!(store.get(&used.digest).is_some());
    let digest = used.digest;
    // One that was put again is another's than the one that was deleted.
    let again = store.insert(component(&[2; 10]), None).unwrap();
    drop(deleted);
    assert_eq!(store.remove_unused(false), (1, 10));
    assert!(store.get(&again.digest).is_some());
    assert!(store.remove(&again.digest));
    // One that was deleted is no agent's either, once the last has ended.
    drop((used, again));
    let unused = Totals {
        components: 2,
        used: 0,
        bytes: 110,
        bytes_used: 0,
        bound: 1000,
    };
    assert_eq!(store.totals(), unused);
    assert_eq!(store.remove_unused(true), (2, 110));
    assert_eq!(store.totals(), unused, "it was only asked");
    let _ = take_gone(&store);
    assert_eq!(store.remove_unused(false), (2, 110));
    assert!(store.get(&digest).is_none());
    assert_eq!((store.totals().components, store.totals().bytes), (0, 0));
    assert_eq!(take_gone(&store).len(), 2);
}

#[test]
fn they_are_so_many_at_most_however_small_they_are() {
    let store = Components::new(u64::MAX);
    let number = |number: usize| component(&number.to_le_bytes());
    let used: Vec<_> = (0..MAX_COMPONENTS)
        .map(|at| store.insert(number(at), None).unwrap())
        .collect();
    assert_eq!(
        store.insert(number(MAX_COMPONENTS), None).unwrap_err(),
        StoreError::TooMany
    );
    let oldest = used[0].digest;
    drop(used);
    store.insert(number(MAX_COMPONENTS), None).unwrap();
    assert!(store.get(&oldest).is_none());
    assert_eq!(store.totals().components, MAX_COMPONENTS as u64);
}

proptest! {
    #[test]
    fn what_goes_was_used_before_all_that_stays(
        steps in proptest::collection::vec((0..4_usize, 0..12_usize), 0..80),
    ) {
        let store = Components::new(u64::MAX);
        // Digests, the one used longest ago first.
        let mut model: Vec<Digest> = Vec::new();
        let mut used: Vec<Arc<Component>> = Vec::new();
        for (step, number) in steps {
            let component = component(&[1; 20][..number + 1]);
            let digest = component.digest;
            let stands = model.iter().position(|known| *known == digest);
            match step {
                0 => {
                    store.insert(component, None).unwrap();
                }
                1 => prop_assert_eq!(store.get(&digest).is_some(), stands.is_some()),
                2 => used.extend(store.get(&digest)),
                _ => {
                    used.retain(|component| component.digest != digest);
                    store.remove(&digest);
                }
            }
            if let Some(at) = stands {
                model.remove(at);
            }
            if step == 0 || step < 3 && stands.is_some() {
                model.push(digest);
            }
        }
        let mut sorted = model.clone();
        sorted.sort_unstable();
        let page = |after| -> Vec<_> {
            store.page(after, 100).iter().map(|component| component.digest).collect()
        };
        prop_assert_eq!(&page(None), &sorted);
        if let Some((first, rest)) = sorted.split_first() {
            prop_assert_eq!(page(Some(*first)), rest);
        }
        let uses = |digest: &Digest| used.iter().any(|component| component.digest == *digest);
        model.retain(|digest| !uses(digest));
        let _ = take_gone(&store);
        store.remove_unused(false);
        let gone = take_gone(&store).into_iter().filter_map(|gone| match gone {
            Gone::Component(digest) => Some(digest),
            Gone::Deleted(_) | Gone::Upload(_) => None,
        });
        prop_assert_eq!(gone.collect::<Vec<_>>(), model);
    }
}

/// Where each that goes were looked for among all, this would take hours.
#[test]
fn many_that_are_small_make_room_for_one_that_is_large() {
    const MANY: usize = 60_000;
    let store = Components::new(8 * MANY as u64);
    for number in 0..MANY {
        store
            .insert(component(&number.to_le_bytes()), None)
            .unwrap();
    }
    let half = vec![1; 4 * MANY];
    store.insert(component(&half), None).unwrap();
    assert_eq!(store.totals().components, MANY as u64 / 2 + 1);
    for number in [MANY / 2 - 1, MANY / 2] {
        let stays = store.get(&Digest::of(&number.to_le_bytes())).is_some();
        assert_eq!(stays, number == MANY / 2);
    }
}

#[test]
fn the_store_forgets_none_that_was_put_again_and_none_that_agents_are_made_of() {
    let store = Components::new(1000);
    let agents = store.insert(component(b"1"), None).unwrap();
    let digest = agents.digest;
    // Two of the same: one was deleted, put again, and deleted again.
    assert!(store.remove(&digest));
    let others = store.insert(component(b"1"), None).unwrap();
    assert!(store.remove(&digest));
    drop(agents);
    store.remove_unused(false);
    let gone = store.owed(10);
    let deleted = Gone::Deleted(digest);
    assert_eq!(gone, [deleted, deleted, Gone::Component(digest)]);
    assert_eq!(store.still_gone(gone), [deleted; 3]);
    drop(others);
    store.remove_unused(false);
    assert_eq!(store.owed(10).len(), 4);
    store.told(3);
    assert_eq!(store.owed(10), [Gone::Component(digest)]);
    assert_eq!(store.still_gone(store.owed(10)), [Gone::Component(digest)]);
    store.insert(component(b"1"), None).unwrap();
    assert_eq!(store.still_gone(store.owed(10)), []);
    store.told(1);
    assert!(!store.owes());
}

#[test]
fn an_input_that_turns_out_to_be_a_component_stays_for_who_has_it() {
    let store = Components::new(10);
    let facts = |kind| Facts {
        kind,
        ..Facts::default()
    };
    let of = |kind| {
        Component::new(
            Digest::of(b"1234"),
            Bytes::from_static(b"1234"),
            facts(kind),
        )
    };
    let input = store.insert(of(Kind::Blob), None).unwrap();
    let digest = store.insert(of(Kind::Command), None).unwrap().digest;
    assert_eq!(store.totals().bytes, 8, "both are there");
    store.remove_unused(false);
    let gone = take_gone(&store);
    assert_eq!(store.still_gone(gone), [Gone::Deleted(digest)]);
    drop(input);
    store.remove_unused(false);
    let gone = take_gone(&store);
    assert_eq!(store.still_gone(gone), [Gone::Component(digest)]);
    assert_eq!(store.totals().bytes, 0);
}
