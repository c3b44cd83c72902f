//! A host in a process of its own: the real binary, which can be killed.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use skep_client::{Client, ConnectionConfig, Endpoint};
use tempfile::TempDir;

use crate::wait::{eventually, soon};

/// The binary `skep` of the same build.
///
/// # Panics
/// With the command that builds it, if it is not there.
#[must_use]
pub fn skep_binary() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    // target/debug/skep, beside target/debug/soak and above target/debug/deps/all-…
    let binary = own
        .ancestors()
        .skip(1)
        .take(2)
        .find(|dir| !dir.ends_with("deps"))
        .map(|dir| dir.join("skep"))
        .unwrap_or_default();
    assert!(
        binary.is_file(),
        "{} is missing; run: cargo build -p skep-client",
        binary.display()
    );
    binary
}

/// What a host says that cannot start.
///
/// # Panics
/// If it starts, or does not say it as the command says what happened.
pub async fn start_in_vain(control: &str, state_dir: &Path) -> String {
    let host = tokio::process::Command::new(skep_binary())
        .args(["serve", "--events", "none", "--control", control])
        .arg("--state-dir")
        .arg(state_dir)
        .env_clear()
        .kill_on_drop(true)
        .output();
    let ended = soon("the end of a host that cannot start", host).await;
    let ended = ended.expect("the host's process");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(125), "{said}");
    assert!(said.starts_with("skep: "), "{said}");
    said
}

/// `skep serve` as a child process. Dropping it kills it.
#[derive(Debug)]
pub struct HostProcess {
    child: Child,
    binary: PathBuf,
    ports: (u16, u16),
    args: Vec<String>,
    stderr: PathBuf,
    dir: TempDir,
}

impl HostProcess {
    /// Starts a host with these further arguments and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_from(skep_binary(), args).await
    }

    /// The same, from another binary.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_from(binary: PathBuf, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join(LOG);
        Self::start_logging_to(log, dir, binary, args).await
    }

    /// The same, with a stderr that takes nothing.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_unheard(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::start_logging_to("/dev/full".into(), dir, skep_binary(), args).await
    }

    /// The same, with a stderr that is a pipe, of which this is the reading end.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_piped(args: &[&str]) -> (Self, File) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        // Otherwise it would wait for the host.
        let end = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&pipe)
            .expect("the pipe's end");
        fcntl(&end, FcntlArg::F_SETFL(OFlag::empty())).expect("an end that is waited at");
        let host = Self::start_logging_to(pipe, dir, skep_binary(), args).await;
        (host, end)
    }

    async fn start_logging_to(
        stderr: PathBuf,
        dir: TempDir,
        binary: PathBuf,
        args: &[&str],
    ) -> Self {
        let ports = (free_port(), free_port());
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let child = serve(&binary, ports, dir.path(), &stderr, &args);
        let mut host = Self {
            child,
            binary,
            ports,
            args,
            stderr,
            dir,
        };
        host.answers().await;
        host
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it takes requests, also after it was started again.
    #[must_use]
    pub fn control(&self) -> Endpoint {
        Endpoint::loopback(self.ports.0)
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join(STATE)
    }

    /// What it has logged since it was started.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(LOG)).expect("the host's log")
    }

    /// A new client, connected or about to be.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(ConnectionConfig::new(self.control()))
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// If it was gone before.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("a process to be killed");
        self.child.wait().expect("a process that was killed ends");
    }

    /// Starts it again, at the same endpoints and with the same state.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_again(&mut self) {
        self.child = serve(
            &self.binary,
            self.ports,
            self.dir.path(),
            &self.stderr,
            &self.args,
        );
        self.answers().await;
    }

    /// Sends it SIGTERM.
    ///
    /// # Panics
    /// If it is gone.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a process to be signalled");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the end of the host's process", || {
            let status = child.try_wait().expect("a child");
            async move { status }
        })
        .await
    }

    /// Whether it is still the process that was started.
    ///
    /// # Panics
    /// If the system does not tell.
    #[must_use]
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// What its log says of panics.
    ///
    /// # Panics
    /// If it has no log.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let log = std::fs::read(self.dir.path().join(LOG)).expect("the host's log");
        let log = String::from_utf8_lossy(&log);
        let panics = log.lines().filter(|line| line.contains("panicked"));
        panics.map(str::to_owned).collect()
    }

    /// The scratch directories of its agents that are there.
    ///
    /// # Panics
    /// If the system does not tell.
    #[must_use]
    pub fn scratch(&self) -> Vec<String> {
        let dir = self.dir.path().join("state").join("scratch");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            // None was ever made.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", dir.display()),
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            entry.file_name().to_string_lossy().into_owned()
        };
        entries.map(name).collect()
    }

    /// What it has compiled and keeps on disk, entry by entry.
    ///
    /// # Panics
    /// If the system does not tell.
    #[must_use]
    pub fn compiled(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.dir.path().join("cache")).expect("its cache");
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read(entry.expect("an entry").path()).expect("a file")
        };
        entries.map(read).collect()
    }

    async fn answers(&mut self) {
        let client = self.client();
        let (child, dir) = (&mut self.child, self.dir.path());
        eventually("a host that answers", || {
            let status = child.try_wait().expect("a child");
            let client = client.clone();
            async move {
                let log = dir.join(LOG);
                if status.is_some() {
                    let said = std::fs::read_to_string(log).unwrap_or_default();
                    panic!("the host has ended instead of starting: {said}");
                }
                let patience = std::time::Duration::from_millis(500);
                client.with_patience(patience).hello().await.ok()
            }
        })
        .await;
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the host's own log and its state are, below its directory.
const LOG: &str = "log";
const STATE: &str = "state";

fn serve(
    binary: &Path,
    (control, events): (u16, u16),
    dir: &Path,
    stderr: &Path,
    args: &[String],
) -> Child {
    let stderr = File::create(stderr).expect("a file for the host's log");
    Command::new(binary)
        // Whatever this test runs under must not configure the host.
        .env_clear()
        .arg("serve")
        .args(["--control", &format!("tcp://127.0.0.1:{control}")])
        .args(["--events", &format!("tcp://127.0.0.1:{events}")])
        .arg("--state-dir")
        .arg(dir.join(STATE))
        .arg("--cache-dir")
        .arg(dir.join("cache"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("the host's process")
}

/// A port that is free, below those that the system gives to connections: a
/// client that looks for a host which is not there could otherwise be given the
/// host's own port, and find itself.
fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    (0..COUNT)
        .map(|_| FIRST + own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}
