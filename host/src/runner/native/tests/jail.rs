//! What shuts agents in. Where the kernel decides, a test asserts what is told
//! of it, and says which case it met.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use skep_protocol::Enforcement;
use skep_protocol::spec::DirMode;

use super::*;
use crate::runner::GrantedDir;

/// A directory that everybody may enter, with a file that everybody may read.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let open = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(dir.path(), open(0o777)).unwrap();
    fs::write(dir.path().join("file"), "canary").unwrap();
    fs::set_permissions(dir.path().join("file"), open(0o666)).unwrap();
    dir
}

pub(super) fn grant(path: &Path, mode: DirMode) -> GrantedDir {
    GrantedDir {
        host: path.canonicalize().unwrap(),
        guest: path.to_str().unwrap().into(),
        access: mode.into(),
    }
}

#[tokio::test]
async fn no_privileges() {
    let mut agent = start(&[
        "grep",
        "-E",
        "^(Uid|Groups|CapEff|CapPrm|CapInh|CapAmb|NoNewPrivs|Seccomp):",
        "/proc/self/status",
    ]);
    assert_eq!(agent.end().await, End::Exited(0));
    let status = text(&agent.stdout).to_owned();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().collect::<Vec<_>>()
    };
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert!(field("Uid:").iter().all(|uid| *uid != "0"), "{status}");
    assert!(!field("Groups:").contains(&"0"), "{status}");
    if holds().await.network == Enforcement::Enforced {
        assert_eq!(field("Seccomp:"), ["2"]);
    }
}

#[tokio::test]
async fn files_that_were_not_granted() {
    let files = holds().await.files;
    println!("files are {files:?}");
    let dir = open_dir();
    let path = dir.path().to_str().unwrap();
    let read = format!("cat {path}/file 2>/dev/null || exit 9");
    let mut agent = sh(&read);
    let end = agent.end().await;
    match files {
        Enforcement::None => assert_eq!(end, End::Exited(0)),
        _ => assert_eq!((end, agent.stdout.len()), (End::Exited(9), 0)),
    }
    if files != Enforcement::Enforced {
        println!("what lies elsewhere may be seen");
        return;
    }
    let none = format!("ls {path} || ls /root || ls /home || ls /var || ls /tmp || exit 9");
    assert_eq!(
        sh(&none).end().await,
        End::Exited(9),
        "they are not even seen"
    );
    for write in ["/etc/x", "/usr/x", "/x", "/dev/x"] {
        let mut agent = sh(&format!("(: > {write}) 2>/dev/null || exit 9"));
        assert_eq!(agent.end().await, End::Exited(9), "{write}");
    }
    // Of the processes of the machine, it sees its own.
    let mut agent = sh("ls -d /proc/[0-9]* | wc -l");
    assert_eq!(agent.end().await, End::Exited(0));
    assert!(text(&agent.stdout).trim().parse::<u32>().unwrap() <= 4);

    for (mode, expected) in [(DirMode::Ro, End::Exited(9)), (DirMode::Rw, End::Exited(0))] {
        let granted = grant(dir.path(), mode);
        let script =
            format!("{read}; cd {path}; (echo more >> file && mkdir d) 2>/dev/null || exit 9");
        let mut agent = start_with(&["sh", "-c", &script], |launch| {
            launch.dirs = vec![granted];
        });
        assert_eq!(agent.end().await, expected, "{mode:?}");
        assert_eq!(text(&agent.stdout), "canary", "{mode:?}");
    }
    assert_eq!(
        fs::read_to_string(dir.path().join("file")).unwrap(),
        "canarymore\n"
    );
    // Neither its permissions are, where it may only be read.
    let (granted, file) = (grant(dir.path(), DirMode::Ro), dir.path().join("file"));
    let escape =
        format!("ln -s /etc {path}/l; ln {path}/file {path}/h; cat {path}/../../root/x; exit 9");
    let mut agent = start_with(&["sh", "-c", &escape], |launch| launch.dirs = vec![granted]);
    assert_eq!(agent.end().await, End::Exited(9));
    assert!(!dir.path().join("l").exists() && !dir.path().join("h").exists() && file.exists());
}

/// Not even by who owns the file, which Landlock does not ask about.
#[tokio::test]
async fn what_may_only_be_read_stays_as_it_is() {
    let files = holds().await.files;
    println!("files are {files:?}");
    if files != Enforcement::Enforced {
        return;
    }
    for (mode, refused) in [(DirMode::Ro, true), (DirMode::Rw, false)] {
        let dir = open_dir();
        let file = dir.path().join("file");
        if let Some(account) = runner().setup.account {
            chown(&file, Some(account.uid), Some(account.gid)).unwrap();
        }
        let state = || {
            let found = file.metadata().unwrap();
            (found.mode() & 0o777, found.mtime())
        };
        let before = state();
        let granted = grant(dir.path(), mode);
        let path = file.to_str().unwrap();
        let script = format!("chmod 640 {path}; echo $?; touch -d @1 {path}; echo $?");
        let mut agent = start_with(&["sh", "-c", &script], |launch| {
            launch.dirs = vec![granted];
        });
        assert_eq!(agent.end().await, End::Exited(0));
        if refused {
            assert_eq!(text(&agent.stdout), "1\n1\n");
            assert_eq!(state(), before);
        } else {
            assert_eq!(text(&agent.stdout), "0\n0\n");
            assert_eq!(state(), (0o640, 1));
        }
    }
}

#[tokio::test]
async fn mounts_allow_what_is_granted() {
    let files = holds().await.files;
    println!("files are {files:?}");
    if files != Enforcement::Enforced {
        return;
    }
    let read = open_dir();
    // One lies within the other.
    let write = tempfile::tempdir_in(read.path()).unwrap();
    let granted = vec![
        grant(write.path(), DirMode::Rw),
        grant(read.path(), DirMode::Ro),
    ];
    let mut agent = start_with(&["cat", "/proc/self/mountinfo"], |launch| {
        launch.dirs = granted;
    });
    assert_eq!(agent.end().await, End::Exited(0));
    let mut seen = 0;
    for line in text(&agent.stdout).lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (place, options) = (Path::new(fields[4]), fields[5]);
        let has = |option| options.split(',').any(|one| one == option);
        let writable = place.starts_with(write.path());
        assert_eq!(has("ro"), !writable, "{line}");
        assert!(has("nosuid"), "{line}");
        assert!(has("nodev") || place.starts_with("/dev"), "{line}");
        seen += usize::from(place == read.path() || place == write.path());
    }
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn a_grant_is_not_followed_to_elsewhere() {
    let files = holds().await.files;
    println!("files are {files:?}");
    if files == Enforcement::None {
        return;
    }
    let dir = open_dir();
    let host = dir.path().canonicalize().unwrap().join("link");
    std::os::unix::fs::symlink("/etc", &host).unwrap();
    let granted = GrantedDir {
        guest: host.to_str().unwrap().into(),
        host,
        access: DirMode::Ro.into(),
    };
    let mut agent = start_with(&["true"], |launch| launch.dirs = vec![granted]);
    let end = agent.end().await;
    assert!(matches!(end, End::StartFailed { .. }), "{end:?}");
}

#[tokio::test]
async fn no_network() {
    let network = holds().await.network;
    println!("the network is {network:?}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!(
        "socket(S, 2, 1, 0) or exit 8; connect(S, pack('Sna4x8', 2, {port}, chr(127).\"\\0\\0\\1\")) or exit 9;"
    );
    let end = perl(&connect, |_| {}).end().await;
    match network {
        Enforcement::None => assert_eq!(end, End::Exited(0)),
        Enforcement::BestEffort => assert_eq!(end, End::Exited(9)),
        Enforcement::Enforced => assert!(matches!(end, End::Exited(8 | 9)), "{end:?}"),
    }
}

/// Whether anybody counts processes here; if not, that is told.
async fn counts_processes() -> bool {
    let wanted = Wanted {
        processes: true,
        ..Wanted::default()
    };
    let counts = runner().check(wanted).await.is_ok();
    if !counts {
        println!("nobody counts processes here, and who asks for that is refused");
    }
    counts
}

#[tokio::test]
async fn processes_up_to_the_limit() {
    if !counts_processes().await {
        return;
    }
    // Forks until it cannot, or until it has so many children.
    let forks = |most: u64| {
        format!(
            "$| = 1; while ($n < {most}) {{ $p = fork; last unless defined $p; \
             if (!$p) {{ sleep 1000 }} $n++ }} print \"$n\\n\"; sleep 1000"
        )
    };
    for (limit, most, expected) in [(10, 1000, "9"), (10, 9, "9"), (10, 8, "8")] {
        let mut agent = perl(&forks(most), |launch| launch.limits.processes = limit);
        assert_eq!(agent.lines(1).await, [expected]);
        agent.kill().await;
    }
    // Each counts for itself.
    let mut one = perl(&forks(1000), |launch| launch.limits.processes = 20);
    let mut other = perl(&forks(1000), |launch| launch.limits.processes = 20);
    assert_eq!(one.lines(1).await, ["19"]);
    assert_eq!(other.lines(1).await, ["19"]);
    one.kill().await;
    other.kill().await;

    // Threads count too.
    let threads = "use threads; $| = 1; $n = 0; $SIG{__WARN__} = sub {}; \
                   while ($n < 1000) { last unless threads->create({stack_size => 65536}, \
                   sub { sleep 1000 }); $n++ } print \"$n\\n\"; sleep 1000";
    let mut agent = perl(threads, |launch| {
        launch.limits.processes = 10;
        launch.limits.memory_bytes = 1 << 30;
    });
    assert_eq!(agent.lines(1).await, ["9"]);
    agent.kill().await;
}

#[tokio::test]
async fn a_bomb_is_held_and_gone_after_a_kill() {
    if !counts_processes().await {
        return;
    }
    let mut agent = perl("$| = 1; print qq(ready\\n); fork while 1", |launch| {
        launch.limits.processes = 32;
    });
    agent.lines(1).await;
    until(|| marked(&agent.mark).len() == 32).await;
    agent.kill().await;
}

#[tokio::test]
async fn open_files_up_to_the_limit() {
    for (limit, most, expected) in [(20, 1000, "17"), (20, 17, "17"), (20, 16, "16")] {
        let script = format!(
            "while (@f < {most}) {{ open(my $f, '<', '/dev/null') or last; push @f, $f }} \
             print scalar(@f)"
        );
        let mut agent = perl(&script, |launch| launch.limits.open_files = limit);
        assert_eq!(agent.end().await, End::Exited(0));
        // Its script and its stdio are files too.
        assert_eq!(text(&agent.stdout), expected);
    }
}

#[tokio::test]
async fn memory_up_to_the_limit() {
    let memory = holds().await.memory;
    println!("memory is {memory:?}");
    let hold = |mib: u64| format!("$x = 'x' x ({mib} << 20); print length $x");
    let limit = |launch: &mut Launch| launch.limits.memory_bytes = 64 << 20;
    let mut agent = perl(&hold(24), limit);
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout), (24 << 20).to_string());
    let mut agent = perl(&hold(500), limit);
    match memory {
        Enforcement::Enforced => {
            assert!(matches!(agent.end().await, End::OutOfMemory { .. }));
        }
        // ENOMEM, and perl ends with the number of its last error.
        _ => assert_eq!(agent.end().await, End::Exited(12)),
    }
    assert_eq!(agent.stdout, b"");
}

#[tokio::test]
async fn memory_of_all_processes_together() {
    // Each holds a third of the limit, and none shares it.
    let hold = |children: u32| {
        format!(
            "$| = 1; for (1..{children}) {{ if (!fork) {{ $x = 'x' x (20 << 20); \
             print qq(held\\n); sleep 1000 }} }} sleep 1000"
        )
    };
    let limit = |launch: &mut Launch| launch.limits.memory_bytes = 64 << 20;
    let mut twin = perl(&hold(1), limit);
    twin.lines(1).await;
    let mut agent = perl(&hold(6), limit);
    match agent.end().await {
        End::OutOfMemory { asked_bytes } => assert!(asked_bytes > 64 << 20, "{asked_bytes}"),
        other => panic!("{other:?}"),
    }
    twin.kill().await;
}

#[tokio::test]
async fn what_is_shared_counts_once() {
    // The pages of one shell and its libraries, again and again.
    let script = "i=0; while [ $i -lt 149 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait";
    let mut agent = start_with(&["sh", "-c", script], |launch| {
        launch.limits.processes = 200;
    });
    agent.lines(1).await;
    until(|| agent.guest.control.usage().memory_bytes > 64 << 20).await;
    looks(4).await;
    assert_eq!(marked(&agent.mark).len(), 150);
    agent.kill().await;
}

/// Forks children that keep what they were born with, and have not written to it.
const HEIRS: &str = "$| = 1; $x = 'x' x (24 << 20); \
                     for (1..5) { if (!fork) { print qq(ready\\n); sleep 1000 } } sleep 1000";

#[tokio::test]
async fn what_is_inherited_counts_once() {
    let limit = |launch: &mut Launch| launch.limits.memory_bytes = 64 << 20;
    let mut agent = perl(HEIRS, limit);
    agent.lines(5).await;
    until(|| agent.guest.control.usage().memory_bytes > 64 << 20).await;
    looks(4).await;
    assert_eq!(marked(&agent.mark).len(), 6);
    agent.kill().await;
}

/// The kernel walks all that a process maps to tell what of it is shared: who maps
/// more than the host has walked is taken to share nothing.
#[tokio::test]
async fn nobody_maps_so_much_that_a_look_takes_long() {
    let memory = holds().await.memory;
    println!("memory is {memory:?}");
    if memory == Enforcement::Enforced || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    // 8 GiB in each, of pages that are there once: MAP_SHARED, MAP_POPULATE.
    let maps = "open(my $f, '<', $^X); my $n = (2 << 30) / -s $f; \
                for (1..$n) { syscall(9, 0, -s $f, 1, 0x8001, fileno($f), 0) == -1 and die }";
    let script = HEIRS.replace("print", &format!("{maps}; print"));
    let mut agent = perl(&script, |launch| launch.limits.memory_bytes = 64 << 20);
    match agent.end().await {
        End::OutOfMemory { asked_bytes } => assert!(asked_bytes > 64 << 20, "{asked_bytes}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_look_at_memory_holds_up_nothing() {
    let runner = runner();
    runner.check(Wanted::default()).await.unwrap();
    let memory = runner.enforced().memory;
    println!("memory is {memory:?}");
    // Like one that takes for ever.
    let other = runner.snapshots.turn().await;
    let limit = |launch: &mut Launch| launch.limits.memory_bytes = 64 << 20;
    let hoards = "$| = 1; for (1..4) { if (!fork) { $x = 'x' x (20 << 20); print qq(held\\n); \
                  sleep 1000 } } sleep 1000";
    let mut agent = start_under(&runner, &["perl", "-e", hoards], limit);
    let mut killed = start_under(&runner, &["sleep", "1000"], |_| {});
    if memory != Enforcement::Enforced {
        agent.lines(4).await;
        killed.running().await;
        looks(2).await;
        agent.paused().await;
        agent.guest.control.resume();
        killed.kill().await;
    }
    drop(other);
    let end = agent.end().await;
    assert!(matches!(end, End::OutOfMemory { .. }), "{end:?}");
    killed.guest.control.kill();
}
