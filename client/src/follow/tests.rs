//! Following against a host that does what a script says.

use skep_protocol::ErrorCode;
use tokio::time::Instant;

use self::script::Script;
use super::*;
use crate::ClientError;

mod script;
mod whatever;

/// Ten times what anything here should take.
const DEADLINE: Duration = Duration::from_secs(20);

async fn next(follow: &mut Follow) -> Result<Option<LogItem>> {
    tokio::time::timeout(DEADLINE, follow.next())
        .await
        .expect("in time")
}

/// The number of the next record.
async fn seq(follow: &mut Follow) -> u64 {
    match next(follow).await.unwrap() {
        Some(LogItem::Record(record)) => record.seq,
        other => panic!("{other:?}"),
    }
}

/// The numbers of all records to the end.
async fn all(follow: &mut Follow) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(item) = next(follow).await.unwrap() {
        match item {
            LogItem::Record(record) => numbers.push(record.seq),
            LogItem::Gap(gap) => panic!("{gap:?}"),
        }
    }
    numbers
}

fn both() -> FollowOptions {
    FollowOptions::default()
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_late_reads_the_history() {
    let (script, client) = Script::new();
    script.write_to(35);
    script.end();
    let mut follow = client.follow(script.agent, both());
    assert_eq!(all(&mut follow).await, (0..35).collect::<Vec<_>>());
    assert_eq!(next(&mut follow).await.unwrap(), None, "and again");

    let mut rest = client.follow(
        script.agent,
        FollowOptions {
            from_seq: 33,
            ..both()
        },
    );
    assert_eq!(all(&mut rest).await, [33, 34]);
    let mut beyond = client.follow(
        script.agent,
        FollowOptions {
            from_seq: 99,
            ..both()
        },
    );
    assert!(all(&mut beyond).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn live_records_need_no_history() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
    // Let it find that there is no more for now.
    let idle = tokio::time::timeout(Duration::from_millis(1), follow.next()).await;
    assert!(idle.is_err());
    let reads = script.reads().len();
    for number in 1..=100 {
        script.write_to(number + 1);
        script.publish(number);
        assert_eq!(seq(&mut follow).await, number);
    }
    script.end();
    script.publish_end();
    assert_eq!(next(&mut follow).await.unwrap(), None);
    assert_eq!(script.reads().len(), reads);
}

#[tokio::test(start_paused = true)]
async fn holes_duplicates_and_disorder_do_not_show() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
    script.write_to(60);
    for number in [0, 5, 4, 4, 40, 1, 20, 59, 0] {
        script.publish(number);
    }
    script.end();
    script.publish_end();
    assert_eq!(all(&mut follow).await, (1..60).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_last_is_read_after_a_while() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
    script.write_to(2);
    script.publish(1);
    assert_eq!(seq(&mut follow).await, 1);
    // Neither these nor the end are published.
    script.write_to(5);
    let start = Instant::now();
    assert_eq!(seq(&mut follow).await, 2);
    assert!(start.elapsed() <= POLL * 2, "{:?}", start.elapsed());
    script.end();
    assert_eq!(all(&mut follow).await, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn without_events_the_history_is_enough() {
    let (script, client) = Script::new();
    script.with(|state| state.events = false);
    let mut follow = client.follow(script.agent, both());
    for number in 0..20 {
        script.write_to(number + 1);
        let start = Instant::now();
        assert_eq!(seq(&mut follow).await, number);
        assert!(start.elapsed() <= POLL_WITHOUT_EVENTS * 2);
    }
    script.end();
    assert!(all(&mut follow).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_one_gap() {
    let (script, client) = Script::new();
    script.write_to(30);
    script.with(|state| state.first = 12);
    script.end();
    let mut follow = client.follow(script.agent, both());
    let gap = SeqRange {
        from_seq: 0,
        to_seq: 11,
    };
    assert_eq!(next(&mut follow).await.unwrap(), Some(LogItem::Gap(gap)));
    assert_eq!(all(&mut follow).await, (12..30).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_stream_is_followed_without_the_other() {
    let (script, client) = Script::new();
    script.write_to(20);
    let options = FollowOptions {
        streams: Some(vec![Stream::Stderr]),
        ..both()
    };
    let mut follow = client.follow(script.agent, options);
    for number in [2, 5, 8, 11, 14, 17] {
        assert_eq!(seq(&mut follow).await, number);
    }
    script.write_to(30);
    (20..26).for_each(|number| script.publish(number));
    script.end();
    script.publish_end();
    assert_eq!(all(&mut follow).await, [20, 23, 26, 29]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_ends_too() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    let idle = tokio::time::timeout(Duration::from_millis(1), follow.next()).await;
    assert!(idle.is_err());
    script.end();
    script.publish_end();
    assert!(all(&mut follow).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn being_cancelled_loses_nothing() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    let mut seen = Vec::new();
    for number in 0..200 {
        script.write_to(number + 1);
        if number % 7 != 0 {
            script.publish(number);
        }
        let patience = Duration::from_micros(number * 50);
        if let Ok(item) = tokio::time::timeout(patience, follow.next()).await {
            match item.unwrap().unwrap() {
                LogItem::Record(record) => seen.push(record.seq),
                LogItem::Gap(gap) => panic!("{gap:?}"),
            }
        }
    }
    script.end();
    script.publish_end();
    seen.extend(all(&mut follow).await);
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_who_gives_up_often_reads_it_all_the_same() {
    let (script, client) = Script::new();
    script.write_to(35);
    script.end();
    script.with(|state| state.takes = Duration::from_millis(50));
    let mut follow = client.follow(script.agent, both());
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let next = tokio::time::timeout(Duration::from_millis(20), follow.next());
        match next.await.map(Result::unwrap) {
            Ok(Some(LogItem::Record(record))) => seen.push(record.seq),
            Ok(Some(LogItem::Gap(gap))) => panic!("{gap:?}"),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(seen, (0..35).collect::<Vec<_>>());
    assert_eq!(script.reads(), [0, 10, 20, 30], "each piece once");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_promises_too_much_does_not_make_it_spin() {
    let (script, client) = Script::new();
    script.write_to(3);
    let mut follow = client.follow(script.agent, both());
    for number in 0..3 {
        assert_eq!(seq(&mut follow).await, number);
    }
    script.write_to(9);
    script.publish_end();
    script.with(|state| state.history.truncate(3));
    let start = Instant::now();
    let idle = tokio::time::timeout(Duration::from_secs(10), follow.next()).await;
    assert!(idle.is_err());
    assert!(start.elapsed() >= Duration::from_secs(10));
    assert!(script.reads().len() < 40, "{:?}", script.reads());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_forgotten_is_an_error() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
    script.with(|state| state.forgotten = true);
    let error = next(&mut follow).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(e) if e.code == ErrorCode::NotFound),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_forgotten_as_it_ends_was_all_published() {
    for lost in [false, true] {
        let (script, client) = Script::new();
        let mut follow = client.follow(script.agent, both());
        script.write_to(1);
        assert_eq!(seq(&mut follow).await, 0);
        script.write_to(if lost { 3 } else { 2 });
        script.publish(1);
        assert_eq!(seq(&mut follow).await, 1);
        script.with(|state| state.forgotten = true);
        let host = script.clone();
        tokio::spawn(async move {
            // Behind the refusal of what is asked for next.
            tokio::time::sleep(LAST_STATUS / 2).await;
            host.publish_end();
        });
        match next(&mut follow).await {
            Ok(None) => assert!(!lost),
            Err(error) => assert!(lost && error.code() == Some(ErrorCode::NotFound)),
            other => panic!("{other:?}"),
        }
        let status = follow.final_status(Duration::ZERO).await.unwrap();
        assert_eq!(status.state, AgentState::Exited);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_returns_is_waited_for() {
    let (script, client) = Script::new();
    let mut follow = client.follow(script.agent, both());
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
    // Long enough for the requests themselves to give up.
    script.with(|state| state.away = true);
    let idle = tokio::time::timeout(Duration::from_secs(100), follow.next()).await;
    assert!(idle.is_err(), "{idle:?}");
    script.write_to(5);
    script.end();
    script.with(|state| state.away = false);
    let rest = tokio::time::timeout(Duration::from_secs(100), all(&mut follow)).await;
    assert_eq!(rest.unwrap(), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_return_is_an_error() {
    let (script, client) = Script::new();
    script.with(|state| state.away = true);
    let host_away = Duration::from_secs(45);
    let mut follow = client.follow(
        script.agent,
        FollowOptions {
            host_away,
            ..both()
        },
    );
    let start = Instant::now();
    let error = follow.next().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(start.elapsed() >= host_away);
    assert!(start.elapsed() < host_away * 3, "{:?}", start.elapsed());
    // It may be asked again.
    script.with(|state| state.away = false);
    script.write_to(1);
    assert_eq!(seq(&mut follow).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_for_a_while_is_waited_for() {
    let (script, client) = Script::new();
    let unreadable = |is| script.with(|state| state.unreadable = is);
    let mut follow = client.follow(script.agent, both());
    for (seconds, count) in [(50, 1), (50, 2)] {
        // At first it cannot even subscribe.
        unreadable(true);
        script.write_to(count);
        let time = Duration::from_secs(seconds);
        let idle = tokio::time::timeout(time, follow.next()).await;
        assert!(idle.is_err(), "{idle:?}");
        unreadable(false);
        assert_eq!(seq(&mut follow).await, count - 1);
    }
    unreadable(true);
    let start = Instant::now();
    let error = follow.next().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable));
    assert!(start.elapsed() >= Duration::from_secs(60));
    assert!(start.elapsed() < Duration::from_secs(180));
}
