//! The pipes between a guest and its driver: bounded, with back-pressure, and
//! the same for every runner.

mod input;
mod lines;
mod output;

pub use input::{Read, StdinReader, StdinWriter, stdin};
pub use lines::{LineSplitter, Piece};
pub use output::{Chunk, OutputCounter, OutputCut, OutputReader, OutputWriter, output};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks for a few instructions. A panic while it is held cannot leave what is
/// inside half changed, since nothing there panics between two changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
