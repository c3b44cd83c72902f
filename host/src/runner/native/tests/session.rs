//! What agents have of sessions.

use super::*;

/// Tells its number, group and session, and those of a child.
const TELL: &str = "cut -d' ' -f1,5,6 /proc/$$/stat; (cut -d' ' -f5,6 /proc/self/stat); cat";

/// Says that the session is to have less of the processors.
const CHANGE: &str = "(echo 1 > /proc/self/autogroup) 2>/dev/null && exit 1; exit 0";

/// The part of the processors that a process is in, where there are such.
fn autogroup(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()
}

/// Each of the runners where the kernel shares the processors by session, and where not.
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
            let kept = share && layers.namespaces && layers.view;
            found.push((format!("{way}, {share}"), kept, runner));
        }
    }
    found
}

/// But not one that would have as much as the host's, if it would be for nothing.
#[tokio::test]
async fn an_agent_has_a_session_of_its_own() {
    let own = autogroup(std::process::id().cast_signed());
    for (way, kept, runner) in everywhere().await {
        println!("{way}: {kept}");
        let mut agent = start_under(&runner, &["sh", "-c", TELL], |_| {});
        let lines = agent.lines(2).await;
        let number = lines[0].split(' ').next().unwrap();
        // That of the host has no number where the agent cannot see it.
        let session = if kept { "0" } else { number };
        assert_eq!(lines[0], format!("{number} {number} {session}"), "{way}");
        assert_eq!(lines[1], format!("{number} {session}"), "{way}");
        for pid in marked(&agent.mark).into_iter().filter(|_| kept) {
            assert_eq!(autogroup(pid), own, "{way}");
        }
        agent.stdin = None;
        assert_eq!(agent.end().await, End::Exited(0));
    }
}

#[tokio::test]
async fn no_agent_changes_what_the_hosts_session_gets() {
    for (way, kept, runner) in everywhere().await {
        let mut agent = start_under(&runner, &["sh", "-c", CHANGE], |_| {});
        let end = agent.end().await;
        println!("{way}: {end:?}");
        if kept {
            assert_eq!(end, End::Exited(0), "{way}");
        }
    }
}
