//! `skep files` and `skep cp`: what lies in an agent's scratch.

use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use skep_client::Client;
use skep_client::protocol::ErrorCode;
use skep_client::protocol::op::{FileInfo, FileKind};

use super::args::{CopyArgs, FilesArgs};
use super::failure::Failure;
use super::local::{InTheWay, LocalDir};
use super::owner::Owner;
use super::signals::Signals;
use super::target::{Target, unwritten};
use super::{Context, Outcome, exit, print, text};

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
    let owner = Owner::find(&client, agent).await?;
    let files = client.all_files(owner.agent, path).await;
    let files = files.map_err(|error| owner.has_not(path, error))?;
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
    let to_stdout = args.to.as_os_str() == "-";
    if to_stdout && args.recursive {
        return Err(Failure::of_skep(
            "a directory cannot be copied to stdout: name one to copy it into, which may be ./-",
        ));
    }
    if to_stdout && context.json {
        return Err(Failure::of_skep(
            "the file goes to stdout, and JSON cannot: leave --json out, or name a file",
        ));
    }
    let client = context.client().await?;
    let owner = Owner::find(&client, agent).await?;
    if args.recursive {
        return unless_interrupted(async {
            let mut copied = context.json.then(Vec::new);
            let ended = copy_tree(&client, owner, path, &args.to, &mut copied).await;
            if let Some(copied) = copied
                && (ended.is_ok() || !copied.is_empty())
            {
                tell(copied).await?;
            }
            ended
        })
        .await;
    }
    let Some(path) = path else {
        return Err(Failure::of_skep("copying a directory takes -r"));
    };
    if to_stdout {
        return print_file(&client, owner, path).await;
    }
    let target = Target::of(&args.to, path)?;
    let fetch = async {
        let copied = Copied {
            path: path.to_owned(),
            to: target.path().display().to_string(),
            bytes: fetch(&client, owner, path, &target).await?,
        };
        match context.json {
            true => tell(vec![copied]).await,
            false => Ok(0),
        }
    };
    match target {
        Target::File { .. } => unless_interrupted(fetch).await,
        // Whoever waits for a reader is ended by a signal as ever.
        Target::Special(_) => fetch.await,
    }
}

/// A file that was copied.
#[derive(Debug, Serialize)]
struct Copied {
    /// Of the agent.
    path: String,
    to: String,
    bytes: u64,
}

/// Prints as JSON what was copied. A signal ends this also while nobody reads it.
async fn tell(copied: Vec<Copied>) -> Outcome {
    let telling = tokio::task::spawn_blocking(move || print::json(&copied));
    telling.await.map_err(io::Error::from)?
}

/// What was begun is removed when a signal ends this.
async fn unless_interrupted(copying: impl Future<Output = Outcome>) -> Outcome {
    let mut signals = Signals::with_hangup()?;
    tokio::select! {
        copied = copying => copied,
        signal = signals.next() => Err(Failure::quiet(exit::of_signal(signal))),
    }
}

async fn print_file(client: &Client, owner: Owner<'_>, path: &str) -> Outcome {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let read = client.read_file(owner.agent, path, |piece, _| stdout.write_all(piece));
    read.await
        .map_err(|error| owner.has_not(Some(path), error))??;
    stdout.flush()?;
    Ok(0)
}

/// Copies one file; gives its size.
pub(super) async fn fetch(
    client: &Client,
    owner: Owner<'_>,
    path: &str,
    target: &Target,
) -> Result<u64, Failure> {
    let failed = |error: io::Error| unwritten(target.path(), &error);
    let mut writing = target.begin().map_err(failed)?;
    let read = read(client, owner, path, |piece| writing.write(piece));
    let size = read.await?.map_err(failed)?;
    writing.finish().map_err(failed)?;
    Ok(size)
}

/// Copies one file under a name of the agent's choice; the inner error is that of
/// writing it.
async fn fetch_into(
    client: &Client,
    owner: Owner<'_>,
    path: &str,
    dir: &LocalDir,
    name: &str,
) -> Result<io::Result<u64>, Failure> {
    let mut file = match dir.create(name, InTheWay::Stays) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let read = read(client, owner, path, |piece| file.write(piece)).await?;
    Ok(read.and_then(|size| file.finish().map(|()| size)))
}

async fn read(
    client: &Client,
    owner: Owner<'_>,
    path: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<io::Result<u64>, Failure> {
    let bar = Bar::new(path);
    let read = client.read_file(owner.agent, path, |piece, whole| {
        bar.add(piece.len(), whole);
        take(piece)
    });
    read.await.map_err(|error| owner.has_not(Some(path), error))
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
/// there; says what was copied, to who asks, also where it fails.
async fn copy_tree(
    client: &Client,
    owner: Owner<'_>,
    path: Option<&str>,
    to: &Path,
    copied: &mut Option<Vec<Copied>>,
) -> Outcome {
    // Nothing is made for what is not there.
    let there = client.files(owner.agent, path, None).await;
    there.map_err(|error| owner.has_not(path, error))?;
    if !to.is_dir() {
        std::fs::create_dir(to).map_err(|error| unwritten(to, &error))?;
    }
    let into = LocalDir::open(to).map_err(|error| unwritten(to, &error))?;
    // What lies in the directory does so without its path.
    let place = |lies: &str| {
        let within = path.and_then(|path| lies.strip_prefix(path));
        to.join(within.unwrap_or(lies).trim_start_matches('/'))
    };
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
                entered => Rc::new(entered.map_err(|error| unwritten(&place(shown), &error))?),
            },
        };
        let files = match client.all_files(owner.agent, next.path.as_deref()).await {
            Err(error) if next.depth > 0 && error.code() == Some(ErrorCode::NotFound) => {
                skipped.gone(shown);
                continue;
            }
            files => files.map_err(|error| owner.has_not(next.path.as_deref(), error))?,
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
                FileKind::File => match fetch_into(client, owner, &file.path, &dir, name).await {
                    Err(failure) if failure.is(ErrorCode::NotFound) => skipped.gone(&file.path),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                        taken.add(&file.path);
                    }
                    fetched => {
                        let to = place(&file.path);
                        let bytes = fetched?.map_err(|error| unwritten(&to, &error))?;
                        if let Some(copied) = copied {
                            copied.push(Copied {
                                path: file.path,
                                to: to.display().to_string(),
                                bytes,
                            });
                        }
                    }
                },
                FileKind::Link | FileKind::Other => skipped.add(&file.path),
            }
        }
    }
    if skipped.count > 0 {
        print::tell(&format!(
            "{} left out that are neither files nor directories, or are gone: {}",
            text::count(skipped.count),
            skipped.named()
        ));
    }
    if skipped.some_gone {
        // As much may be missing because the agent itself was forgotten.
        let asked = client.files(owner.agent, path, None).await;
        asked.map_err(|error| owner.has_not(path, error))?;
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
