//! Where this process's own log goes: stderr, by a thread that alone waits for it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use skep_host::config::{Log, LogFormat};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::failure::Failure;

/// What waits for stderr, and what a line counts besides its bytes. A line that finds
/// no room is lost, which is told: a host waits for nobody who does not read its log.
const WAITING_BYTES: usize = 4 * 1024 * 1024;
const LINE_BYTES: usize = 512;

/// How long a thread that panics waits until that is written.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What ends the thread that writes, once the log has started.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Where a host that serves says things, too.
static SAID: OnceLock<Lines> = OnceLock::new();

/// For a command with a host in its process: only what a person must know,
/// unless `SKEP_LOG_FILTER` asks for more.
pub(super) fn quiet() -> Result<(), Failure> {
    let filter = std::env::var("SKEP_LOG_FILTER")
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or_else(|| "error".to_owned());
    let log = Log {
        filter,
        format: LogFormat::Text,
    };
    start(&log)
        .map(drop)
        .map_err(|problem| Failure::of_skep(format!("SKEP_LOG_FILTER: {problem}")))
}

/// For a host that serves: panics are logged, and from now on what it says goes the
/// way of its log. Or says what is wrong with the log's filter.
pub(super) fn serve(log: &Log) -> Result<(), String> {
    if let Some(lines) = start(log)? {
        let tally = Arc::clone(&lines.tally);
        let _ = SAID.set(lines);
        // The default one waits for stderr.
        std::panic::set_hook(Box::new(move |panic| {
            tell_panic(panic);
            // Where it aborts the process, nothing else tells why.
            tally.wait_until_written(LAST_WORDS);
        }));
    }
    Ok(())
}

/// Whether a line went the way of the log, behind what was logged before it.
pub(super) fn took(line: &str) -> bool {
    SAID.get()
        .is_some_and(|lines| lines.clone().write_all(line.as_bytes()).is_ok())
}

/// Ends the log: what waits is written, within a second.
pub(super) fn end() {
    let mut writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    drop(writer.take());
}

/// Ends the log when it is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        end();
    }
}

/// Starts the log, if none has been started in this process.
fn start(log: &Log) -> Result<Option<Lines>, String> {
    // A peer can have zeromq warn of each of its messages. A directive of the
    // operator's own for it takes the place of this one.
    let filter = format!("zeromq=error,{}", log.filter);
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| error.to_string())?;
    let (lines, writer) = Lines::to(io::stderr());
    let each = lines.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || each.clone())
        // It would tell by `eprintln!`, which waits for stderr, and panics where that
        // takes nothing.
        .log_internal_errors(false)
        .with_ansi(use_colours());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // One that a test has started already stays.
    if started.is_err() {
        return Ok(None);
    }
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
    Ok(Some(lines))
}

fn use_colours() -> bool {
    use std::io::IsTerminal;
    // https://no-color.org: whatever its value, if it is not empty.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stderr().is_terminal()
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let message = panic.payload_as_str().unwrap_or("no text");
    // As RUST_BACKTRACE says.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured)
        .then(|| tracing::field::display(&backtrace));
    tracing::error!(
        thread,
        location = panic.location().map(tracing::field::display),
        backtrace,
        "a thread panicked: {message}"
    );
}

/// The way to stderr: never waits.
#[derive(Debug, Clone)]
struct Lines {
    to: NonBlocking,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Bytes that wait.
    waiting: Mutex<usize>,
    /// Whether fewer do.
    written: Condvar,
    /// Lines that were lost, and that is not told yet.
    lost: AtomicUsize,
}

impl Lines {
    fn to(stderr: impl Write + Send + 'static) -> (Self, WorkerGuard) {
        let tally = Arc::new(Tally::default());
        let writer = Writer {
            to: stderr,
            tally: Arc::clone(&tally),
        };
        let (to, guard) = NonBlockingBuilder::default()
            .thread_name("skep-stderr")
            // With room for the guard's word: without, it would complain on stdout, and
            // wait for that.
            .buffered_lines_limit(WAITING_BYTES / LINE_BYTES + 1)
            .finish(writer);
        (Self { to, tally }, guard)
    }

    /// Takes a line, if there is room.
    fn put(&mut self, line: &[u8]) -> bool {
        let fits = self.tally.reserve(cost(line));
        fits && self.to.write_all(line).is_ok()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.tally.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.put(lost_lines(lost).as_bytes()) {
            self.tally.lost.fetch_add(lost + 1, Ordering::Relaxed);
        } else if !self.put(line) {
            self.tally.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cost(line: &[u8]) -> usize {
    LINE_BYTES + line.len()
}

fn lost_lines(lost: usize) -> String {
    format!("skep: {lost} lines of this log were lost: standard error did not take them\n")
}

impl Tally {
    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: usize) -> bool {
        let mut waiting = self.waiting();
        let fits = *waiting + bytes <= WAITING_BYTES;
        if fits {
            *waiting += bytes;
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        *self.waiting() -= bytes;
        self.written.notify_all();
    }

    fn wait_until_written(&self, patience: Duration) {
        let some = |waiting: &mut usize| *waiting > 0;
        let _ = (self.written).wait_timeout_while(self.waiting(), patience, some);
    }
}

/// What the thread writes to.
struct Writer<W> {
    to: W,
    tally: Arc<Tally>,
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Of a stderr that takes nothing nobody can be told.
        let _ = self.to.write_all(line);
        self.tally.give_back(cost(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A stderr that takes nothing before it is told to.
    struct Reader {
        begin: Receiver<()>,
        begun: bool,
        read: Sender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if !self.begun {
                let _ = self.begin.recv();
                self.begun = true;
            }
            let _ = self.read.send(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log, what lets its stderr begin to take, and what that took.
    fn held_back() -> (Lines, WorkerGuard, Sender<()>, Receiver<String>) {
        let (begin, begins) = channel();
        let (reads, read) = channel();
        let (lines, guard) = Lines::to(Reader {
            begin: begins,
            begun: false,
            read: reads,
        });
        (lines, guard, begin, read)
    }

    #[test]
    fn so_many_lines_wait_and_those_that_are_lost_are_told_once() {
        const FIT: usize = WAITING_BYTES / (2 * LINE_BYTES);
        let (mut lines, _guard, begin, read) = held_back();
        let line = |number: usize| format!("{number:0>width$}\n", width = LINE_BYTES - 1);
        for number in 0..FIT + 7 {
            lines.write_all(line(number).as_bytes()).unwrap();
        }
        begin.send(()).unwrap();
        for number in 0..FIT {
            assert_eq!(read.recv().unwrap(), line(number));
        }
        lines.write_all(b"later\n").unwrap();
        lines.write_all(b"last\n").unwrap();
        for line in [&lost_lines(7), "later\n", "last\n"] {
            assert_eq!(read.recv().unwrap(), line);
        }
    }

    #[test]
    fn a_line_for_which_there_is_never_room_is_lost() {
        let (mut lines, _guard, begin, read) = held_back();
        begin.send(()).unwrap();
        lines.write_all(&vec![b'x'; WAITING_BYTES]).unwrap();
        lines.write_all(b"later\n").unwrap();
        for line in [&lost_lines(1), "later\n"] {
            assert_eq!(read.recv().unwrap(), line);
        }
    }
}
