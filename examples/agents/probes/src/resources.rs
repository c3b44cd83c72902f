//! Taking time and memory.

use std::hint::black_box;
use std::io;
use std::thread;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// A loop without a call in it, the hardest to interrupt.
pub(crate) fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

pub(crate) fn sleep(ms: u64) -> io::Result<()> {
    thread::sleep(Duration::from_millis(ms));
    println!("slept");
    Ok(())
}

/// Touches what it takes, so that it is resident and not a promise.
pub(crate) fn alloc() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![0xA5_u8; MIB]));
        println!("{} MiB", taken.len());
    }
}
