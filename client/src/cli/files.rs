//! `skep files` and `skep cp`: what lies in an agent's scratch.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use skep_client::Client;
use skep_client::protocol::op::{FileInfo, FileKind};
use skep_client::protocol::{AgentId, ErrorCode};

use super::args::{CopyArgs, FilesArgs};
use super::failure::Failure;
use super::local::{InTheWay, LocalDir};
use super::target::{Target, unwritten};
use super::{Context, Outcome, agent, print, text};

/// How deep a tree is copied. Each level holds a descriptor.
const MAX_DEPTH: usize = 256;

/// `AGENT[:PATH]`. An agent sees its scratch at `/`, and a path may begin so.
fn parse(what: &str) -> (&str, Option<&str>) {
    match what.split_once(':') {
        Some((agent, path)) => {
            let path = path.trim_matches('/');
            (agent, (!path.is_empty()).then_some(path))
        }
        None => (what, None),
    }
}

/// `skep files AGENT[:PATH]`
pub(super) async fn list(context: &Context, args: &FilesArgs) -> Outcome {
    let client = context.client().await?;
    let (agent, path) = parse(&args.what);
    let agent = agent::find(&client, agent).await?;
    let files = client.all_files(agent, path).await?;
    if context.json {
        return print::json(&files);
    }
    let mut table = print::table(["KIND", "SIZE", "PATH"]);
    for file in &files {
        let kind = match file.kind {
            FileKind::File => "file",
            FileKind::Dir => "dir",
            FileKind::Link => "link",
            FileKind::Other => "other",
        };
        table.add_row([
            kind.to_owned(),
            text::size(file.size),
            text::clean(&file.path),
        ]);
    }
    print::print_table(table)
}

/// `skep cp AGENT:PATH LOCAL`
pub(super) async fn copy(context: &Context, args: &CopyArgs) -> Outcome {
    let (agent, path) = parse(&args.from);
    if !args.from.contains(':') {
        return Err(Failure::of_skep(
            "say what to copy: AGENT:PATH, or AGENT: with -r for all of it",
        ));
    }
    let client = context.client().await?;
    let agent = agent::find(&client, agent).await?;
    if args.recursive {
        return copy_tree(&client, agent, path, &args.to).await;
    }
    let Some(path) = path else {
        return Err(Failure::of_skep("copying a directory takes -r"));
    };
    if args.to.as_os_str() == "-" {
        return to_stdout(&client, agent, path).await;
    }
    let target = Target::of(&args.to, path)?;
    fetch(&client, agent, path, &target).await?;
    Ok(0)
}

async fn to_stdout(client: &Client, agent: AgentId, path: &str) -> Outcome {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let read = client.read_file(agent, path, |piece, _| stdout.write_all(piece));
    read.await??;
    stdout.flush()?;
    Ok(0)
}

/// Copies one file.
pub(super) async fn fetch(
    client: &Client,
    agent: AgentId,
    path: &str,
    target: &Target,
) -> Result<(), Failure> {
    let failed = |error: io::Error| unwritten(target.path(), &error);
    let mut writing = target.begin().map_err(failed)?;
    let read = read(client, agent, path, |piece| writing.write(piece));
    read.await?.map_err(failed)?;
    writing.finish().map_err(failed)
}

/// Copies one file under a name of the agent's choice; the inner error is that of
/// writing it.
async fn fetch_into(
    client: &Client,
    agent: AgentId,
    path: &str,
    dir: &LocalDir,
    name: &str,
) -> Result<io::Result<()>, Failure> {
    let mut file = match dir.create(name, InTheWay::Stays) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let read = read(client, agent, path, |piece| file.write(piece)).await?;
    Ok(read.and_then(|()| file.finish()))
}

async fn read(
    client: &Client,
    agent: AgentId,
    path: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<io::Result<()>, Failure> {
    let bar = Bar::new(path);
    let read = client.read_file(agent, path, |piece, whole| {
        bar.add(piece.len(), whole);
        take(piece)
    });
    Ok(read.await?.map(drop))
}

/// A directory that is to be copied.
struct Due {
    /// Where it is to lie, and under which name; without one, it is that.
    into: Rc<LocalDir>,
    name: Option<String>,
    path: Option<String>,
    depth: usize,
}

/// Copies what lies in a directory into another, which is made unless it is
/// there.
async fn copy_tree(client: &Client, agent: AgentId, path: Option<&str>, to: &PathBuf) -> Outcome {
    if !to.is_dir() {
        std::fs::create_dir(to).map_err(|error| unwritten(to, &error))?;
    }
    let into = LocalDir::open(to).map_err(|error| unwritten(to, &error))?;
    let mut due = vec![Due {
        into: Rc::new(into),
        name: None,
        path: path.map(str::to_owned),
        depth: 0,
    }];
    let (mut skipped, mut taken) = (Skipped::default(), Skipped::default());
    while let Some(next) = due.pop() {
        if next.depth > MAX_DEPTH {
            return Err(Failure::of_skep(format!(
                "the tree is more than {MAX_DEPTH} directories deep: copy a part of it"
            )));
        }
        let shown = next.path.as_deref().unwrap_or("/");
        let dir = match &next.name {
            None => next.into,
            Some(name) => match next.into.enter(name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    taken.add(shown);
                    continue;
                }
                entered => Rc::new(entered.map_err(|error| unwritten(&to.join(shown), &error))?),
            },
        };
        let files = match client.all_files(agent, next.path.as_deref()).await {
            Err(error) if next.depth > 0 && error.code() == Some(ErrorCode::NotFound) => {
                skipped.gone(shown);
                continue;
            }
            files => files?,
        };
        for file in files {
            let name = name_in(next.path.as_deref(), &file)?;
            match file.kind {
                FileKind::Dir => due.push(Due {
                    into: Rc::clone(&dir),
                    name: Some(name.to_owned()),
                    path: Some(file.path.clone()),
                    depth: next.depth + 1,
                }),
                FileKind::File => match fetch_into(client, agent, &file.path, &dir, name).await {
                    Err(failure) if failure.is(ErrorCode::NotFound) => skipped.gone(&file.path),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                        taken.add(&file.path);
                    }
                    fetched => {
                        fetched?.map_err(|error| unwritten(&to.join(&file.path), &error))?;
                    }
                },
                FileKind::Link | FileKind::Other => skipped.add(&file.path),
            }
        }
    }
    if skipped.count > 0 {
        eprintln!(
            "skep: {} left out that are neither files nor directories, or are gone: {}",
            text::count(skipped.count),
            skipped.named()
        );
    }
    if skipped.some_gone {
        // As much may be missing because the agent itself was forgotten.
        client.files(agent, path, None).await?;
    }
    if taken.count > 0 {
        return Err(Failure::of_skep(format!(
            "{} not copied, since {} has something of that name, and what an agent calls its \
             files replaces nothing: {}; copy into an empty directory",
            text::count(taken.count),
            to.display(),
            taken.named()
        )));
    }
    Ok(0)
}

/// The name of an entry. Where it lies is the host's word, and may not lead
/// elsewhere.
fn name_in<'a>(dir: Option<&str>, file: &'a FileInfo) -> Result<&'a str, Failure> {
    let name = match dir {
        None => Some(file.path.as_str()),
        Some(dir) => file
            .path
            .strip_prefix(dir)
            .and_then(|rest| rest.strip_prefix('/')),
    };
    name.filter(|name| !name.contains('/')).ok_or_else(|| {
        Failure::of_skep(format!(
            "the host lists `{}` where it does not lie: are client and host of one version?",
            text::clean(&file.path)
        ))
    })
}

/// What was not copied.
#[derive(Debug, Default)]
struct Skipped {
    count: u64,
    first: String,
    some_gone: bool,
}

impl Skipped {
    fn add(&mut self, path: &str) {
        if self.count == 0 {
            self.first = text::clean(path);
        }
        self.count += 1;
    }

    /// The agent has removed it since it was listed.
    fn gone(&mut self, path: &str) {
        self.some_gone = true;
        self.add(path);
    }

    fn named(&self) -> String {
        let others = if self.count > 1 { " and others" } else { "" };
        format!("{}{others}", self.first)
    }
}

/// How far a file is copied, on a terminal alone.
struct Bar(ProgressBar);

impl Bar {
    fn new(path: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {bytes}/{total_bytes} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(text::clean(path));
        Self(bar)
    }

    fn add(&self, bytes: usize, whole: u64) {
        self.0.set_length(whole);
        self.0.inc(bytes as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_found_in_an_argument() {
        assert_eq!(parse("a"), ("a", None));
        assert_eq!(parse("a:"), ("a", None));
        assert_eq!(parse("a:/"), ("a", None));
        assert_eq!(parse("a:/x/y:z/"), ("a", Some("x/y:z")));
    }

    #[test]
    fn a_host_cannot_send_a_name_elsewhere() {
        let file = |path: &str| FileInfo {
            path: path.to_owned(),
            size: 0,
            kind: FileKind::File,
            modified_ms: 0,
        };
        assert_eq!(name_in(None, &file("a")).unwrap(), "a");
        assert_eq!(name_in(Some("d"), &file("d/a")).unwrap(), "a");
        for (dir, path) in [
            (None, "d/a"),
            (None, "/a"),
            (Some("d"), "a"),
            (Some("d"), "e/a"),
            (Some("d"), "d/e/a"),
            (Some("d"), "d/../a"),
        ] {
            assert!(name_in(dir, &file(path)).is_err(), "{path}");
        }
    }
}
