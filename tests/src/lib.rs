//! What end-to-end tests are made of: real hosts, in this process
//! ([`TestHost`]) and in processes of their own ([`HostProcess`]), real guests
//! ([`guest`]), waiting with a deadline ([`soon`], [`eventually`]), a table of
//! what hostile agents do ([`hostile`]), agents beside them that must not notice
//! ([`Neighbours`]), and the long runs of the command `soak` ([`soak`]).
//!
//! Whatever is missing or late here panics and says what to do: that is how a
//! test fails.

pub mod fuzz;
mod guests;
mod host;
pub mod hostile;
mod neighbours;
mod output;
mod process;
pub mod raw;
mod resources;
pub mod soak;
mod stall;
mod terminal;
mod wait;

pub use guests::{guest, native, probe, sh, spec};
pub use host::TestHost;
pub use neighbours::{Heard, Neighbours};
pub use output::{Ended, Output, end_of, run};
pub use process::{HostProcess, skep_binary, start_in_vain};
pub use resources::{Resources, processes_with};
pub use stall::Stall;
pub use terminal::Terminal;
pub use wait::{DEADLINE, eventually, soon};
