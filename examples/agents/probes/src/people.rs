//! Talking with those who started the agent.

use std::io;
use std::thread;
use std::time::Duration;

use skep_guest::Progress;

const STAGES: u64 = 3;
const POLL: Duration = Duration::from_millis(10);
const STOPPED: u8 = 3;

pub(crate) fn env() -> io::Result<()> {
    for (place, arg) in std::env::args().enumerate() {
        println!("arg {place} {arg}");
    }
    let mut variables: Vec<_> = std::env::vars().collect();
    variables.sort();
    for (key, value) in variables {
        println!("env {key}={value}");
    }
    Ok(())
}

pub(crate) fn task() -> io::Result<()> {
    let task = skep_guest::task();
    println!("name: {}", task.name);
    println!("task: {}", task.task);
    println!("context: {}", task.context);
    println!("system_prompt: {}", task.system_prompt);
    println!("model: {}", task.model);
    for (key, value) in &task.labels {
        println!("label: {key}={value}");
    }
    Ok(())
}

/// Each report carries one field more than the one before, so that every field
/// is seen both present and absent.
pub(crate) fn progress() -> io::Result<()> {
    let report = Progress::stage("begin");
    report.clone().report();
    let report = report.step(1).of(STAGES);
    report.clone().report();
    let report = report.fraction(0.5).eta(Duration::from_millis(1500));
    report.clone().report();
    Progress::stage("end")
        .step(STAGES)
        .of(STAGES)
        .fraction(1.0)
        .eta(Duration::ZERO)
        .note("all done")
        .preview("text/plain", *b"a preview")
        .report();
    println!("reported");
    Ok(())
}

pub(crate) fn until_stop() -> ! {
    println!("ready");
    while !skep_guest::stop_requested() {
        thread::sleep(POLL);
    }
    println!("stopping");
    skep_guest::exit(STOPPED)
}
