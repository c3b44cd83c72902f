//! From flags to the spec of an agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_bytes::ByteBuf;
use skep_client::Client;
use skep_client::protocol::op::WhenFull;
use skep_client::protocol::path::is_plain;
use skep_client::protocol::spec::{
    ComponentRef, DirGrant, DirMode, OnFuelExhausted, Restart, RestartPolicy, Stdin,
};
use skep_client::protocol::{AgentName, AgentSpec, Digest, LimitsAsk, RunnerKind};
use skep_host::config::units;

use super::args::{ProgramArgs, SpecArgs};
use super::failure::Failure;

/// Larger components are uploaded, in chunks that can be resumed; smaller ones
/// come with the spawn, in one request of at most 10 MiB.
const INLINE: usize = 8 * 1024 * 1024;

/// Where an agent's stdin comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StdinSource {
    Closed,
    /// Nothing is sent now; `skep stdin` may.
    Open,
    /// This command's own.
    Own,
    File(String),
}

impl FromStr for StdinSource {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "closed" => Self::Closed,
            "open" => Self::Open,
            "-" => Self::Own,
            file => Self::File(file.to_owned()),
        })
    }
}

impl SpecArgs {
    /// What to do where the host is full.
    pub(super) fn when_full(&self) -> Option<WhenFull> {
        self.no_queue.then_some(WhenFull::Reject)
    }
}

/// The spec that the flags ask for, without stdin. Large components are on the
/// host when it returns.
pub(super) async fn build(
    args: SpecArgs,
    program: ProgramArgs,
    stdin: Stdin,
    client: &Client,
) -> Result<AgentSpec, Failure> {
    let limits = limits(&args)?;
    let mut words = program.program.into_iter();
    let program = words.next().unwrap_or_default();
    let name = args.name.unwrap_or_else(|| default_name(&program));
    let mut spec = AgentSpec::named(name);
    if args.native {
        spec.runner = RunnerKind::Native;
        spec.command = std::iter::once(program).chain(words).collect();
    } else {
        spec.component = Some(component(&program, client).await?);
        spec.args = words.collect();
    }
    spec.env = args.env.into_iter().collect();
    spec.task = args.task;
    spec.context = args.context;
    spec.system_prompt = args.system_prompt;
    spec.model = args.model;
    spec.labels = args.label.into_iter().collect();
    spec.stdin = stdin;
    spec.inputs = inputs(&args.input, client).await?;
    spec.limits = limits;
    spec.grants.dirs = args.dir;
    spec.grants.scratch = args.scratch;
    spec.on_fuel_exhausted = args.on_fuel_exhausted.unwrap_or_default();
    spec.restart = args.restart.unwrap_or_default();
    Ok(spec)
}

/// Makes what the flags name what it is here: for a host in this process, which
/// would speak of it as of a stranger's.
pub(super) fn at_home(args: &SpecArgs, program: &mut ProgramArgs) -> Result<(), Failure> {
    for dir in &args.dir {
        let host = Path::new(&dir.host);
        if !host.is_dir() {
            return Err(Failure::of_dir(host).about("--dir"));
        }
    }
    if let Some(program) = program.program.first_mut().filter(|_| args.native)
        && program.contains('/')
    {
        let path = Path::new(program);
        let found = path.metadata().and_then(|_| std::path::absolute(path));
        let found = found.map_err(|error| Failure::of_program(path, &error))?;
        *program = found.to_string_lossy().into_owned();
    }
    Ok(())
}

/// The file's stem, with what is not allowed made `-`; of a digest its
/// beginning.
fn default_name(program: &str) -> AgentName {
    if program.parse::<Digest>().is_ok() {
        return AgentName::from_lossy(program.get("sha256:".len()..19).unwrap_or_default());
    }
    let stem = Path::new(program).file_stem().unwrap_or_default();
    AgentName::from_lossy(&stem.to_string_lossy())
}

async fn component(program: &str, client: &Client) -> Result<ComponentRef, Failure> {
    let path = Path::new(program);
    let bytes = match tokio::fs::read(path).await {
        Ok(bytes) => bytes,
        Err(error) => {
            return match program.parse() {
                Ok(digest) => Ok(ComponentRef::Digest(digest)),
                Err(_) => Err(Failure::of_program(path, &error)),
            };
        }
    };
    if bytes.len() > INLINE {
        Ok(ComponentRef::Digest(client.upload(&bytes).await?))
    } else {
        Ok(ComponentRef::Data(ByteBuf::from(bytes)))
    }
}

/// The inputs, which are on the host when it returns.
async fn inputs(
    files: &[(PathBuf, String)],
    client: &Client,
) -> Result<BTreeMap<String, Digest>, Failure> {
    let mut inputs = BTreeMap::new();
    for (file, path) in files {
        let bytes = tokio::fs::read(file).await;
        let bytes = bytes.map_err(|error| Failure::of_file(file, &error).about("--input"))?;
        let digest = client.upload(&bytes).await?;
        if inputs.insert(path.clone(), digest).is_some() {
            return Err(Failure::of_skep(format!(
                "--input: `{path}` is given twice"
            )));
        }
    }
    Ok(inputs)
}

/// Every limit's flag; those with a flag of their own win. Limits of later
/// builds are passed on: the host says no.
fn limits(args: &SpecArgs) -> Result<LimitsAsk, Failure> {
    let mut ask = named_limits(&args.limit).map_err(Failure::of_skep)?;
    ask.fuel = args.fuel.or(ask.fuel);
    ask.memory_bytes = args.memory.or(ask.memory_bytes);
    if let Some(timeout) = args.timeout {
        ask.wall_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    Ok(ask)
}

pub(super) fn named_limits(limits: &[(String, u64)]) -> Result<LimitsAsk, String> {
    let map = limits
        .iter()
        .map(|(name, value)| (name.clone(), (*value).into()));
    serde_json::from_value(serde_json::Value::Object(map.collect()))
        .map_err(|error| error.to_string())
}

pub(super) fn parse_limit(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = units::parse_limit(name, value).map_err(|error| error.to_string())?;
    let limit = (name.to_owned(), value);
    named_limits(std::slice::from_ref(&limit))?;
    Ok(limit)
}

pub(super) fn parse_env(text: &str) -> Result<(String, String), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(error) => return Err(format!("{text}: {error}; write {text}=VALUE")),
        },
    };
    if key.is_empty() {
        return Err("the name is missing: write K=V".to_owned());
    }
    Ok((key.to_owned(), value))
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write K=V".to_owned()),
    }
}

/// `HOST:GUEST[:ro|:rw]`. The host's part may have colons, the guest's not.
pub(super) fn parse_dir(text: &str) -> Result<DirGrant, String> {
    let (paths, mode) = match text.rsplit_once(':') {
        Some((paths, "ro")) => (paths, DirMode::Ro),
        Some((paths, "rw")) => (paths, DirMode::Rw),
        _ => (text, DirMode::Rw),
    };
    let (host, guest) = paths
        .rsplit_once(':')
        .filter(|(host, guest)| !host.is_empty() && !guest.is_empty())
        .ok_or("write HOST:GUEST or HOST:GUEST:ro")?;
    if !guest.starts_with('/') {
        return Err(format!("`{guest}` is not an absolute path of the guest"));
    }
    let host = std::path::absolute(host).map_err(|error| error.to_string())?;
    let host = host.into_os_string().into_string();
    let host = host.map_err(|host| format!("{} is not UTF-8", host.display()))?;
    Ok(DirGrant {
        host,
        guest: guest.to_owned(),
        mode,
    })
}

/// `FILE:PATH`. The part of here may have colons, the guest's not.
pub(super) fn parse_input(text: &str) -> Result<(PathBuf, String), String> {
    let (file, path) = text
        .rsplit_once(':')
        .filter(|(file, _)| !file.is_empty())
        .ok_or("write FILE:PATH")?;
    Ok((PathBuf::from(file), guest_file(path)?))
}

/// `PATH:FILE`, as [`parse_input`].
pub(super) fn parse_output(text: &str) -> Result<(String, PathBuf), String> {
    let (path, file) = text
        .split_once(':')
        .filter(|(_, file)| !file.is_empty())
        .ok_or("write PATH:FILE")?;
    let path = path.strip_prefix('/').unwrap_or(path);
    Ok((guest_file(path)?, PathBuf::from(file)))
}

fn guest_file(path: &str) -> Result<String, String> {
    if is_plain(path) {
        return Ok(path.to_owned());
    }
    Err(format!("`{path}` is no relative path without `.` and `..`"))
}

/// `never`, `on-failure[:MAX]`, `always[:MAX]`.
pub(super) fn parse_restart(text: &str) -> Result<Restart, String> {
    let wrong = || "write never, on-failure[:MAX] or always[:MAX]".to_owned();
    let (policy, max) = match text.split_once(':') {
        Some((policy, max)) => (policy, Some(max.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let policy = match policy {
        "never" if max.is_none() => RestartPolicy::Never,
        "on-failure" => RestartPolicy::OnFailure,
        "always" => RestartPolicy::Always,
        _ => return Err(wrong()),
    };
    Ok(Restart {
        policy,
        max,
        ..Restart::default()
    })
}

pub(super) fn parse_on_fuel(text: &str) -> Result<OnFuelExhausted, String> {
    match text {
        "exit" => Ok(OnFuelExhausted::Exit),
        "pause" => Ok(OnFuelExhausted::Pause),
        _ => Err("write exit or pause".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use skep_client::protocol::LimitName;

    use super::*;

    #[test]
    fn directories() {
        let grant = |text: &str| {
            let DirGrant { host, guest, mode } = parse_dir(text)?;
            Ok::<_, String>((host, guest, mode == DirMode::Rw))
        };
        let of = |host: &str, guest: &str, rw| Ok((host.to_owned(), guest.to_owned(), rw));
        assert_eq!(grant("/a:/b"), of("/a", "/b", true));
        assert_eq!(grant("/a:/b:ro"), of("/a", "/b", false));
        assert_eq!(grant("/a:b:/c:rw"), of("/a:b", "/c", true));
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            grant("./x:/b"),
            of(here.join("x").to_str().unwrap(), "/b", true)
        );
        for wrong in ["", "/a", "/a:", ":/b", "/a:ro", "/a:b", "/a:b:ro"] {
            assert!(grant(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_in_and_out() {
        let of = |file: &str, path: &str| Ok((PathBuf::from(file), path.to_owned()));
        assert_eq!(parse_input("a:b:c/d"), of("a:b", "c/d"));
        for wrong in ["", "a", ":b", "a:", "a:/b", "a:../b"] {
            assert!(parse_input(wrong).is_err(), "{wrong}");
        }
        let of = |path: &str, file: &str| Ok((path.to_owned(), PathBuf::from(file)));
        assert_eq!(parse_output("/a/b:c:d"), of("a/b", "c:d"));
        for wrong in ["", "a", ":b", "a:", "/:b", "../a:b", "//a:b"] {
            assert!(parse_output(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn restarts() {
        let restart = |text| parse_restart(text).map(|restart| (restart.policy, restart.max));
        assert_eq!(restart("never"), Ok((RestartPolicy::Never, None)));
        assert_eq!(restart("always:2"), Ok((RestartPolicy::Always, Some(2))));
        for wrong in ["", "never:1", "on-failure:", "always:x", "sometimes"] {
            assert!(restart(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_come_from_files() {
        assert_eq!(default_name("/a/my agent.wasm").as_str(), "my-agent");
        assert_eq!(default_name("..").as_str(), "agent");
        let digest = Digest::of(b"abc").to_string();
        assert_eq!(default_name(&digest).as_str(), "ba7816bf8f01");
    }

    #[test]
    fn every_limit_can_be_set() {
        for name in LimitName::ALL {
            let ask = named_limits(&[(name.as_str().to_owned(), 5)]).unwrap();
            assert_eq!(ask.get(*name), Some(5), "{name:?}");
        }
        assert_eq!(parse_limit("wall_ms=2s"), Ok(("wall_ms".to_owned(), 2000)));
        assert!(parse_limit("fuel").is_err());
    }

    #[test]
    fn the_environment_is_taken_by_name_only() {
        assert_eq!(parse_env("A="), Ok(("A".to_owned(), String::new())));
        assert_eq!(parse_env("PATH").unwrap().1, std::env::var("PATH").unwrap());
        assert!(parse_env("SKEP_NO_SUCH_VARIABLE").is_err());
        assert!(parse_env("=x").is_err());
    }
}
