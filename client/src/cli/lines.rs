//! The output of several agents, each line whole and behind its agent's name.

use std::collections::HashMap;
use std::io::{self, BufWriter, Stderr, Stdout, Write};

use console::{Color, Style, Term};
use skep_client::LogItem;
use skep_client::protocol::event::{LogRecord, Stream};
use skep_client::protocol::{AgentId, AgentInfo};

use super::sink::gap_text;
use super::{print, text};

/// A line that is longer is broken there: so much of each stream of each agent
/// may wait for its newline.
const MAX_LINE: usize = 64 * 1024;
/// How much is collected before it is written, while more is there.
const BUFFER: usize = 64 * 1024;

/// Those that can be read on light and on dark.
const COLORS: [Color; 10] = [
    Color::Cyan,
    Color::Yellow,
    Color::Green,
    Color::Magenta,
    Color::Blue,
    Color::Color256(208),
    Color::Color256(37),
    Color::Color256(141),
    Color::Color256(106),
    Color::Color256(168),
];

/// Puts lines together and writes them.
#[derive(Debug)]
pub(super) struct Lines {
    stdout: Out<Stdout>,
    stderr: Out<Stderr>,
    last: Option<Stream>,
    timestamps: bool,
    agents: HashMap<AgentId, Agent>,
}

#[derive(Debug)]
struct Out<W: Write> {
    to: BufWriter<W>,
    colored: bool,
    /// Whether it is a terminal, of which no agent may move the cursor.
    terminal: bool,
}

#[derive(Debug)]
struct Agent {
    label: String,
    color: Color,
    width: usize,
    open: [Option<Open>; 2],
}

/// A line that has not ended.
#[derive(Debug)]
struct Open {
    time_ns: u64,
    bytes: Vec<u8>,
}

impl Lines {
    pub(super) fn new(agents: &[AgentInfo], timestamps: bool) -> Self {
        Self {
            stdout: Out {
                to: BufWriter::with_capacity(BUFFER, io::stdout()),
                colored: console::colors_enabled(),
                terminal: Term::stdout().is_term(),
            },
            stderr: Out {
                to: BufWriter::with_capacity(BUFFER, io::stderr()),
                colored: console::colors_enabled_stderr(),
                terminal: Term::stderr().is_term(),
            },
            last: None,
            timestamps,
            agents: labelled(agents),
        }
    }

    pub(super) fn item(&mut self, agent: AgentId, item: &LogItem) -> io::Result<()> {
        match item {
            LogItem::Record(record) => self.record(agent, record),
            LogItem::Gap(gap) => {
                // What was begun before it does not go on behind it.
                self.end(agent)?;
                let label = self.agents.get(&agent).map(|agent| agent.label.as_str());
                let text = format!("{}: {}", label.unwrap_or_default(), gap_text(gap));
                self.note(&text)
            }
        }
    }

    /// Nothing more comes of an agent: its last line has no newline.
    pub(super) fn end(&mut self, agent: AgentId) -> io::Result<()> {
        for stream in Stream::ALL {
            self.write(agent, stream)?;
        }
        Ok(())
    }

    /// A line to stderr that is no agent's.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        self.flush()?;
        print::tell(text);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stdout.to.flush()?;
        self.stderr.to.flush()
    }

    fn record(&mut self, agent: AgentId, record: &LogRecord) -> io::Result<()> {
        let Some(known) = self.agents.get_mut(&agent) else {
            return Ok(());
        };
        let [out, err] = &mut known.open;
        let open = match record.stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        let line = open.get_or_insert_with(|| Open {
            time_ns: record.time_ns,
            bytes: Vec::new(),
        });
        line.bytes.extend_from_slice(&record.data);
        if record.partial && line.bytes.len() < MAX_LINE {
            return Ok(());
        }
        self.write(agent, record.stream)
    }

    /// Writes what there is of a line.
    fn write(&mut self, agent: AgentId, stream: Stream) -> io::Result<()> {
        let Some(agent) = self.agents.get_mut(&agent) else {
            return Ok(());
        };
        let [out, err] = &mut agent.open;
        let line = match stream {
            Stream::Stdout => out.take(),
            Stream::Stderr => err.take(),
        };
        let Some(line) = line else { return Ok(()) };
        if self.last.replace(stream) != Some(stream) {
            // In the order in which they were written.
            self.stdout.to.flush()?;
            self.stderr.to.flush()?;
        }
        match stream {
            Stream::Stdout => self.stdout.line(agent, &line, self.timestamps),
            Stream::Stderr => self.stderr.line(agent, &line, self.timestamps),
        }
    }
}

impl<W: Write> Out<W> {
    fn line(&mut self, agent: &Agent, line: &Open, timestamps: bool) -> io::Result<()> {
        let prefix = format!("{:<width$} |", agent.label, width = agent.width);
        let style = Style::new().fg(agent.color).force_styling(self.colored);
        write!(self.to, "{} ", style.apply_to(prefix))?;
        if timestamps {
            write!(self.to, "{} ", text::time(line.time_ns / 1_000_000))?;
        }
        if self.terminal {
            let said = String::from_utf8_lossy(&line.bytes);
            self.to.write_all(harmless(&said).as_bytes())?;
        } else {
            self.to.write_all(&line.bytes)?;
        }
        self.to.write_all(b"\n")
    }
}

/// One of several agents must not write over what another said: colours are
/// taken out, what else moves the cursor is shown.
fn harmless(line: &str) -> String {
    let plain = console::strip_ansi_codes(line.trim_end_matches('\r'));
    let parts: Vec<String> = plain.split('\t').map(text::clean).collect();
    parts.join("\t")
}

/// What stands before the lines of each: its name, and where several bear it,
/// the beginning of its id too. A name has the same colour each time, unless one
/// before it has taken that.
fn labelled(agents: &[AgentInfo]) -> HashMap<AgentId, Agent> {
    let label = |agent: &AgentInfo| {
        let alike = agents.iter().filter(|other| other.name == agent.name);
        if alike.count() > 1 {
            let id: String = agent.id.to_string().chars().take(8).collect();
            format!("{} {id}", agent.name)
        } else {
            agent.name.to_string()
        }
    };
    let labels: Vec<String> = agents.iter().map(label).collect();
    let width = labels.iter().map(String::len).max().unwrap_or(0);
    let mut free: Vec<Color> = Vec::new();
    let with_color = |label: String| {
        if free.is_empty() {
            free = COLORS.to_vec();
        }
        let wanted = COLORS.get(hash(&label) % COLORS.len()).copied();
        let at = free.iter().position(|color| Some(*color) == wanted);
        let color = free.remove(at.unwrap_or(0));
        Agent {
            label,
            color,
            width,
            open: [None, None],
        }
    };
    let agents = agents.iter().map(|agent| agent.id);
    agents.zip(labels.into_iter().map(with_color)).collect()
}

/// FNV-1a: the standard library's differs from run to run.
fn hash(text: &str) -> usize {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_left_alone() {
        assert_eq!(
            harmless("\x1b[31mred\x1b[0m\tone\rtwo\x1b[2J\r"),
            "red\tone\\rtwo"
        );
    }

    #[test]
    fn colours_are_stable() {
        assert_eq!(hash("hello"), 0x4f9f_2cab);
    }
}
