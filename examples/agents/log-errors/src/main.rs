//! `log-errors [--json] [--top N] [PATH…]`: reads logs, and says what went
//! wrong in them.
//!
//! Ends with 0 whether or not it finds errors, with 1 if it could not read, and
//! with 2 if it doesn't understand what it should do.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use log_errors::{Args, Lines, Reader, Source, Summary, USAGE, sources};
use skep_guest::Progress;

const CANNOT_READ: u8 = 1;
const BAD_USAGE: u8 = 2;

/// How often the host is asked and told, in lines: a few times a second at most
/// of the speeds at which logs are read.
const LINES_BETWEEN_REPORTS: u64 = 1_000;

const BUFFER: usize = 64 * 1024;

fn main() {
    let args = Args::parse(std::env::args().skip(1)).unwrap_or_else(|wrong| {
        eprintln!("log-errors: {}\n{USAGE}", wrong.0);
        skep_guest::exit(BAD_USAGE)
    });
    if let Err(error) = run(&args) {
        eprintln!("log-errors: {error}");
        skep_guest::exit(CANNOT_READ);
    }
}

fn run(args: &Args) -> io::Result<()> {
    let sources = sources(&args.paths)?;
    let mut work = Work::of(&sources);
    for source in &sources {
        match source {
            Source::Stdin => work.read(io::stdin().lock(), "stdin")?,
            Source::File(path, _) => {
                let name = path.display().to_string();
                let read = File::open(path)
                    .and_then(|file| work.read(BufReader::with_capacity(BUFFER, file), &name));
                read.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
            }
        }
    }
    work.tell(args)
}

/// What has been read, and how much there is to read.
struct Work {
    reader: Reader,
    bytes: u64,
    /// Unknown as soon as stdin is read.
    total_bytes: Option<u64>,
    shortened: u64,
    stopped: bool,
}

impl Work {
    fn of(sources: &[Source]) -> Self {
        let sizes = sources.iter().map(|source| match source {
            Source::Stdin => None,
            Source::File(_, size) => Some(*size),
        });
        Self {
            reader: Reader::default(),
            bytes: 0,
            total_bytes: sizes.sum(),
            shortened: 0,
            stopped: false,
        }
    }

    fn read(&mut self, input: impl BufRead, name: &str) -> io::Result<()> {
        let mut lines = Lines::new(input);
        let before = self.bytes;
        while !self.stopped {
            let Some(line) = lines.next_line()? else {
                break;
            };
            self.reader.line(&line);
            self.bytes = before.saturating_add(lines.bytes());
            if self.reader.lines().is_multiple_of(LINES_BETWEEN_REPORTS) {
                self.report(name);
                self.stopped = skep_guest::stop_requested();
            }
        }
        self.reader.end();
        self.shortened += lines.shortened();
        Ok(())
    }

    fn report(&self, name: &str) {
        let errors: u64 = self.reader.errors().values().sum();
        let mut progress = Progress::stage("read")
            .step(self.bytes)
            .note(format!("{name}: {errors} errors"));
        // A log that is being written to may turn out larger than it was.
        if let Some(total) = self.total_bytes.filter(|total| *total >= self.bytes) {
            progress = progress
                .of(total)
                .fraction(self.bytes as f64 / total.max(1) as f64);
        }
        progress.report();
    }

    fn tell(&self, args: &Args) -> io::Result<()> {
        let summary = Summary::of(&self.reader, args.top, self.shortened, self.stopped);
        let note = format!("{} errors of {} kinds", summary.errors, summary.kinds);
        Progress::stage("done").fraction(1.0).note(note).report();
        let mut output = io::stdout().lock();
        if args.json {
            serde_json::to_writer(&mut output, &summary)?;
            writeln!(output)?;
        } else {
            write!(output, "{summary}")?;
        }
        output.flush()
    }
}
