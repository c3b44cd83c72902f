//! System calls that are denied. Perl makes them, by the numbers of x86_64.

use skep_protocol::Enforcement;

use super::*;

/// Whether there is a filter, and one whose numbers are known here.
async fn filtered() -> bool {
    let filtered = holds().await.network == Enforcement::Enforced;
    println!("system calls are filtered: {filtered}");
    filtered && cfg!(target_arch = "x86_64")
}

/// What becomes of each call: 0, or the number of its error.
async fn outcomes(runner: &NativeRunner, begin: &str, calls: &[&str]) -> Vec<String> {
    let calls: String = calls
        .iter()
        .map(|call| format!("print syscall({call}) == -1 ? $! + 0 : 0, qq(\\n);"))
        .collect();
    let mut agent = start_under(
        runner,
        &["perl", "-e", &format!("{begin}; {calls}")],
        |_| {},
    );
    assert_eq!(agent.end().await, End::Exited(0));
    text(&agent.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn calls_that_no_agent_needs() {
    if !filtered().await {
        return;
    }
    let holds = holds().await;
    let mut calls = vec![
        ("101, 0, 0, 0, 0", "ptrace"),
        ("272, 0x10000000", "unshare"),
        ("56, 0x10000000, 0, 0, 0, 0", "clone with a user namespace"),
        ("165, 0, 0, 0, 0, 0", "mount"),
        ("425, 1, 0", "io_uring_setup"),
        ("321, 0, 0, 0", "bpf"),
        ("16, 0, 0x5412, 0", "ioctl TIOCSTI"),
        ("0x40000029, 2, 1, 0", "socket of the other numbers"),
        ("0x40000209, 0, 0, 0, 0", "ptrace of the other numbers"),
        ("521, 0, 0, 0, 0", "the same, as older kernels take it"),
        ("49, 0, 0, 0", "bind"),
        ("42, 0, 0, 0", "connect"),
        ("50, 0, 0", "listen"),
        ("43, 0, 0, 0", "accept"),
        ("288, 0, 0, 0, 0", "accept4"),
        ("203, 0, 8, 0", "sched_setaffinity"),
    ];
    if holds.memory != Enforcement::Enforced {
        println!("no cgroup counts memory here, and none is had that is no process's");
        calls.extend([
            ("319, 0, 0", "memfd_create"),
            ("29, 0, 4096, 01600", "shmget"),
            ("64, 0, 1, 01600", "semget"),
            ("68, 0, 01600", "msgget"),
            ("240, 0, 0, 0, 0", "mq_open"),
        ]);
    }
    for (call, name) in calls {
        // EPERM, and ENOSYS where the kernel has not got the numbers.
        let script = format!("exit(syscall({call}) == -1 && ($! == 1 || $! == 38) ? 0 : 1)");
        assert_eq!(perl(&script, |_| {}).end().await, End::Exited(0), "{name}");
    }
    // One that may be waited for without being frozen; what it filters is read after.
    let listener = "exit(syscall(317, 1, 8, 0) == -1 && $! == 1 ? 0 : 1)";
    assert_eq!(perl(listener, |_| {}).end().await, End::Exited(0));
    // Of a child, for who leads a group may never.
    let setsid = "if (my $p = fork) { waitpid($p, 0); exit($? >> 8) } \
                  exit(syscall(112) == -1 && $! == 1 ? 0 : 1)";
    assert_eq!(perl(setsid, |_| {}).end().await, End::Exited(0));
    let clone3 = "exit(syscall(435, 0, 0) == -1 && $! == 38 ? 0 : 1)";
    assert_eq!(perl(clone3, |_| {}).end().await, End::Exited(0));
}

/// Only those that are connected for good stay: any other can send to whatever
/// socket lies in a granted directory.
#[tokio::test]
async fn sockets_come_in_connected_pairs_alone() {
    if !filtered().await {
        return;
    }
    let pairs = "for $type (0..15) { print socketpair(A, B, 1, $type | 02000000, 0) ? 0 : $! + 0, \
                 qq(\\n) } print socketpair(A, B, 30, 1, 0) ? 0 : $! + 0, qq(\\n)";
    let found = outcomes(&runner(), pairs, &["41, 1, 1, 0"]).await;
    for (kind, outcome) in found.iter().enumerate() {
        // Streams, and sequenced packets.
        let expected = if [1, 5].contains(&kind) { "0" } else { "1" };
        assert_eq!(outcome, expected, "{kind}");
    }
    assert_eq!(found.len(), 18);
}

/// Neither the host's nor its own keeper's: which of its user's processes may be
/// told what they get, the kernel asks the user alone.
#[tokio::test]
async fn what_others_get_is_not_for_agents_to_say() {
    if !filtered().await {
        return;
    }
    let begin = "my ($init, $shim, $own) = (1, getppid, $$); my $limits = pack('Q2', 0, 0); \
                 my $priority = pack('i', 0); \
                 my $scheduling = pack('L2QlLQ3', 48, 0, 0, 19, 0, 0, 0, 0)";
    // For a process that is named so: what all may do to themselves.
    let calls = |whom: &str| {
        [
            format!("302, {whom}, 4, $limits, 0"),
            format!("144, {whom}, 3, $priority"),
            format!("142, {whom}, $priority"),
            format!("314, {whom}, $scheduling, 0"),
            format!("141, 0, {whom}, 19"),
            format!("251, 1, {whom}, 0"),
        ]
    };
    for (way, runner) in runners().await {
        let namespaces = runner.setup.jailer().await.unwrap().layers().namespaces;
        println!("shut in by {way}, with namespaces: {namespaces}");
        let all = async |whom: &str| {
            let calls = calls(whom);
            outcomes(&runner, begin, &calls.each_ref().map(String::as_str)).await
        };
        let (done, denied) = (["0"; 6], ["1"; 6]);
        assert_eq!(all("0").await, done);
        if namespaces {
            // Nobody else is there to be named.
            assert_eq!(all("$init").await, denied);
            assert_eq!(all("$own").await, done);
        } else {
            assert_eq!(all("$shim").await, denied);
            assert_eq!(all("$own").await, denied);
        }
        let shim = if namespaces { "$init" } else { "$shim" };
        let read = format!("302, {shim}, 7, 0, $limits");
        // All of one user, who is the keeper's too.
        let users = ["141, 2, 0, 19", "251, 3, $<, 0"];
        let others = outcomes(&runner, begin, &[&read, users[0], users[1]]).await;
        assert_eq!(others, ["0", "1", "1"]);
    }
}

/// What the kernel counts for a user, it counts for whom the namespace belongs to
/// as well, who is not root: an agent has its share of it.
#[tokio::test]
async fn few_of_what_the_kernel_counts_by_user() {
    let runner = runner();
    runner.check(Wanted::default()).await.unwrap();
    let namespaces = runner
        .setup
        .known()
        .is_some_and(|jailer| jailer.layers().namespaces);
    let settings = rustix::fs::statvfs("/proc/sys/user").unwrap();
    let writable = !settings
        .f_flag
        .contains(rustix::fs::StatVfsMountFlags::RDONLY);
    println!("namespaces: {namespaces}, /proc/sys/user can be written to: {writable}");
    if !(namespaces && writable && cfg!(target_arch = "x86_64")) {
        return;
    }
    // As many as would take all that a user has, unless it is the host's own.
    let count = if runner.setup.account.is_some() { 9 } else { 1 };
    let most = "$| = 1; $n++ while syscall(253) != -1; print $n + 0, qq(\\n); sleep 1000";
    let mut agents: Vec<_> = (0..count)
        .map(|_| start_under(&runner, &["perl", "-e", most], |_| {}))
        .collect();
    for agent in &mut agents {
        let instances = agent.lines(1).await;
        println!("instances: {instances:?}");
        assert!(instances[0].parse::<u32>().unwrap() <= 16);
    }
    let one = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
    assert!(one.is_ok(), "{one:?}");
    for agent in &mut agents {
        agent.kill().await;
    }
}
