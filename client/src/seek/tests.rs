//! Looking for lines in a history of which some is gone.

use std::ops::Range;

use proptest::prelude::*;
use skep_protocol::codec::{Envelope, encode_reply};
use skep_protocol::event::LogRecord;
use skep_protocol::op::{OutputReply, Request, SeqRange};
use skep_transport::local;

use super::*;

/// How many records a host gives at a time.
const AT_ONCE: usize = 100;

/// A client of a host that has these records of an agent, a line each, and no
/// others up to the end.
fn client(there: Vec<Range<u64>>, end: u64) -> Client {
    let (mut wire, connection) = local();
    tokio::spawn(async move {
        while let Some(message) = wire.inbox.recv().await {
            let payload = message.payload.unwrap();
            let envelope = Envelope::parse(&payload).unwrap();
            let Request::AgentOutput(asked) = envelope.decode().unwrap() else {
                panic!("{envelope:?}")
            };
            let from = asked.from_seq.unwrap_or(0);
            let reply = read(&there, from, end);
            message
                .peer
                .reply(encode_reply(envelope.id, &reply).unwrap());
        }
    });
    Client::over(connection)
}

fn read(there: &[Range<u64>], from: u64, end: u64) -> OutputReply {
    let next = there.iter().find(|range| range.end > from);
    let next = next.map_or(end..end, |range| range.start.max(from)..range.end);
    let records: Vec<_> = next.clone().take(AT_ONCE).map(record).collect();
    OutputReply {
        end: false,
        expired: (next.start > from).then(|| SeqRange {
            from_seq: from,
            to_seq: next.start - 1,
        }),
        next_seq: next.start + records.len() as u64,
        records,
    }
}

fn record(seq: u64) -> LogRecord {
    LogRecord {
        agent: AgentId::random(),
        run: 0,
        seq,
        stream: Stream::Stdout,
        time_ns: seq,
        data: b"line".to_vec().into(),
        partial: false,
    }
}

/// Where the last lines begin, as one who has all records says.
fn expected(there: &[Range<u64>], lines: usize, end: u64) -> u64 {
    let all: Vec<u64> = there.iter().cloned().flatten().collect();
    match all.len().checked_sub(lines) {
        _ if lines == 0 => end,
        // From the one before: what is missing between is told then.
        Some(at @ 1..) => all[at - 1] + 1,
        Some(0) | None if there.first().is_some_and(|first| first.start > 0) => all[0],
        Some(0) | None => 0,
    }
}

#[tokio::test]
async fn the_last_lines_are_found_before_what_is_missing() {
    let cases: &[(&[Range<u64>], u64)] = &[
        (&[0..300, 1324..1342], 1342),
        (std::slice::from_ref(&(0..300)), 1324),
        (&[2000..2010, 3000..3010], 5000),
        (&[], 1000),
        (std::slice::from_ref(&(0..5)), 5),
    ];
    for (there, end) in cases {
        let client = client(there.to_vec(), *end);
        for lines in [0, 1, 3, 18, 19, 20, 200, 318, 400] {
            let found = client.seq_of_last(AgentId::random(), None, lines, *end);
            let expected = expected(there, usize::try_from(lines).unwrap(), *end);
            assert_eq!(found.await.unwrap(), expected, "{lines} of {there:?}");
        }
    }
}

proptest! {
    #[test]
    fn wherever_something_is_missing(
        cuts in proptest::collection::vec(1..2000_u64, 0..8),
        lines in 0..3000_usize,
    ) {
        let mut at = 0;
        let edges: Vec<u64> = cuts.iter().map(|cut| { at += cut; at }).collect();
        let there: Vec<_> = edges
            .chunks_exact(2)
            .map(|pair| pair[0]..pair[1])
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let expected = expected(&there, lines, at);
        let found = runtime.block_on(async {
            client(there, at).seq_of_last(AgentId::random(), None, lines as u64, at).await
        });
        prop_assert_eq!(found.unwrap(), expected);
    }
}
