//! Whatever is written in whatever order: what comes back is what was written.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Move {
    Spawn { number: u8, queued: bool },
    Start(u8),
    See(u8),
    End(u8),
    Forget(u8),
    Reopen,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let number = 0..12_u8;
    let one = prop_oneof![
        4 => (number.clone(), any::<bool>()).prop_map(|(number, queued)| Move::Spawn { number, queued }),
        3 => number.clone().prop_map(Move::Start),
        2 => number.clone().prop_map(Move::See),
        4 => number.clone().prop_map(Move::End),
        1 => number.prop_map(Move::Forget),
        1 => Just(Move::Reopen),
    ];
    prop::collection::vec(one, 0..40)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stands {
    Queued(u64),
    Live { seen: bool },
    Ended(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_comes_back_is_what_was_written(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(moves))?;
    }
}

async fn play(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let dir = Dir::new();
    let (mut store, _) = dir.open();
    let mut model: BTreeMap<u8, Stands> = BTreeMap::new();
    for (clock, step) in (0_u64..).zip(moves.into_iter().chain([Move::Reopen])) {
        match step {
            Move::Spawn { number, queued } if !model.contains_key(&number) => {
                let ticket = queued.then_some(clock);
                store.write(spawned(number, ticket)).await.unwrap();
                let stands = ticket.map_or(Stands::Live { seen: false }, Stands::Queued);
                model.insert(number, stands);
            }
            Move::Start(number) => {
                store.write(Change::Started(id(number))).await.unwrap();
                if let Some(stands @ Stands::Queued(_)) = model.get_mut(&number) {
                    *stands = Stands::Live { seen: false };
                }
            }
            Move::See(number) => {
                let live = matches!(model.get(&number), Some(Stands::Live { .. }));
                if live || matches!(model.get(&number), Some(Stands::Ended(_)) | None) {
                    store
                        .write(Change::Seen(id(number), Box::new(seen())))
                        .await
                        .unwrap();
                }
                if live {
                    model.insert(number, Stands::Live { seen: true });
                }
            }
            Move::End(number) => {
                if !matches!(model.get(&number), Some(Stands::Ended(_))) {
                    store.write(ended(number, clock)).await.unwrap();
                }
                if let Some(stands) = model.get_mut(&number)
                    && !matches!(stands, Stands::Ended(_))
                {
                    *stands = Stands::Ended(clock);
                }
            }
            Move::Forget(number) => {
                store
                    .write(Change::Forgotten(vec![id(number)]))
                    .await
                    .unwrap();
                model.remove(&number);
            }
            Move::Reopen => {
                store.close().await;
                let (again, found) = dir.open();
                store = again;
                prop_assert_eq!(found.agents.len(), model.len());
                for agent in &found.agents {
                    let number = agent.id().as_bytes()[0];
                    let stands = match agent {
                        Comeback::Ended(ended) => Stands::Ended(ended.ended_ms),
                        Comeback::Queued(left) => Stands::Queued(left.ticket.unwrap()),
                        Comeback::Lost(left) => Stands::Live {
                            seen: left.known == seen(),
                        },
                        Comeback::Unreadable(id) => panic!("{id} cannot be read"),
                    };
                    prop_assert_eq!(Some(&stands), model.get(&number));
                }
                let times = found.agents.iter().filter_map(|agent| match agent {
                    Comeback::Ended(ended) => Some(ended.ended_ms),
                    _ => None,
                });
                prop_assert!(times.is_sorted());
                let tickets = found.agents.iter().filter_map(|agent| match agent {
                    Comeback::Queued(left) => left.ticket,
                    _ => None,
                });
                prop_assert!(tickets.is_sorted());
            }
            Move::Spawn { .. } => {}
        }
    }
    store.close().await;
    Ok(())
}

fn seen() -> Known {
    Known {
        generation: 77,
        ..known(None, 0)
    }
}
