//! What a program is given, and what its driver learns.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use skep_protocol::ErrorCode;

use super::super::Refused;
use super::*;
use crate::runner::{Access, Asked, GrantedDir};

#[tokio::test]
async fn exit_codes() {
    for code in [0, 1, 7, 255] {
        let mut agent = sh(&format!("echo out; echo err >&2; exit {code}"));
        agent.running().await;
        assert_eq!(agent.end().await, End::Exited(code));
        assert_eq!(
            (text(&agent.stdout), text(&agent.stderr)),
            ("out\n", "err\n")
        );
    }
}

#[tokio::test]
async fn signals_real_time_ones_included() {
    for signal in [6, 9, 11, 15, 34, 64] {
        let mut agent = sh(&format!("kill -{signal} $$"));
        assert_eq!(agent.end().await, End::Signaled(signal));
    }
}

#[tokio::test]
async fn environment_and_arguments_are_those_given() {
    let mut agent = start_with(&["/usr/bin/env"], |launch| {
        launch.env = [("A", ""), ("B", "x=y"), ("SKEP_TASK", "a\nb")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
    });
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout), "A=\nB=x=y\nSKEP_TASK=a\nb\n");

    let script = r#"printf '%s|' "$0" "$@""#;
    let mut agent = start_with(&["sh", "-c", script, "zero", ""], |launch| {
        launch.args = vec!["two words".into(), "-x".into()];
    });
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout), "zero||two words|-x|");
}

/// Ignores a signal in all of this process, where nobody sends it.
#[expect(unsafe_code, reason = "rt_sigaction")]
fn ignore(signal: i32) {
    let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
    // SAFETY: the kernel's own structure, in which nothing points anywhere.
    let set = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            ignore.as_ptr(),
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
    assert_eq!(set, 0);
}

#[tokio::test]
async fn nothing_is_inherited() {
    // Like one that a careless parent of the host has left open.
    let left_open = nix::unistd::dup(std::io::stdin()).unwrap();
    // And has told to ignore, one of those included that the C library hides.
    ignore(libc::SIGUSR2);
    ignore(33);
    let mut agent = sh("ls /proc/$$/fd; grep core /proc/$$/limits");
    assert_eq!(agent.end().await, End::Exited(0));
    let told: Vec<_> = text(&agent.stdout).split_whitespace().collect();
    assert_eq!(told[..3], ["0", "1", "2"]);
    // A byte, or nothing where this process has none itself.
    assert!(matches!(
        told[3..],
        ["Max", "core", "file", "size", "0" | "1", "0" | "1", "bytes"]
    ));
    drop(left_open);

    // Not by a shell, which has settings of its own for a while.
    let mut agent = start(&[
        "grep",
        "-E",
        "Sig(Blk|Ign)|NoNew|Umask",
        "/proc/self/status",
    ]);
    assert_eq!(agent.end().await, End::Exited(0));
    let lines: Vec<_> = text(&agent.stdout).lines().collect();
    assert_eq!(lines[..2], ["Umask:\t0077", "SigBlk:\t0000000000000000"]);
    assert_eq!(lines[2], "SigIgn:\t0000000000000000");
    assert_eq!(lines[3..], ["NoNewPrivs:\t1"]);
}

#[tokio::test]
async fn the_group_is_its_own_and_the_shim_shows_nothing() {
    let mut agent = sh("cat /proc/$$/stat; cat; exit");
    let lines = agent.lines(1).await;
    let fields: Vec<_> = lines[0].split(' ').collect();
    assert_eq!(fields[0], fields[4], "its group");
    assert_eq!(fields[6], "0", "no terminal");
    let shim = parent(*marked(&agent.mark).iter().min().unwrap()).to_string();
    let cmdline = fs::read_to_string(format!("/proc/{shim}/cmdline")).unwrap();
    assert!(cmdline.ends_with("\0__native-shim\0"), "{cmdline:?}");
    agent.stdin = None;
    assert_eq!(agent.end().await, End::Exited(0));
    assert!(!exists(&shim), "the shim is gone, and waited for");
}

#[tokio::test]
async fn the_working_directory_is_the_scratch_directory_or_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().canonicalize().unwrap();
    let granted = GrantedDir {
        host: host.clone(),
        guest: "/".into(),
        access: Access::Scratch,
    };
    let mut agent = start_with(&["sh", "-c", "pwd -P; touch made"], |launch| {
        launch.dirs = vec![granted]
    });
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout).trim_end(), host.to_str().unwrap());
    assert!(host.join("made").exists());

    let mut agent = sh("pwd -P");
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout), "/\n");

    let gone = GrantedDir {
        host: host.join("gone"),
        guest: "/".into(),
        access: Access::Scratch,
    };
    let mut agent = start_with(&["true"], |launch| launch.dirs = vec![gone]);
    assert_eq!(
        start_failure(&mut agent).await,
        ErrorCode::StorageUnavailable
    );
}

#[tokio::test]
async fn stdin_is_echoed_until_it_is_closed() {
    let mut agent = start(&["cat"]);
    for word in ["one", "two"] {
        assert_eq!(
            agent
                .stdin
                .as_ref()
                .unwrap()
                .offer(format!("{word}\n").as_bytes()),
            4
        );
        let lines = agent.lines(1).await;
        assert_eq!(lines.last().map(String::as_str), Some(word));
        agent.stdout.clear();
    }
    let large = vec![b'x'; 1_000_000];
    assert_eq!(agent.stdin.as_ref().unwrap().offer(&large), large.len());
    agent.stdin = None;
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(agent.stdout.len(), large.len());
}

#[tokio::test]
async fn a_program_that_closes_its_stdin_takes_no_more() {
    let mut agent = sh("exec 0<&-; echo closed; exec sleep 1000");
    agent.lines(1).await;
    let stdin = agent.stdin.take().unwrap();
    until(|| stdin.offer(b"x") == 0).await;
    agent.kill().await;
}

#[tokio::test]
async fn stdin_that_nobody_reads_is_bounded() {
    let mut agent = start(&["sleep", "1000"]);
    agent.running().await;
    let stdin = agent.stdin.take().unwrap();
    let mut last = u64::MAX;
    until(|| {
        stdin.offer(&[0; 256 * 1024]);
        std::mem::replace(&mut last, stdin.taken()) == stdin.taken()
    })
    .await;
    assert!(
        stdin.taken() <= 1024 * 1024 + 3 * 64 * 1024,
        "{}",
        stdin.taken()
    );
    agent.kill().await;
}

#[tokio::test]
async fn every_byte_before_the_end() {
    let mut agent = sh("head -c 5000000 /dev/zero; head -c 100000 /dev/zero >&2; printf last");
    agent.running().await;
    // Not a byte is read before the program has met its bound.
    let written = |agent: &Agent| agent.output.counter().written()[0];
    until(|| written(&agent) >= 60_000).await;
    assert!(written(&agent) <= 64 * 1024);
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(
        (agent.stdout.len(), agent.stderr.len()),
        (5_000_004, 100_000)
    );
    assert!(agent.stdout.ends_with(b"last"));
}

#[tokio::test]
async fn asked_to_stop() {
    let mut agent = start(&["sleep", "1000"]);
    // Before it runs, even.
    assert_eq!(agent.guest.control.ask_stop(), Asked::Yes);
    assert_eq!(agent.end().await, End::Signaled(15));

    let mut agent =
        sh("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done");
    agent.lines(1).await;
    agent.guest.control.ask_stop();
    assert_eq!(agent.end().await, End::Exited(3));
    assert_eq!(text(&agent.stdout), "ready\nbye\n");

    let mut agent = sh("echo ready; kill -STOP $$");
    agent.lines(1).await;
    agent.guest.control.ask_stop();
    assert_eq!(
        agent.end().await,
        End::Signaled(15),
        "one that has stopped itself"
    );
}

pub(super) async fn start_failure(agent: &mut Agent) -> ErrorCode {
    match agent.event().await {
        GuestEvent::Ended(End::StartFailed { code, message }) => {
            assert!(!message.contains('/'), "{message}");
            code
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, "no program").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (plain, no_format) = (file("plain", 0o644), file("no-format", 0o755));
    for (program, expected) in [
        ("/no/such/program", ErrorCode::NotFound),
        ("no-such-program-at-all", ErrorCode::NotFound),
        (plain.as_str(), ErrorCode::InvalidArgument),
        (no_format.as_str(), ErrorCode::InvalidArgument),
        ("/usr", ErrorCode::InvalidArgument),
        ("relative/path", ErrorCode::InvalidArgument),
        ("", ErrorCode::InvalidArgument),
        ("a\0b", ErrorCode::InvalidArgument),
    ] {
        assert_eq!(
            start_failure(&mut start(&[program])).await,
            expected,
            "{program:?}"
        );
    }
    assert_eq!(
        start_failure(&mut start(&[])).await,
        ErrorCode::InvalidArgument
    );
    assert_eq!(
        start_failure(&mut start(&["true", "\0"])).await,
        ErrorCode::InvalidArgument
    );
    let large = "x".repeat(1024 * 1024);
    assert_eq!(
        start_failure(&mut start(&["true", &large])).await,
        ErrorCode::TooLarge
    );

    let no_shim = NativeRunner::new(NativeConfig {
        shim: "/no/shim".into(),
        programs: Vec::new(),
        user: None,
        private: Vec::new(),
    })
    .unwrap();
    let (launch, pipes, _stdin, _output) = launch(&["true"]);
    let event = no_shim.start(launch, pipes).events.recv().await;
    assert!(
        matches!(event, Some(GuestEvent::Ended(End::Fault { .. }))),
        "{event:?}"
    );
}

#[tokio::test]
async fn only_what_the_operator_lists() {
    let listed = |programs: &[&str]| {
        let programs = programs.iter().map(std::path::PathBuf::from).collect();
        NativeRunner::new(NativeConfig {
            shim: binary(),
            programs,
            user: None,
            private: Vec::new(),
        })
        .unwrap()
    };
    let any = listed(&[]);
    assert_eq!(any.check_program("env"), Ok("/usr/bin/env".into()));
    assert_eq!(
        any.check_program("/bin/../bin/env"),
        Ok("/bin/../bin/env".into())
    );
    for invalid in ["", "a/b", "./a", ".", "..", "a\0"] {
        assert_eq!(
            any.check_program(invalid),
            Err(Refused::Invalid),
            "{invalid:?}"
        );
    }
    let some = listed(&["/usr/bin/env", "/opt/agent"]);
    assert_eq!(some.check_program("env"), Ok("/usr/bin/env".into()));
    assert_eq!(
        some.check_program("/usr/bin/env"),
        Ok("/usr/bin/env".into())
    );
    assert_eq!(some.check_program("/opt/agent"), Ok("/opt/agent".into()));
    for refused in [
        "sh",
        "/bin/sh",
        "agent",
        "/usr/bin/../bin/env",
        "/usr/bin//env",
        "/usr/bin/env/",
    ] {
        assert_eq!(
            some.check_program(refused),
            Err(Refused::NotAllowed),
            "{refused:?}"
        );
    }
    let (launch, pipes, _stdin, _output) = launch(&["sh"]);
    match some.start(launch, pipes).events.recv().await {
        Some(GuestEvent::Ended(End::StartFailed { code, .. })) => {
            assert_eq!(code, ErrorCode::Denied)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn usage_while_it_runs_and_after() {
    let mut agent = sh("(while :; do :; done) & wait");
    until(|| {
        let usage = agent.guest.control.usage();
        usage.cpu_ms >= 50 && usage.memory_bytes > 0
    })
    .await;
    let before = agent.guest.control.usage();
    agent.kill().await;
    let after = agent.guest.control.usage();
    assert!(after.cpu_ms >= before.cpu_ms, "{before:?} {after:?}");
    assert!(after.memory_peak_bytes >= before.memory_bytes && after.memory_bytes == 0);
}

#[tokio::test]
async fn agents_go_before_the_host() {
    // Out of memory, and behind it for the processor.
    let host = rustix::process::getpriority_process(None).unwrap();
    let mut agent = sh("cat /proc/self/oom_score_adj; nice");
    assert_eq!(agent.end().await, End::Exited(0));
    let nice = (host + 10).min(19);
    assert_eq!(text(&agent.stdout), format!("1000\n{nice}\n"));
}
