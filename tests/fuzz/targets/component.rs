//! A component is described, or refused with a message that is bounded; and what is made
//! of it before it is compiled is valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_host::runner::wasm::{broken_form, describe};

fuzz_target!(|bytes: &[u8]| {
    match describe(bytes) {
        Ok(_) => {
            let broken = broken_form(bytes).unwrap_or_default();
            assert!(broken.is_none(), "{broken:?}");
        }
        Err(refusal) => assert!(refusal.message.len() <= 8192, "{refusal:?}"),
    }
});
