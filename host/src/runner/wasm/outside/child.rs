//! The process that checks and compiles: the binary of Skep again, for one
//! component. It has one thread until it is confined, and what it says is
//! believed no further than what a stranger's component may cause.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use skep_protocol::ErrorCode;

use super::STACK;
use super::confine::confine;
use super::job::{Job, MAGIC, Reply, Task, encode, read_job};
use crate::runner::wasm::bulk::in_portions;
use crate::runner::wasm::engine;
use crate::runner::wasm::inspect::{Facts, Kind, describe, examine};
use crate::runner::wasm::linking::{Told, told};
use crate::runner::wasm::panic_text;
use crate::runner::wasm::refusal::Refusal;
use crate::runner::wasm::weight;

/// For how long it is looked at whether a component links: several times what an ordinary
/// one takes. One that takes longer would hold up the others that are to be checked,
/// and is told by compiling it.
const LINKING: Duration = Duration::from_millis(100);

/// What a binary does when it is called with
/// [`COMPILE_ARG`](crate::helper::COMPILE_ARG).
///
/// To be called before anything else in `main`: it confines the whole process.
pub(crate) fn compile_main() -> ! {
    let served = serve();
    std::process::exit(if served.is_ok() { 0 } else { 2 })
}

fn serve() -> std::io::Result<()> {
    crate::helper::close_from(3)?;
    let mut stdin = std::io::stdin().lock();
    let job = read_job(&mut stdin)?;
    confine(&job)?;
    let mut component = Vec::new();
    match stdin.read_to_end(&mut component) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
            let refusal = super::out_of_memory(job.memory_bytes);
            return answer(&Reply::Refused(refusal), &[]);
        }
        Err(error) => return Err(error),
    }
    let worker = std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            catch_unwind(AssertUnwindSafe(|| carry_out(&job, component))).unwrap_or_else(|panic| {
                let panic = panic_text(&*panic);
                (Reply::Failed(format!("a panic: {panic}")), Vec::new())
            })
        })?;
    let (reply, code) = worker
        .join()
        .map_err(|_| std::io::Error::other("the worker is gone"))?;
    answer(&reply, &code)
}

fn answer(reply: &Reply, code: &[u8]) -> std::io::Result<()> {
    let reply = encode(reply).or_else(|| {
        let refusal = Refusal::compiling(
            "imports",
            "the names of its imports are longer than this host takes",
        );
        encode(&Reply::Refused(refusal))
    });
    let reply = reply.ok_or(std::io::ErrorKind::InvalidData)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(MAGIC)?;
    stdout.write_all(&reply)?;
    stdout.write_all(code)?;
    stdout.flush()
}

fn carry_out(job: &Job, component: Vec<u8>) -> (Reply, Vec<u8>) {
    let replied = match job.task {
        Task::Check => check(Arc::new(component), job.memory_bytes)
            .map(|facts| (Reply::Checked(facts), Vec::new())),
        Task::Compile => compile(job, &component),
    };
    replied.unwrap_or_else(|refusal| (Reply::Refused(refusal), Vec::new()))
}

fn check(component: Arc<Vec<u8>>, memory_bytes: u64) -> Result<Facts, Refusal> {
    let mut facts = describe(&component)?;
    // What a core module imports was looked at when it was adapted.
    let may_link = facts.kind == Kind::Command && facts.missing.is_empty();
    if may_link && facts.never_compiled.is_none() {
        let refused = move |error: &str| refused(error, memory_bytes);
        match within(LINKING, move || told(&component, refused)) {
            Some(Told::Links) => {}
            Some(Told::Refused(refusal)) if refusal.code == ErrorCode::InvalidComponent => {
                facts.unlinkable = Some(refusal);
            }
            Some(Told::Refused(refusal)) => facts.never_compiled = Some(refusal),
            Some(Told::Nothing) | None => facts.untold = true,
        }
    }
    Ok(facts)
}

/// What comes out within that time. What takes longer ends with this process.
fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (told, answer) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || told.send(work()))
        .ok()?;
    answer.recv_timeout(time).ok()
}

fn compile(job: &Job, component: &[u8]) -> Result<(Reply, Vec<u8>), Refusal> {
    let (facts, component) = examine(component)?;
    let failed = |text: String| Ok((Reply::Failed(text), Vec::new()));
    let engine = match engine::for_compiling(job.threads > 1) {
        Ok(engine) => engine,
        Err(error) => return failed(format!("no engine: {error:#}")),
    };
    if engine::fingerprint(&engine) != job.engine {
        return failed("the helper is of another build than the host".to_owned());
    }
    match engine.precompile_component(&in_portions(&component)?) {
        Ok(code) => {
            weight::bounded(&code)?;
            Ok((Reply::Compiled(facts), code))
        }
        Err(error) => Err(refused(&format!("{error:#}"), job.memory_bytes)),
    }
}

/// Everything was validated: what the compiler still has against a component is
/// what it cannot do, or how much of something it is.
fn refused(error: &str, memory_bytes: u64) -> Refusal {
    if error.contains("allocate memory") || error.contains("out of memory") {
        super::out_of_memory(memory_bytes)
    } else if ["Compilation error", "too large", "exceeds limit"]
        .iter()
        .any(|what| error.contains(what))
    {
        Refusal::compiling(
            "code",
            format!("it is more than the compiler takes: {error}"),
        )
    } else {
        Refusal::invalid(error)
    }
}
