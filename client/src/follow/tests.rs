//! Following against a host that does what a script says.

use std::sync::{Arc, Mutex, PoisonError};

use proptest::prelude::*;
use skep_protocol::codec::{Envelope, encode, encode_error, encode_reply};
use skep_protocol::event::LogRecord;
use skep_protocol::op::{OutputReply, Request, SubscribeReply};
use skep_protocol::{ErrorCode, Usage, WireError};
use skep_transport::{Publisher, local};
use tokio::time::Instant;

use super::*;
use crate::ClientError;

/// Ten times what anything here should take.
const DEADLINE: Duration = Duration::from_secs(20);

/// An agent's history on a scripted host, and the wire to its followers.
#[derive(Clone)]
struct Script {
    agent: AgentId,
    state: Arc<Mutex<State>>,
    publisher: Publisher,
}

#[derive(Default)]
struct State {
    history: Vec<LogRecord>,
    first: u64,
    ended: bool,
    forgotten: bool,
    reads: Vec<u64>,
    events: bool,
    /// No request is answered.
    away: bool,
    /// How long each answer takes.
    takes: Duration,
}

impl Script {
    /// A host that publishes events, and a client of it.
    fn new() -> (Self, Client) {
        let (mut wire, connection) = local();
        let script = Self {
            agent: AgentId::random(),
            state: Arc::new(Mutex::new(State {
                events: true,
                ..State::default()
            })),
            publisher: wire.publisher,
        };
        let host = script.clone();
        tokio::spawn(async move {
            // Dropped, they would tell that the connection is closed.
            let mut unanswered = Vec::new();
            while let Some(message) = wire.inbox.recv().await {
                let payload = message.payload.unwrap();
                let takes = host.with(|state| state.takes);
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                if host.with(|state| state.away) {
                    unanswered.push(message.peer);
                } else {
                    message.peer.reply(host.answer(&payload));
                }
            }
        });
        (script, Client::over(connection))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, payload: &[u8]) -> Vec<u8> {
        let envelope = Envelope::parse(payload).unwrap();
        let id = envelope.id;
        self.with(|state| match envelope.decode().unwrap() {
            _ if state.forgotten => {
                encode_error(Some(id), &WireError::new(ErrorCode::NotFound, "gone")).unwrap()
            }
            Request::AgentSubscribe(_) => {
                let events = state.events.then(|| "tcp://127.0.0.1:1".to_owned());
                let next_seq = state.history.len() as u64;
                encode_reply(
                    id,
                    &SubscribeReply {
                        events,
                        topics: vec![],
                        next_seq,
                    },
                )
                .unwrap()
            }
            Request::AgentOutput(asked) => {
                let from = asked.from_seq.unwrap_or(0);
                state.reads.push(from);
                encode_reply(id, &state.read(from, asked.streams.as_deref())).unwrap()
            }
            other => panic!("{other:?}"),
        })
    }

    fn record(&self, seq: u64) -> LogRecord {
        LogRecord {
            agent: self.agent,
            run: 0,
            seq,
            // Every third is of the other stream.
            stream: if seq % 3 == 2 {
                Stream::Stderr
            } else {
                Stream::Stdout
            },
            time_ns: seq,
            data: format!("line {seq}").into_bytes().into(),
            partial: false,
        }
    }

    /// Writes records up to this number, and publishes none.
    fn write_to(&self, end: u64) {
        self.with(|state| {
            for seq in state.history.len() as u64..end {
                state.history.push(self.record(seq));
            }
        });
    }

    fn publish(&self, seq: u64) {
        let record = self.record(seq);
        let topic = Topic::Log(self.agent, record.stream);
        self.publisher
            .try_publish(topic.to_string(), encode(&record).unwrap());
    }

    /// Ends the agent.
    fn end(&self) {
        self.with(|state| state.ended = true);
    }

    fn publish_end(&self) {
        let last_seq = self.with(|state| (state.history.len() as u64).checked_sub(1));
        let status = StatusEvent {
            agent: self.agent,
            generation: 3,
            state: AgentState::Exited,
            outcome: None,
            restart: None,
            receipt: None,
            usage: Usage::default(),
            last_seq,
            time_ms: 0,
        };
        let topic = Topic::Status(self.agent);
        self.publisher
            .try_publish(topic.to_string(), encode(&status).unwrap());
    }

    fn reads(&self) -> Vec<u64> {
        self.with(|state| state.reads.clone())
    }
}

impl State {
    /// At most ten records at a time, as a host would with a small `max_bytes`.
    fn read(&self, from: u64, streams: Option<&[Stream]>) -> OutputReply {
        let end = self.history.len() as u64;
        let start = from.max(self.first);
        let wanted = |record: &&LogRecord| {
            record.seq >= start && streams.is_none_or(|streams| streams.contains(&record.stream))
        };
        let records: Vec<_> = self
            .history
            .iter()
            .filter(wanted)
            .take(10)
            .cloned()
            .collect();
        let next_seq = match records.last() {
            Some(last) if records.len() == 10 => last.seq + 1,
            _ => end.max(from),
        };
        OutputReply {
            end: self.ended && next_seq >= end,
            expired: (from < self.first).then(|| SeqRange {
                from_seq: from,
                to_seq: self.first - 1,
            }),
            records,
            next_seq,
        }
    }
}

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
