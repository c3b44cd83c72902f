//! An agent's output as numbered records: written to disk within a bound, then
//! published. Knows nothing of the runner that wrote it.

mod allowance;
mod budget;
mod disk;
mod files;
mod history;
mod journal;
mod logs;
mod page;
mod patience;
mod reader;
mod recorder;
mod root;
mod segment;
mod tail;
mod writers;

pub use budget::{Budget, level};
pub use history::History;
pub use logs::{Logs, OpenError};
pub use page::Window;
pub use recorder::{RecordCount, Recorder, Written};
