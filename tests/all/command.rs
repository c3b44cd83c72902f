//! Running the command `skep`.

use std::path::Path;
use std::process::Stdio;

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
    Command::new(skep_binary())
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", std::env::temp_dir())
        .env("SKEP_CACHE_DIR", cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
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

pub(crate) async fn skep(args: &[&str]) -> Ran {
    skep_with(args, b"").await
}

/// Runs an agent here, with flags before its file.
pub(crate) async fn run(flags: &[&str], guest: &str, args: &[&str]) -> Ran {
    let file = prebuilt(guest);
    skep(&[&["run"], flags, &[&file], args].concat()).await
}
