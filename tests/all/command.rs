//! Running the command `skep`.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_tests::{skep_binary, soon};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn prebuilt(name: &str) -> String {
    // So that what is missing is told before the command says so.
    let _ = skep_tests::guest(name);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/prebuilt");
    path.join(format!("{name}.wasm"))
        .to_str()
        .unwrap()
        .to_owned()
}

pub(crate) fn start(args: &[&str]) -> Child {
    start_with_cache(args, Path::new("none"))
}

pub(crate) fn start_with_cache(args: &[&str], cache: &Path) -> Child {
    command(args, cache).spawn().unwrap()
}

fn command(args: &[&str], cache: &Path) -> Command {
    let mut command = Command::new(skep_binary());
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", std::env::temp_dir())
        .env("SKEP_CACHE_DIR", cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    kill(pid, signal).unwrap();
}

pub(crate) async fn ended(child: Child) -> Ran {
    let output = soon("the end of the command", child.wait_with_output())
        .await
        .unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) async fn skep_with(args: &[&str], input: &[u8]) -> Ran {
    let mut child = start(args);
    let mut stdin = child.stdin.take().unwrap();
    // It may end without having read it all.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    ended(child).await
}

/// Runs it with a stderr that takes nothing.
pub(crate) async fn skep_unheard(args: &[&str]) -> Ran {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let child = command(args, Path::new("none"))
        .stderr(full.unwrap())
        .spawn();
    ended(child.unwrap()).await
}

pub(crate) async fn skep(args: &[&str]) -> Ran {
    skep_with(args, b"").await
}

/// Runs an agent here, with flags before its file.
pub(crate) async fn run(flags: &[&str], guest: &str, args: &[&str]) -> Ran {
    let file = prebuilt(guest);
    skep(&[&["run"], flags, &[&file], args].concat()).await
}
