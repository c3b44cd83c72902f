//! Trees that are held, by each of the ways in which they can be.

use super::*;

impl Agent {
    /// Nothing more comes.
    async fn stands(&mut self) {
        let read = timeout(Duration::from_millis(300), self.read()).await;
        assert!(read.is_err(), "{:?}", String::from_utf8_lossy(&self.stdout));
    }
}

#[tokio::test]
async fn a_tree_stands_and_goes_on() {
    for (way, runner) in runners().await {
        println!("held by {way}");
        let script = "t() { while :; do echo $1; sleep 0.01; done; }; t a & (timeout 9999 sh -c \
                      'while :; do echo b; sleep 0.01; done' &) & t c";
        let mut agent = start_under(&runner, &["sh", "-c", script], |_| {});
        agent.lines(30).await;
        agent.paused().await;
        agent.stands().await;
        agent.guest.control.resume();
        for tick in ["a", "b", "c"] {
            while !agent.lines(1).await.iter().any(|line| line == tick) {
                agent.read().await;
            }
        }
        agent.paused().await;
        agent.stands().await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn one_that_wakes_others_is_paused_again() {
    for (way, runner) in runners().await {
        println!("held by {way}");
        let script = "w() { while :; do kill -CONT -$$; echo $1; done; }; w a & w b & \
                      (sleep 0.02; while :; do kill -CONT $$; done) & w c";
        let mut agent = start_under(&runner, &["sh", "-c", script], |_| {});
        agent.lines(10).await;
        agent.paused().await;
        agent.stands().await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn many_times() {
    let mut agent = sh("while :; do echo tick; sleep 0.001; done");
    agent.lines(1).await;
    for _ in 0..100 {
        agent.guest.control.pause();
        agent.guest.control.resume();
    }
    agent.stdout.clear();
    agent.lines(10).await;
    agent.paused().await;
    agent.stands().await;
    agent.kill().await;
}

#[tokio::test]
async fn stop_and_kill_while_paused() {
    for (way, runner) in runners().await {
        println!("held by {way}");
        let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
        let mut agent = start_under(&runner, &["sh", "-c", script], |_| {});
        agent.lines(1).await;
        agent.paused().await;
        agent.guest.control.ask_stop();
        assert_eq!(agent.end().await, End::Exited(3));
        assert_eq!(agent.stdout, b"bye\n");

        let mut agent = start_under(&runner, &["sh", "-c", script], |_| {});
        agent.lines(1).await;
        agent.paused().await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn one_that_stops_itself() {
    let mut agent = sh("echo ready; kill -STOP $$; exit 4");
    agent.lines(1).await;
    // It is told to go on, as by a shell.
    let first = *marked(&agent.mark).iter().min().unwrap();
    let stat = || std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    until(|| stat().contains(") T ")).await;
    let go_on = nix::sys::signal::Signal::SIGCONT;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), go_on).unwrap();
    assert_eq!(agent.end().await, End::Exited(4));
}
