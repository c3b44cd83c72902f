//! What agents have of sessions, and of the processors.

use nix::sched::CpuSet;

use super::super::processors::count;
use super::*;

/// Tells its number, group and session, and those of a child.
const TELL: &str = "cut -d' ' -f1,5,6 /proc/$$/stat; (cut -d' ' -f5,6 /proc/self/stat); \
                    echo ready; cat";

/// Says that its session is to have less of the processors.
const CHANGE: &str = "(echo 1 > /proc/self/autogroup) 2>/dev/null; echo ready; cat";

/// Which part of the processors a process is in, where sessions are parts, and how much
/// that has.
fn part(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()
}

fn own_part() -> Option<String> {
    part(std::process::id().cast_signed())
}

/// Runners where the kernel shares the processors by session, or does not; and whether
/// agents stay in the host's there.
async fn everywhere() -> Vec<(String, bool, NativeRunner)> {
    let mut found = Vec::new();
    for (way, like) in runners().await {
        let layers = like.setup.jailer().await.unwrap().layers();
        for share in [true, false] {
            let runner = runner();
            let jailer = Jailer::probe(&binary(), runner.setup.account)
                .await
                .unwrap()
                .with(layers)
                .where_sessions_share(share);
            runner.setup.jailer.set(jailer).unwrap();
            let stays = share && layers.namespaces && layers.view;
            found.push((format!("{way}, {share}"), stays, runner));
        }
    }
    found
}

#[tokio::test]
async fn an_agent_has_a_session_of_its_own_unless_it_would_have_as_much_as_the_hosts() {
    for (way, stays, runner) in everywhere().await {
        println!("{way}: {stays}");
        let mut agent = start_under(&runner, &["sh", "-c", TELL], |_| {});
        let lines = agent.lines(3).await;
        let number = lines[0].split(' ').next().unwrap();
        // That of the host has no number where the agent cannot see it.
        let session = if stays { "0" } else { number };
        assert_eq!(lines[0], format!("{number} {number} {session}"), "{way}");
        assert_eq!(lines[1], format!("{number} {session}"), "{way}");
        agent.stdin = None;
        assert_eq!(agent.end().await, End::Exited(0));
    }
}

/// On this machine as it is.
#[tokio::test]
async fn no_agent_that_is_shut_in_has_as_much_of_the_processors_as_the_host() {
    let runner = runner();
    let jailer = runner.setup.jailer().await.unwrap();
    let hidden = jailer.layers().namespaces && jailer.layers().view;
    let setting = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    let by_session = setting.is_ok_and(|setting| setting.trim() == "1");
    println!("by session: {by_session}, shut in: {hidden}, {jailer:?}");
    let mut agent = start_under(&runner, &["sh", "-c", TELL], |_| {});
    agent.lines(3).await;
    for pid in marked(&agent.mark) {
        let is_hosts = part(pid) == own_part();
        // Sessions are parts of what is in no cgroup with a part of its own.
        let weighs = super::super::cgroup::shares_the_processors();
        if by_session && hidden && !weighs && !jailer.gives_cgroups_with_cpu() {
            assert!(is_hosts, "it is in another part");
        } else if !by_session {
            assert!(!is_hosts || own_part().is_none(), "it has no session");
        }
    }
    agent.stdin = None;
    assert_eq!(agent.end().await, End::Exited(0));
}

#[tokio::test]
async fn agents_leave_one_processor_to_who_keeps_them() {
    let processors = |pid: i32| nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(pid));
    let all = processors(0).unwrap();
    for (way, runner) in runners().await {
        let jailer = runner.setup.jailer().await.unwrap();
        let spares = jailer.processors().is_some();
        assert_eq!(spares, !jailer.gives_cgroups_with_cpu() && count(&all) > 1);
        println!("{way}: {spares}");
        let mut agent = start_under(&runner, &["sh", "-c", TELL], |_| {});
        agent.lines(3).await;
        for pid in marked(&agent.mark) {
            let agents = processors(pid).unwrap();
            assert_eq!(count(&agents), count(&all) - usize::from(spares), "{way}");
        }
        let first = marked(&agent.mark).into_iter().min().unwrap();
        let agents = processors(first).unwrap();
        // Its keeper, and whoever waits for that one.
        let own = i32::try_from(std::process::id()).unwrap();
        let mut keeper = parent(first);
        while keeper != own {
            if spares {
                // They go there once they have forked, and the agent runs already.
                until(|| count(&processors(keeper).unwrap()) == 1).await;
                let keepers = processors(keeper).unwrap();
                let both = |cpu| keepers.is_set(cpu).unwrap() && agents.is_set(cpu).unwrap();
                assert!(!(0..CpuSet::count()).any(both), "{way}");
            } else {
                assert_eq!(processors(keeper).unwrap(), all, "{way}");
            }
            keeper = parent(keeper);
        }
        agent.stdin = None;
        assert_eq!(agent.end().await, End::Exited(0));
    }
    assert_eq!(processors(0).unwrap(), all);
}

#[tokio::test]
async fn no_agent_changes_what_the_hosts_session_gets() {
    let own = own_part();
    println!("{own:?}");
    for (way, stays, runner) in everywhere().await {
        let mut agent = start_under(&runner, &["sh", "-c", CHANGE], |_| {});
        agent.lines(1).await;
        for pid in marked(&agent.mark).into_iter().filter(|_| stays) {
            assert_eq!(part(pid), own, "{way}");
        }
        assert_eq!(own_part(), own, "{way}");
        agent.stdin = None;
        assert_eq!(agent.end().await, End::Exited(0));
    }
}
