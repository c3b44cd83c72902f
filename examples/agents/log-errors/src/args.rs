//! What the command line asks for.

/// How the agent is used.
pub const USAGE: &str = "\
usage: log-errors [--json] [--top N] [PATH…]
  PATH     a log, or a directory of logs; none, or `-`, is stdin
  --json   one JSON document instead of text
  --top N  tell the N most frequent errors (20)";

const DEFAULT_TOP: usize = 20;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Whether the summary is JSON.
    pub json: bool,
    /// How many groups the summary tells.
    pub top: usize,
    /// What to read; `-` is stdin. Never empty.
    pub paths: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUsage(pub String);

impl Args {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, BadUsage> {
        let mut parsed = Self {
            json: false,
            top: DEFAULT_TOP,
            paths: Vec::new(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--json" => parsed.json = true,
                "--top" => parsed.top = number(args.next())?,
                "-" => parsed.paths.push(arg),
                "--" => parsed.paths.extend(args.by_ref()),
                flag if flag.starts_with('-') => {
                    return Err(BadUsage(format!("unknown option `{flag}`")));
                }
                _ => parsed.paths.push(arg),
            }
        }
        if parsed.paths.is_empty() {
            parsed.paths.push("-".to_owned());
        }
        Ok(parsed)
    }
}

fn number(value: Option<String>) -> Result<usize, BadUsage> {
    value
        .as_deref()
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| BadUsage("`--top` takes a number".to_owned()))
}
