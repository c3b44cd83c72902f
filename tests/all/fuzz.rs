//! The codec and the check of components on what was right once. The number of
//! cases is `SKEP_FUZZ_CASES`.

use std::time::{Duration, Instant};

use skep_client::protocol::event::{HostEvent, LogRecord, ProgressEvent, StatusEvent};
use skep_client::protocol::spec::ComponentRef;
use skep_host::runner::wasm::{broken_form, describe};

use skep_protocol::codec::{Envelope, decode, decode_reply, peek_id};
use skep_protocol::op::{AgentPage, HostInfo, OutputReply};
use skep_protocol::{ErrorCode, Limits};
use skep_tests::fuzz::{cases, golden, mutated};
use skep_tests::guest;
use skep_tests::hostile::{self, Yard};

/// A check of so few bytes never takes so long.
const LONGEST_CHECK: Duration = Duration::from_secs(20);

#[test]
fn requests_that_were_right_once_are_read_or_refused() {
    let (mut random, corpus) = (fastrand::Rng::with_seed(1), golden("request-"));
    let (mut read, mut refused, mut malformed) = (0, 0, 0);
    for _ in 0..cases(50_000) {
        let payload = mutated(&mut random, &corpus);
        let peeked = peek_id(&payload);
        match Envelope::parse(&payload) {
            Ok(envelope) => {
                assert_eq!(peeked, Some(envelope.id));
                match envelope.decode() {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert!(error.message.len() <= 1024, "{error}");
                        refused += 1;
                    }
                }
            }
            Err(rejection) => {
                assert!(rejection.error.message.len() <= 1024, "{rejection:?}");
                malformed += 1;
            }
        }
    }
    // It reaches all the way in.
    assert!(
        read > 0 && refused > 0 && malformed > 0,
        "{read} {refused} {malformed}"
    );
}

#[test]
fn replies_and_events_that_were_right_once_are_read_or_refused() {
    let mut random = fastrand::Rng::with_seed(2);
    let (replies, events) = (golden("reply-"), golden("event-"));
    let (mut read, mut refused) = (0, 0);
    let mut count = |is: bool| if is { read += 1 } else { refused += 1 };
    for _ in 0..cases(20_000) {
        let reply = mutated(&mut random, &replies);
        count(decode_reply::<AgentPage>(&reply).is_ok());
        count(decode_reply::<OutputReply>(&reply).is_ok());
        count(decode_reply::<HostInfo>(&reply).is_ok());
        let event = mutated(&mut random, &events);
        count(decode::<LogRecord>(&event).is_ok());
        count(decode::<StatusEvent>(&event).is_ok());
        count(decode::<ProgressEvent>(&event).is_ok());
        count(decode::<HostEvent>(&event).is_ok());
    }
    assert!(read > 0 && refused > 0, "{read} {refused}");
}

#[test]
fn components_that_were_right_once_are_checked_or_refused() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut corpus: Vec<Vec<u8>> = hostile::cases(&Yard::new())
        .into_iter()
        .filter_map(|case| match case.spec.component {
            Some(ComponentRef::Data(bytes)) if bytes.len() < 50_000 => Some(bytes.into_vec()),
            _ => None,
        })
        .collect();
    corpus.extend(["hello", "echo"].map(guest));
    let (mut right, mut refused) = (0, 0);
    for number in 0..cases(5_000) {
        let bytes = mutated(&mut random, &corpus);
        let start = Instant::now();
        let described = describe(&bytes);
        assert!(
            start.elapsed() < LONGEST_CHECK,
            "case {number}: {:?}",
            start.elapsed()
        );
        match described {
            Ok(facts) if facts.missing.is_empty() => {
                let broken = broken_form(&bytes).unwrap_or_default();
                assert!(broken.is_none(), "case {number}: {broken:?}");
                right += 1;
            }
            Ok(facts) => {
                let refusal = facts.admits(&Limits::default()).unwrap_err();
                assert_eq!(refusal.code, ErrorCode::MissingImport, "case {number}");
                assert_eq!(refusal.imports, facts.missing, "case {number}");
                refused += 1;
            }
            Err(refusal) => {
                assert!(refusal.message.len() <= 8192, "case {number}: {refusal:?}");
                refused += 1;
            }
        }
    }
    assert!(right > 0 && refused > 0, "{right} {refused}");
}
