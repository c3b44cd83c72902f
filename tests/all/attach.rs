//! `skep attach`: on a terminal and without one.

use nix::sys::signal::Signal;
use skep_client::protocol::spec::{RestartPolicy, Stdin};
use skep_client::protocol::{AgentInfo, AgentState, Outcome};
use skep_tests::{HostProcess, Terminal, TestHost, eventually, probe, skep_binary, soon, spec};
use tokio::process::Child;

use crate::command::{signal, skep, skep_with, start};
use crate::supervision::{again, with};

const DETACH: &str = "\x10\x11";

async fn echo(host: &TestHost) -> AgentInfo {
    let mut spec = spec("echo", &[]);
    spec.stdin = Stdin::Open;
    host.client().await.spawn(spec, None).await.unwrap()
}

/// The command on a terminal, between two looks at how the terminal is set.
fn attach(host: &TestHost, flags: &str) -> Terminal {
    let script = format!(
        "trap : INT QUIT; before=$(stty -g); echo ready; '{}' --host '{}' attach {flags}; \
         echo \"code $?\"; [ \"$before\" = \"$(stty -g)\" ] && echo restored",
        skep_binary().display(),
        host.control(),
    );
    Terminal::start("/bin/sh", &["-c", &script], &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_detach_keys_leave_it_running() {
    let host = TestHost::start().await;
    let agent = echo(&host).await;
    let mut terminal = attach(&host, "echo");
    terminal.shows("Ctrl-P Ctrl-Q leaves it running").await;
    terminal.types("first lime\x7f\x7fne\n").await;
    // Edited before it was sent, and echoed once by the terminal, once by it.
    terminal.shows("first line\nfirst line").await;
    terminal.types(DETACH).await;
    terminal.shows("left running").await;
    terminal.shows("code 0\nrestored").await;
    let client = host.client().await;
    let info = client.get(agent.id).await.unwrap();
    assert_eq!((info.outcome, info.usage.stdin_bytes), (None, 11));

    // Others may be chosen, also such as the terminal keeps for itself.
    let mut terminal = attach(&host, "--detach-keys ctrl-c,x echo");
    terminal.shows("Ctrl-C x leaves it running").await;
    terminal.types("second\n").await;
    terminal.shows("second\nsecond").await;
    // What stands before the keys is sent.
    terminal.types("more\x03x").await;
    terminal.shows("code 0\nrestored").await;
    assert_eq!(client.get(agent.id).await.unwrap().usage.stdin_bytes, 22);

    // The end of what is typed is the end of its stdin, and then its own.
    let mut terminal = attach(&host, "--since 0 echo");
    terminal.shows("first line\nsecond").await;
    terminal.types("\x04").await;
    terminal.shows("code 0\nrestored").await;
    let ended = client.wait(agent.id, None).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Exited { code: 0 }));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_stdin_can_be_left() {
    let host = TestHost::with(|config| config.capacity.max_agents = 1).await;
    let client = host.client().await;
    client.spawn(probe(&["until-stop"]), None).await.unwrap();
    let queued = echo(&host).await;
    assert_eq!(queued.state, AgentState::Queued);
    // In a line of their own, and behind something else.
    for (lines, keys) in [("first\nsecond\n", DETACH), ("third\n", "more\x10\x11")] {
        let mut terminal = attach(&host, "echo");
        terminal.shows("Ctrl-P Ctrl-Q leaves it running").await;
        terminal.types(lines).await;
        terminal.types(keys).await;
        terminal.shows("left running").await;
        terminal.shows("has not taken all").await;
        terminal.shows("code 0\nrestored").await;
    }
    let info = client.get(queued.id).await.unwrap();
    assert_eq!(
        (info.state, info.usage.stdin_bytes),
        (AgentState::Queued, 0)
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_leave_the_terminal_as_it_was() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    for (flags, keys, code) in [("", "\x1c", 131), ("--no-stop", "\x03", 130)] {
        let mut terminal = attach(&host, &format!("--since 0 {flags} probe"));
        terminal.shows("\nready").await;
        terminal.types(keys).await;
        terminal.shows(&format!("code {code}\nrestored")).await;
        assert_eq!(client.get(agent).await.unwrap().outcome, None);
    }
    let mut terminal = attach(&host, "--since 0 probe");
    terminal.shows("\nready").await;
    terminal.types("\x03").await;
    terminal.shows("stopping").await;
    terminal.shows("code 143\nrestored").await;
    let ended = client.wait(agent, None).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Stopped { forced: false }));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_bytes_are_bytes() {
    let host = TestHost::start().await;
    let agent = echo(&host).await.id.to_string();
    let control = host.control().to_string();
    // The detach keys are some of them.
    let ran = skep_with(&["--host", &control, "attach", &agent], b"one\n\x10\x11two").await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "one\n\x10\x11two")
    );
    let again = skep(&["--host", &control, "attach", &agent]).await;
    assert_eq!(again.code, Some(125));
    assert!(again.stderr.contains("(wrong_state)"), "{}", again.stderr);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_told_of_before_its_first_line() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let ticks = with(
        probe(&["tick", "1000000", "20"]),
        again(RestartPolicy::Always, None),
    );
    let agent = client.spawn(ticks, None).await.unwrap().id.to_string();
    let control = host.control().to_string();
    let args = ["--host", &control, "attach", "--since", "0", &agent];
    let terminal = Terminal::start(skep_binary().to_str().unwrap(), &args, &[]);
    terminal.shows("tick 2").await;
    host.kill_9();
    // After that long, its events come some time after its answers.
    terminal.shows("the host is gone").await;
    host.start_again().await;
    let begins = "run 1 of the agent begins\r\n";
    let written = eventually("its first lines", || async {
        let written = terminal.written();
        let (before, after) = written.split_once(begins)?;
        let lines = after.matches('\n').count();
        (lines >= 2).then(|| (before.to_owned(), after.to_owned()))
    });
    let (before, after) = written.await;
    assert_eq!(before.matches("tick 1\r\n").count(), 1, "{before}");
    assert!(after.starts_with("tick 1\r\ntick 2\r\n"), "{after}");
}

/// The command, once it can write no more, since nobody reads it.
async fn attach_unread(control: &str) -> Child {
    const MUCH: u64 = 32 * 1024;
    let child = start(&["--host", control, "attach", "--no-stdin", "probe"]);
    let stdout = child.stdout.as_ref().unwrap();
    let mut before = 0;
    eventually("a pipe that takes no more", || {
        let waiting = rustix::io::ioctl_fionread(stdout).unwrap();
        let full = waiting > MUCH && waiting == std::mem::replace(&mut before, waiting);
        async move { full.then_some(()) }
    })
    .await;
    child
}

/// The code of a command that still nobody reads.
async fn left(child: &mut Child) -> Option<i32> {
    let status = soon("the end of the command", child.wait()).await;
    status.unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_read_can_leave() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    let endless = probe(&["tick", "1000000000", "0", &"x".repeat(200)]);
    let agent = client.spawn(endless, None).await.unwrap().id;
    for (sent, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut child = attach_unread(&control).await;
        signal(&child, sent);
        assert_eq!(left(&mut child).await, Some(code));
    }
    let mut child = attach_unread(&control).await;
    for wanted in [AgentState::Stopping, AgentState::Exited] {
        signal(&child, Signal::SIGINT);
        eventually(wanted.as_str(), || async {
            let info = client.get(agent).await.unwrap();
            (info.state == wanted).then_some(())
        })
        .await;
    }
    signal(&child, Signal::SIGINT);
    assert_eq!(left(&mut child).await, Some(130));
    host.end().await;
}
