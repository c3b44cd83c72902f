//! An agent's output as numbered records: remembered within a bound, then
//! published. Knows nothing of the runner that wrote it.

mod history;
mod recorder;

pub use history::{Budget, History, Window};
pub use recorder::{RecordCount, Recorder};
