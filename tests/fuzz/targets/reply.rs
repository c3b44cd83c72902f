//! A client reads replies and events, or refuses them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_protocol::codec::{decode, decode_reply};
use skep_protocol::event::{HostEvent, LogRecord, ProgressEvent, StatusEvent};
use skep_protocol::op::{AgentPage, HostInfo, OutputReply};

fuzz_target!(|payload: &[u8]| {
    let _ = decode_reply::<AgentPage>(payload);
    let _ = decode_reply::<OutputReply>(payload);
    let _ = decode_reply::<HostInfo>(payload);
    let _ = decode::<LogRecord>(payload);
    let _ = decode::<StatusEvent>(payload);
    let _ = decode::<ProgressEvent>(payload);
    let _ = decode::<HostEvent>(payload);
});
