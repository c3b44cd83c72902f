//! What agents write, as it is recorded: bytes, pieces, both streams, and
//! histories that expire.

use serde_bytes::ByteBuf;
use skep_client::protocol::Outcome;
use skep_client::protocol::event::Stream;
use skep_client::protocol::op::SeqRange;
use skep_client::protocol::spec::ComponentRef;
use skep_client::{FollowOptions, LogItem};
use skep_protocol::AgentSpec;
use skep_tests::{TestHost, probe, run, soon, spec};

use crate::refused;

const MAX_RECORD: usize = 16 * 1024;

/// A core module that writes to both streams by turns, `count` times each.
fn by_turns(count: u32) -> AgentSpec {
    let module = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\20\00\00\00\04\00\00\00\30\00\00\00\04\00\00\00")
            (data (i32.const 32) "out\n")
            (data (i32.const 48) "err\n")
            (func (export "_start") (local $left i32)
                (local.set $left (i32.const {count}))
                (loop $again
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
                    (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 64)))
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $again (local.get $left)))))"#
    );
    let mut spec = spec("hello", &[]);
    spec.component = Some(ComponentRef::Data(ByteBuf::from(
        wat::parse_str(module).unwrap(),
    )));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_without_newlines_comes_in_pieces() {
    const SIZE: usize = 1024 * 1024;
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, probe(&["flood", &SIZE.to_string()])).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    for record in &ended.output.records {
        assert!(
            record.partial && record.data.len() <= MAX_RECORD,
            "{} bytes",
            record.data.len()
        );
    }
    assert!(ended.output.bytes(Stream::Stdout) == vec![b'x'; SIZE]);
    assert_eq!(ended.info.usage.stdout_bytes, SIZE as u64);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_streams_share_one_sequence() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, by_turns(500)).await;
    assert_eq!(ended.outcome, Outcome::Exited { code: 0 });
    assert_eq!(ended.output.records.len(), 1000);
    for (number, record) in ended.output.records.iter().enumerate() {
        let (stream, data) = if number % 2 == 0 {
            (Stream::Stdout, "out")
        } else {
            (Stream::Stderr, "err")
        };
        assert_eq!(
            (record.stream, &record.data[..]),
            (stream, data.as_bytes()),
            "{number}"
        );
    }
    // One of them alone: its own numbers, without the others.
    let streams = Some(vec![Stream::Stderr]);
    let mut log = client.follow(
        ended.info.id,
        FollowOptions {
            streams,
            ..FollowOptions::default()
        },
    );
    for number in 0..500 {
        let item = soon("the next record", log.next()).await.unwrap();
        let Some(LogItem::Record(record)) = item else {
            panic!("{item:?}")
        };
        assert_eq!(
            (record.seq, record.stream),
            (2 * number + 1, Stream::Stderr)
        );
    }
    assert_eq!(soon("the end", log.next()).await.unwrap(), None);

    let ended = run(&client, probe(&["stderr", "3"])).await;
    assert_eq!(
        (ended.output.stdout(), ended.output.stderr()),
        (String::new(), "error 1\nerror 2\nerror 3\n".to_owned())
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_write_before_the_end_is_there() {
    let host = TestHost::start().await;
    let client = host.client().await;
    for number in 0..100 {
        let agent = client
            .spawn(spec("hello", &[&number.to_string()]), None)
            .await
            .unwrap()
            .id;
        client
            .wait(agent, Some(skep_tests::DEADLINE))
            .await
            .unwrap();
        // Whoever is told of the end can read it all.
        let page = client.output(agent, None, 0, None).await.unwrap();
        assert!(page.end);
        assert_eq!(page.next_seq, 1);
        assert_eq!(
            page.records[0].data,
            format!("Hello, {number}!").into_bytes()
        );
    }
    let ended = run(&client, probe(&["flood", "300001"])).await;
    assert_eq!(ended.output.bytes(Stream::Stdout).len(), 300_001);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_is_one_gap_with_its_bounds() {
    const LINES: u64 = 10_000;
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut lines = probe(&["lines", &LINES.to_string()]);
    lines.limits.output_history_bytes = Some(64 * 1024);
    let agent = client.spawn(lines, None).await.unwrap().id;
    let ended = client
        .wait(agent, Some(skep_tests::DEADLINE))
        .await
        .unwrap();
    assert_eq!(ended.next_seq, LINES);

    let mut log = client.follow(agent, FollowOptions::default());
    let first = soon("a gap", log.next()).await.unwrap();
    let Some(LogItem::Gap(gap)) = first else {
        panic!("{first:?}")
    };
    assert_eq!(gap.from_seq, 0);
    assert!(
        gap.to_seq > LINES / 2 && gap.to_seq < LINES - 100,
        "{gap:?}"
    );
    for seq in gap.to_seq + 1..LINES {
        let item = soon("the next record", log.next()).await.unwrap();
        let Some(LogItem::Record(record)) = item else {
            panic!("{item:?}")
        };
        assert_eq!(
            (record.seq, &record.data[..]),
            (seq, format!("line {}", seq + 1).as_bytes())
        );
    }
    assert_eq!(soon("the end", log.next()).await.unwrap(), None);

    let page = client.output(agent, None, 100, None).await.unwrap();
    assert_eq!(
        page.expired,
        Some(SeqRange {
            from_seq: 100,
            to_seq: gap.to_seq
        })
    );
    assert_eq!(page.records[0].seq, gap.to_seq + 1);
    let page = client
        .output(agent, None, gap.to_seq + 1, None)
        .await
        .unwrap();
    assert_eq!(page.expired, None);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_read_page_by_page() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let ended = run(&client, by_turns(500)).await;
    let agent = ended.info.id;
    let mut records = Vec::new();
    let mut from_seq = 0;
    let mut pages = 0;
    loop {
        let page = client
            .output(agent, None, from_seq, Some(5000))
            .await
            .unwrap();
        let bytes: usize = page.records.iter().map(|record| record.data.len()).sum();
        assert!(bytes <= 5000 && !page.records.is_empty(), "{bytes}");
        assert_eq!(page.records[0].seq, from_seq);
        assert_eq!(page.next_seq, page.records.last().unwrap().seq + 1);
        (from_seq, pages) = (page.next_seq, pages + 1);
        records.extend(page.records);
        if page.end {
            break;
        }
    }
    assert!(pages > 3, "{pages}");
    assert!(records == ended.output.records);

    // One record is given however little is asked for.
    let page = client.output(agent, None, 7, Some(1)).await.unwrap();
    assert_eq!(
        page.records
            .iter()
            .map(|record| record.seq)
            .collect::<Vec<_>>(),
        [7]
    );
    // `next_seq` goes past the records of other streams.
    let page = client
        .output(agent, Some(&[Stream::Stdout]), 999, None)
        .await
        .unwrap();
    assert_eq!(
        (page.records.len(), page.next_seq, page.end),
        (0, 1000, true)
    );
    let page = client.output(agent, None, 5000, None).await.unwrap();
    assert_eq!((page.records.len(), page.end), (0, true));
    for wrong in [0, 1024 * 1024 + 1] {
        let refusal = client.output(agent, None, 0, Some(wrong)).await;
        refused(refusal, skep_protocol::ErrorCode::InvalidArgument);
    }
    host.end().await;
}
