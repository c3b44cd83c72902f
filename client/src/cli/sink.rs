//! Where an agent's output goes: its bytes to this command's stdout and stderr
//! as they are, or as JSON, a line an item.

use std::io::{self, BufWriter, IsTerminal, Stderr, Stdout, Write};

use serde_json::{Value, json};
use skep_client::LogItem;
use skep_client::protocol::event::{LogRecord, ProgressEvent, Stream};
use skep_client::protocol::op::SeqRange;
use skep_client::protocol::{AgentId, AgentInfo};

use super::{print, text};

/// How much is collected before it is written, while more is there.
const BUFFER: usize = 64 * 1024;

pub(super) struct Sink {
    // Never locked for long: a host in this process logs to the same stderr.
    stdout: BufWriter<Output<Stdout>>,
    stderr: BufWriter<Output<Stderr>>,
    form: Form,
    /// The stream that was written to last, and whether a line of it is open.
    last: Option<(Stream, bool)>,
    /// Whether a line is open, on each of the two.
    stdout_is_open: bool,
    stderr_is_open: bool,
    terminal: bool,
}

/// This command's stdout or stderr, where the agent's goes.
struct Output<W> {
    to: W,
    loses: Loses,
}

/// What an output does not take, and is no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// What comes after the terminal was closed: a signal tells of that.
    AfterTerminal,
    /// Whatever a full disk does not take.
    Anything,
}

impl Loses {
    fn this(self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, Interrupted, WouldBlock};
        match self {
            Self::Nothing => false,
            Self::AfterTerminal => {
                error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            Self::Anything => ![BrokenPipe, Interrupted, WouldBlock].contains(&error.kind()),
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.write(bytes) {
            Err(error) if self.loses.this(&error) => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.to.flush() {
            Err(error) if self.loses.this(&error) => Ok(()),
            flushed => flushed,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The bytes.
    Raw,
    /// The bytes, with the time before each line.
    Timestamps,
    /// JSON.
    Json,
}

impl Sink {
    pub(super) fn new(form: Form) -> Self {
        Self::with(form, false)
    }

    /// For a command that ends as its agent does: what a full disk does not take
    /// of stderr is lost, as programs lose it that run without Skep, and the exit
    /// code is the agent's. Nor is the agent ended at once where a terminal is closed,
    /// which is a signal to stop it.
    pub(super) fn in_place_of_the_agent(form: Form) -> Self {
        Self::with(form, true)
    }

    fn with(form: Form, lossy: bool) -> Self {
        let loses = |is_lost, loses| if is_lost { loses } else { Loses::Nothing };
        let stdout = Output {
            to: io::stdout(),
            loses: loses(lossy && io::stdout().is_terminal(), Loses::AfterTerminal),
        };
        let stderr = Output {
            to: io::stderr(),
            loses: loses(lossy, Loses::Anything),
        };
        Self {
            stdout: BufWriter::with_capacity(BUFFER, stdout),
            stderr: BufWriter::with_capacity(BUFFER, stderr),
            form,
            last: None,
            stdout_is_open: false,
            stderr_is_open: false,
            terminal: io::stderr().is_terminal() && io::stdout().is_terminal(),
        }
    }

    pub(super) fn item(&mut self, agent: AgentId, item: &LogItem) -> io::Result<()> {
        match (item, self.form) {
            (LogItem::Record(record), Form::Json) => self.json(&record_json(record)),
            (LogItem::Gap(gap), Form::Json) => self.json(&gap_json(agent, gap)),
            (LogItem::Record(record), _) => self.record(record),
            (LogItem::Gap(gap), _) => self.note(&gap_text(gap)),
        }
    }

    /// How far the agent has come, where that is part of the output.
    pub(super) fn progress(&mut self, progress: &ProgressEvent) -> io::Result<()> {
        if self.form != Form::Json {
            return Ok(());
        }
        // A preview's bytes are not for a line of text.
        let preview = progress.preview.as_ref();
        let preview =
            preview.map(|preview| json!({"mime": preview.mime, "bytes": preview.data.len()}));
        let progress = ProgressEvent {
            preview: None,
            ..progress.clone()
        };
        let mut value = to_json("progress", &progress);
        put(&mut value, "preview", preview);
        self.json(&value)
    }

    /// The agent as it ended, where that is part of the output.
    pub(super) fn ended(&mut self, agent: &AgentInfo) -> io::Result<()> {
        match self.form {
            Form::Json => self.json(&json!({"kind": "ended", "agent": agent})),
            Form::Raw | Form::Timestamps => Ok(()),
        }
    }

    /// A line to stderr that is not the agent's.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        self.flush()?;
        if self.line_is_open() {
            print::end_line();
            self.last = None;
            (self.stdout_is_open, self.stderr_is_open) = (false, false);
        }
        print::tell(text);
        Ok(())
    }

    /// Whether the cursor of the terminal stands in the midst of a line.
    pub(super) fn line_is_open(&self) -> bool {
        self.terminal && matches!(self.last, Some((_, true)))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }

    fn json(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.stdout.write_all(b"\n")
    }

    fn record(&mut self, record: &LogRecord) -> io::Result<()> {
        let open = match record.stream {
            Stream::Stdout => &mut self.stdout_is_open,
            Stream::Stderr => &mut self.stderr_is_open,
        };
        let continues = std::mem::replace(open, record.partial);
        if self.last.is_some_and(|(stream, _)| stream != record.stream) {
            // In the order in which they were written.
            self.flush()?;
        }
        let time = (self.form == Form::Timestamps && !continues)
            .then(|| format!("{} ", text::time(record.time_ns / 1_000_000)));
        let out: &mut dyn Write = match record.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        out.write_all(time.unwrap_or_default().as_bytes())?;
        out.write_all(&record.data)?;
        if !record.partial {
            out.write_all(b"\n")?;
        }
        self.last = Some((record.stream, record.partial));
        Ok(())
    }
}

pub(super) fn gap_text(gap: &SeqRange) -> String {
    let SeqRange { from_seq, to_seq } = gap;
    format!(
        "records {from_seq} to {to_seq} are lost: the host no longer had them; a larger \
         output_history_bytes keeps more"
    )
}

pub(super) fn to_json(kind: &str, value: &impl serde::Serialize) -> Value {
    // What has string keys and no wild numbers becomes JSON without fail.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    put(&mut value, "kind", Some(kind));
    value
}

fn put(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(key.to_owned(), value.into());
    }
}

fn gap_json(agent: AgentId, gap: &SeqRange) -> Value {
    let SeqRange { from_seq, to_seq } = gap;
    json!({"kind": "gap", "agent": agent, "from_seq": from_seq, "to_seq": to_seq})
}

/// The bytes are `data`, or, where they are not UTF-8, in hexadecimal
/// `data_hex`.
fn record_json(record: &LogRecord) -> Value {
    let LogRecord {
        agent,
        run,
        seq,
        stream,
        time_ns,
        data,
        partial,
    } = record;
    let mut value = json!({
        "kind": "log", "agent": agent, "run": run, "seq": seq, "stream": stream,
        "time_ns": time_ns, "partial": partial,
    });
    match std::str::from_utf8(data) {
        Ok(text) => put(&mut value, "data", Some(text)),
        Err(_) => {
            let hex = |hex: String, byte: &u8| hex + &format!("{byte:02x}");
            put(
                &mut value,
                "data_hex",
                Some(data.iter().fold(String::new(), hex)),
            );
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_hexadecimal() {
        let mut record = LogRecord {
            agent: AgentId::random(),
            run: 0,
            seq: 3,
            stream: Stream::Stderr,
            time_ns: 5,
            data: b"\xff\x01".to_vec().into(),
            partial: true,
        };
        let value = record_json(&record);
        assert_eq!(value["data_hex"], "ff01");
        assert_eq!(value["stream"], "stderr");
        assert_eq!(value.get("data"), None);
        record.data = b"line".to_vec().into();
        assert_eq!(record_json(&record)["data"], "line");
        assert_eq!(
            gap_json(
                record.agent,
                &SeqRange {
                    from_seq: 1,
                    to_seq: 2
                }
            ),
            json!({"kind": "gap", "agent": record.agent, "from_seq": 1, "to_seq": 2})
        );
    }
}
