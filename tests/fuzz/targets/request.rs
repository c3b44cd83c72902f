//! A request is read or refused, with a message that is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_protocol::codec::{Envelope, peek_id};

fuzz_target!(|payload: &[u8]| {
    let peeked = peek_id(payload);
    match Envelope::parse(payload) {
        Ok(envelope) => {
            assert_eq!(peeked, Some(envelope.id));
            if let Err(error) = envelope.decode() {
                assert!(error.message.len() <= 1024, "{error}");
            }
        }
        Err(rejection) => assert!(rejection.error.message.len() <= 1024, "{rejection:?}"),
    }
});
