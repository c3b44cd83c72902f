//! Whatever happens: every record comes once, in order, or is told to be gone.

use proptest::prelude::*;

use super::*;

/// What happens between one look at the follower and the next.
#[derive(Debug, Clone)]
enum Happening {
    Writes(u64),
    /// One of the records written, by its place from the last: in order, twice,
    /// late or never.
    Publishes(u64),
    /// The oldest records are no longer kept.
    Expires(u64),
    /// The host is gone for some seconds and comes back.
    Restarts(u64),
    /// The follower takes what there is, for some milliseconds.
    Reads(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..20_u64).prop_map(Happening::Writes),
        8 => (0..30_u64).prop_map(Happening::Publishes),
        1 => (1..40_u64).prop_map(Happening::Expires),
        1 => (1..90_u64).prop_map(Happening::Restarts),
        4 => (0..40_u64).prop_map(Happening::Reads),
    ]
}

/// Every record once and in order, or within a gap of what had expired.
async fn whatever_happens(happenings: Vec<Happening>, from_seq: u64, end_is_told: bool) {
    let (script, client) = Script::new();
    let options = FollowOptions {
        from_seq,
        // Gone several times in a row, the host is not seen to be back between.
        host_away: Duration::MAX,
        ..both()
    };
    let mut follow = client.follow(script.agent, options);
    let mut items = Vec::new();
    for happening in happenings {
        let written = script.with(|state| state.history.len() as u64);
        match happening {
            Happening::Writes(count) => script.write_to(written + count),
            Happening::Publishes(back) => {
                if let Some(seq) = written.checked_sub(back + 1) {
                    script.publish(seq);
                }
            }
            Happening::Expires(count) => {
                script.with(|state| state.first = (state.first + count).min(written));
            }
            Happening::Restarts(seconds) => {
                script.with(|state| state.away = true);
                let away = Duration::from_secs(seconds);
                let taken = take(&mut follow, away).await;
                items.extend(taken);
                script.with(|state| state.away = false);
            }
            Happening::Reads(ms) => {
                items.extend(take(&mut follow, Duration::from_millis(ms)).await);
            }
        }
    }
    script.end();
    if end_is_told {
        script.publish_end();
    }
    items.extend(take(&mut follow, Duration::from_secs(1000)).await);

    let (end, first) = script.with(|state| (state.history.len() as u64, state.first));
    let mut next = from_seq;
    for item in items {
        match item {
            LogItem::Record(record) => {
                assert_eq!(record, script.record(next));
                next += 1;
            }
            LogItem::Gap(gap) => {
                assert_eq!(gap.from_seq, next);
                assert!(gap.to_seq < first, "{gap:?} was not lost: {first}");
                next = gap.to_seq + 1;
            }
        }
    }
    assert_eq!(next, end.max(from_seq));
}

/// What comes within a time, or before the end.
async fn take(follow: &mut Follow, within: Duration) -> Vec<LogItem> {
    let mut items = Vec::new();
    let reading = async {
        while let Some(item) = follow.next().await.unwrap() {
            items.push(item);
        }
    };
    let _ = tokio::time::timeout(within, reading).await;
    items
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_record_comes_once_whatever_happens(
        happenings in prop::collection::vec(happening(), 0..60),
        from_seq in prop_oneof![3 => Just(0_u64), 1 => 0..100_u64],
        end_is_told: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(whatever_happens(happenings, from_seq, end_is_told));
    }
}
