//! What end-to-end tests are made of: real hosts, in this process
//! ([`TestHost`]) and in processes of their own ([`HostProcess`]), real guests
//! ([`guest`]), and waiting with a deadline ([`soon`], [`eventually`]).
//!
//! Whatever is missing or late here panics and says what to do: that is how a
//! test fails.

mod guests;
mod host;
mod output;
mod process;
mod resources;
mod wait;

pub use guests::{guest, native, probe, sh, spec};
pub use host::TestHost;
pub use output::{Ended, Output, end_of, run};
pub use process::{HostProcess, skep_binary};
pub use resources::{Resources, processes_with};
pub use wait::{DEADLINE, eventually, soon};
