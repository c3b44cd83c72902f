//! Those who read an agent's output: the library's follower, and whoever
//! subscribes and reads the history by hand. Early or late, each ends with
//! every record.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_client::protocol::AgentId;
use skep_client::protocol::codec::decode;
use skep_client::protocol::event::LogRecord;
use skep_client::{Client, ConnectionConfig, FollowOptions, LogItem};
use skep_protocol::AgentSpec;
use skep_protocol::spec::Stdin;
use skep_tests::{DEADLINE, Output, TestHost, end_of, eventually, probe, soon, spec};
use skep_transport::Subscription;

use crate::written;

/// How long nothing comes before the history is asked.
const SILENCE: Duration = Duration::from_millis(50);

/// Subscribes as PROTOCOL.md tells it, on a connection of its own.
async fn subscribed(client: &Client, agent: AgentId) -> Subscription {
    let place = client.subscribe(agent).await.unwrap();
    let logs: Vec<_> = place
        .topics
        .iter()
        .filter(|topic| topic.starts_with("log."))
        .collect();
    assert_eq!(
        logs,
        [
            &format!("log.{agent}.stdout"),
            &format!("log.{agent}.stderr")
        ]
    );
    let subscription = client
        .connection()
        .subscribe(&format!("log.{agent}."))
        .await;
    client
        .connection()
        .subscribe_events(&place.events.unwrap().parse().unwrap());
    subscription
}

/// Reads by hand: events as they come, the history for what is missing. Gives
/// all records and how many of them came as events.
async fn read_by_hand(client: Client, agent: AgentId) -> (Output, usize) {
    let mut events = subscribed(&client, agent).await;
    let mut records = BTreeMap::new();
    let (mut live, mut missing) = (0, 0);
    let mut take = |record: LogRecord| -> u64 {
        assert_eq!(record.agent, agent, "a record of another agent");
        // What came both ways came as the same.
        if let Some(before) = records.insert(record.seq, record.clone()) {
            assert_eq!(before, record);
        }
        while records.contains_key(&missing) {
            missing += 1;
        }
        missing
    };
    let start = std::time::Instant::now();
    let mut from_seq = 0;
    loop {
        assert!(
            start.elapsed() < DEADLINE,
            "records are missing from {from_seq} on"
        );
        if let Ok(event) = tokio::time::timeout(SILENCE, events.recv()).await {
            let event = event.unwrap();
            assert_eq!(event.topic, format!("log.{agent}.stdout"));
            from_seq = take(decode(&event.payload).unwrap());
            live += 1;
            continue;
        }
        let page = client.output(agent, None, from_seq, None).await.unwrap();
        assert_eq!(page.expired, None);
        for record in page.records {
            from_seq = take(record);
        }
        if page.end {
            break;
        }
    }
    let mut output = Output {
        records: Vec::new(),
    };
    records
        .into_values()
        .for_each(|record| output.push(agent, record));
    (output, live)
}

fn numbered(count: usize, prefix: &str) -> String {
    (1..=count)
        .map(|number| format!("{prefix} {number}\n"))
        .collect()
}

/// Prints so many lines, not all at once.
fn lines(count: usize, prefix: &str) -> AgentSpec {
    let mut spec = probe(&["lines", &count.to_string(), prefix]);
    spec.limits.output_bytes_per_s = Some(64 * 1024);
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_lines_reach_every_subscriber() {
    const LINES: usize = 10_000;
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(lines(LINES, "mine"), None).await.unwrap().id;
    let early = tokio::spawn(read_by_hand(host.client().await, agent));
    let early_follower = host.client().await;
    let early_follower = tokio::spawn(async move { Output::follow(&early_follower, agent).await });
    // Another prints at the same time, as fast as it can.
    let other = client
        .spawn(probe(&["lines", &LINES.to_string(), "other"]), None)
        .await
        .unwrap()
        .id;
    written(&client, agent, LINES as u64 / 10).await;
    let late = tokio::spawn(read_by_hand(host.client().await, agent));
    let late_follower = host.client().await;
    let late_follower = tokio::spawn(async move { Output::follow(&late_follower, agent).await });

    let expected = numbered(LINES, "mine");
    // A line that has to wait for its end comes in pieces.
    let check = |who: &str, output: Output| {
        assert!(
            output.records.len() >= LINES,
            "{who}: {}",
            output.records.len()
        );
        assert!(output.stdout() == expected, "{who} has read something else");
    };
    let (output, live) = early.await.unwrap();
    assert!(live > 0, "nothing came as an event");
    check("the early one", output);
    check("the late one", late.await.unwrap().0);
    check("the early follower", early_follower.await.unwrap());
    check("the late follower", late_follower.await.unwrap());
    assert!(end_of(&client, other).await.output.stdout() == numbered(LINES, "other"));

    // And one that comes when all is over.
    check(
        "the last one",
        read_by_hand(host.client().await, agent).await.0,
    );
    check(
        "the last follower",
        end_of(&host.client().await, agent).await.output,
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_late_hears_the_rest_as_it_happens() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut echo = spec("echo", &[]);
    echo.stdin = Stdin::Open;
    let agent = client.spawn(echo, None).await.unwrap().id;
    let say = async |number: u64| {
        let line = format!("line {number}\n");
        assert_eq!(
            client.stdin(agent, line.as_bytes(), false).await.unwrap(),
            line.len() as u64
        );
    };
    for number in 0..100 {
        say(number).await;
    }
    written(&client, agent, 100).await;
    let late = host.client().await;
    let mut events = subscribed(&late, agent).await;
    // It is effective once the first event has come.
    let mut said = 100;
    let first = loop {
        say(said).await;
        said += 1;
        if let Ok(event) = tokio::time::timeout(SILENCE, events.recv()).await {
            break decode::<LogRecord>(&event.unwrap().payload).unwrap().seq;
        }
    };
    assert!(
        first >= 100,
        "an event that was published before the subscription"
    );
    for _ in 0..100 {
        say(said).await;
        said += 1;
    }
    for seq in first + 1..said {
        let event = soon("the next event", events.recv()).await.unwrap();
        let record: LogRecord = decode(&event.payload).unwrap();
        assert_eq!(
            (record.seq, &record.data[..]),
            (seq, format!("line {seq}").as_bytes())
        );
    }
    client.close_stdin(agent).await.unwrap();
    let output = end_of(&client, agent).await.output;
    assert_eq!(output.records.len() as u64, said);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_events_the_history_has_everything() {
    const LINES: usize = 10_000;
    let host = TestHost::with(|config| config.events = None).await;
    let client = host.client().await;
    assert_eq!(client.hello().await.unwrap().events, None);
    let agent = client.spawn(lines(LINES, "mine"), None).await.unwrap().id;
    assert_eq!(client.subscribe(agent).await.unwrap().events, None);
    let ended = end_of(&client, agent).await;
    assert!(ended.output.stdout() == numbered(LINES, "mine"));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_begins_later_begins_there() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client
        .spawn(probe(&["lines", "1000"]), None)
        .await
        .unwrap()
        .id;
    let options = skep_client::FollowOptions {
        from_seq: 990,
        ..Default::default()
    };
    let mut log = client.follow(agent, options);
    for seq in 990..1000 {
        let item = soon("the next record", log.next()).await.unwrap();
        let Some(skep_client::LogItem::Record(record)) = item else {
            panic!("{item:?}")
        };
        assert_eq!(record.seq, seq);
    }
    assert_eq!(soon("the end", log.next()).await.unwrap(), None);
    assert_eq!(log.next_seq(), 1000);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_read_from_the_history() {
    // As `skep logs` has it. So many records are fewer than may wait.
    const WAITING_BYTES: usize = 512 * 1024;
    const RECORDS: u64 = 4000;
    let host = TestHost::start().await;
    let mut config = ConnectionConfig::new(host.control().clone());
    config.max_waiting_event_bytes = WAITING_BYTES;
    let client = Client::connect(config);
    let mut echo = spec("echo", &[]);
    echo.stdin = Stdin::Open;
    let agent = client.spawn(echo, None).await.unwrap().id;
    let mut said = 0;
    let mut say = async || {
        let line = format!("{said:01000}\n");
        let written = client.write_all_stdin(agent, line.as_bytes(), Some(DEADLINE));
        written.await.unwrap();
        said += 1;
        said
    };
    let mut log = client.follow(agent, FollowOptions::default());
    let mut next = async || match soon("the next record", log.next()).await.unwrap() {
        Some(LogItem::Record(record)) => Some(record),
        None => None,
        gap => panic!("{gap:?}"),
    };
    // Once events come, nobody reads them for a while.
    say().await;
    let mut read = u64::from(next().await.is_some());
    while client.connection().stats().events == 0 {
        say().await;
    }
    let before = say().await;
    while say().await < before + RECORDS {}
    eventually("events without room", || async {
        (client.connection().stats().events_dropped > 0).then_some(())
    })
    .await;
    client.close_stdin(agent).await.unwrap();
    while let Some(record) = next().await {
        assert_eq!(record.seq, read);
        assert_eq!(record.data, format!("{read:01000}").as_bytes());
        read += 1;
    }
    assert_eq!(read, before + RECORDS);
    host.end().await;
}
