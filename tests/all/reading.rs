//! `skep logs`: where it begins and ends, and several agents at once.

use serde_json::Value;
use skep_client::protocol::event::Stream;
use skep_client::protocol::spec::ComponentRef;
use skep_client::protocol::{AgentId, Digest};
use skep_tests::{HostProcess, Terminal, TestHost, end_of, guest, probe, sh, skep_binary, soon};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::command::{Ran, ended, skep, start};
use crate::{native, running};

/// A command for this host that must succeed.
async fn ask(host: &TestHost, args: &[&str]) -> Ran {
    let control = host.control().to_string();
    let ran = skep(&[&["--host", &control], args].concat()).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
    ran
}

/// An agent of this name that prints its lines and ends.
async fn printed(host: &TestHost, name: &str, args: &[&str]) -> AgentId {
    let client = host.client().await;
    let mut spec = probe(args);
    spec.name = name.parse().unwrap();
    let agent = client.spawn(spec, None).await.unwrap().id;
    end_of(&client, agent).await;
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_found_by_record_time_and_lines() {
    let host = TestHost::start().await;
    let agent = printed(&host, "many", &["lines", "5000"]).await;
    let lines = async |args: &[&str]| {
        let ran = ask(&host, &[&["logs", "many"], args].concat()).await;
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&[]).await.len(), 5000);
    assert_eq!(
        lines(&["--since", "4998"]).await,
        ["line 4999", "line 5000"]
    );
    assert_eq!(
        lines(&["--since", "1", "--until", "3"]).await,
        ["line 2", "line 3"]
    );
    assert_eq!(lines(&["--tail", "2"]).await, ["line 4999", "line 5000"]);
    assert_eq!(
        lines(&["--tail", "2", "--until", "10"]).await,
        ["line 9", "line 10"]
    );
    assert_eq!(lines(&["--tail", "9999"]).await.len(), 5000);
    assert!(lines(&["--tail", "0"]).await.is_empty());
    assert!(lines(&["--until", "1h"]).await.is_empty());
    assert_eq!(lines(&["--since", "2h30m"]).await.len(), 5000);
    assert_eq!(
        lines(&["--since", "2001-01-01T00:00:00+02:00"]).await.len(),
        5000
    );
    assert!(lines(&["--since", "2100-01-01T00:00:00Z"]).await.is_empty());
    assert!(lines(&["--stream", "stderr"]).await.is_empty());

    // A time between two records is found without reading all of them.
    let client = host.client().await;
    let records = client
        .output(agent, None, 3000, None)
        .await
        .unwrap()
        .records;
    let before = client.stats().await.unwrap().requests["agent.output"]["ok"];
    let found = client
        .first_seq_at(agent, records[0].time_ns)
        .await
        .unwrap();
    let after = client.stats().await.unwrap().requests["agent.output"]["ok"];
    let first = client
        .output(agent, None, found, Some(1))
        .await
        .unwrap()
        .records;
    assert_eq!(first[0].time_ns, records[0].time_ns);
    if let Some(before) = found.checked_sub(1) {
        let earlier = client.output(agent, None, before, Some(1)).await.unwrap();
        assert!(earlier.records[0].time_ns < records[0].time_ns);
    }
    assert!(after - before <= 14, "{} reads", after - before);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_lines_are_whole_lines_of_their_stream() {
    let host = native::host().await;
    let client = host.client().await;
    let script = "echo one; echo err >&2; printf 'two, in '; sleep 0.2; printf 'pieces\\n'; \
                  echo more >&2; printf tail";
    let mut spec = sh(script);
    spec.name = "writer".parse().unwrap();
    let agent = client.spawn(spec, None).await.unwrap().id;
    end_of(&client, agent).await;
    let out = async |lines: &str| {
        ask(
            &host,
            &["logs", "writer", "--stream", "stdout", "--tail", lines],
        )
        .await
        .stdout
    };
    assert_eq!(out("1").await, "tail");
    assert_eq!(out("2").await, "two, in pieces\ntail");
    assert_eq!(out("3").await, "one\ntwo, in pieces\ntail");
    let errors = ask(
        &host,
        &["logs", "writer", "--stream", "stderr", "--tail", "1"],
    )
    .await;
    assert_eq!(errors.stderr, "more\n");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_agents_are_told_apart() {
    let host = TestHost::start().await;
    let first = printed(&host, "a", &["lines", "3", "first"]).await;
    let second = printed(&host, "longer", &["stderr", "2"]).await;
    let third = printed(&host, "a", &["lines", "1", "third"]).await;
    let short = |agent: AgentId| agent.to_string()[..8].to_owned();
    let (one, three) = (short(first), short(third));
    let all = ask(&host, &["logs", "--all"]).await;
    let expected =
        format!("a {one} | first 1\na {one} | first 2\na {one} | first 3\na {three} | third 1\n");
    assert_eq!(all.stdout, expected);
    assert_eq!(all.stderr, "longer     | error 1\nlonger     | error 2\n");

    let json = ask(&host, &["logs", "--json", &one, "longer"]).await;
    let agents: Vec<String> = (json.stdout.lines())
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["agent"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let (first, second) = (first.to_string(), second.to_string());
    assert_eq!(
        agents,
        [&first, &first, &first, &second, &second].map(Clone::clone)
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_has_the_time_of_its_first_piece() {
    let host = native::host().await;
    let client = host.client().await;
    // The second line comes in two pieces, with one of stderr between them.
    let script = "echo first; printf 'second begins '; sleep 0.3; echo wrong >&2; sleep 0.3; \
                  echo 'and ends'";
    let mut spec = sh(script);
    spec.name = "timed".parse().unwrap();
    let agent = client.spawn(spec, None).await.unwrap().id;
    end_of(&client, agent).await;
    let times = async |stream| -> Vec<u64> {
        let output = client.output(agent, Some(&[stream]), 0, None).await;
        let records = output.unwrap().records;
        records.iter().map(|record| record.time_ns).collect()
    };
    let (out, err) = (times(Stream::Stdout).await, times(Stream::Stderr).await);
    assert_eq!((out.len(), err.len()), (3, 1), "it came in other pieces");
    let [first, begins, wrong] =
        [out[0], out[1], err[0]].map(|time_ns| skep_host::clock::rfc3339(time_ns / 1_000_000));
    for follow in [&[][..], &["-f"]] {
        let logs = [&["logs", "--timestamps", "timed"], follow].concat();
        let ran = ask(&host, &logs).await;
        let expected = format!("{first} first\n{begins} second begins and ends\n");
        assert_eq!(ran.stdout, expected);
        assert_eq!(ran.stderr, format!("{wrong} wrong\n"));
    }
    printed(&host, "other", &["lines", "1"]).await;
    let ran = ask(&host, &["logs", "--timestamps", "timed", "other"]).await;
    let start =
        format!("timed | {first} first\ntimed | {begins} second begins and ends\nother | 2");
    assert!(ran.stdout.starts_with(&start), "{}", ran.stdout);
    // JSON has its own.
    let json = ask(&host, &["logs", "--json", "timed"]).await.stdout;
    assert!(json.contains(&out[0].to_string()), "{json}");
    let ran = ask(&host, &["logs", "--json", "--timestamps", "timed"]).await;
    assert_eq!(ran.stdout, json);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_agents_that_write_in_pieces_are_never_mixed() {
    let host = native::host().await;
    let client = host.client().await;
    for name in ["left", "right"] {
        let script = format!(
            "for n in 1 2 3 4 5 6; do printf '{name} begins '; sleep 0.12; echo \"and ends $n\"; done; \
             printf '{name} has no newline'"
        );
        let mut spec = sh(&script);
        spec.name = name.parse().unwrap();
        client.spawn(spec, None).await.unwrap();
    }
    let control = host.control().to_string();
    let ran = ended(start(&["--host", &control, "logs", "-f", "left", "right"])).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for name in ["left", "right"] {
        let own: Vec<&str> = (ran.stdout.lines())
            .filter(|line| line.starts_with(name))
            .collect();
        let mut expected: Vec<String> = (1..=6)
            .map(|n| format!("{name:<5} | {name} begins and ends {n}"))
            .collect();
        expected.push(format!("{name:<5} | {name} has no newline"));
        assert_eq!(own, expected);
    }
    assert_eq!(ran.stdout.lines().count(), 14, "{}", ran.stdout);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_followed_to_the_end_is_told_of_and_counts() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let mut follows = vec!["logs".to_owned(), "-f".to_owned()];
    for _ in 0..2 {
        let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap();
        running(&client, agent.id).await;
        follows.push(agent.id.to_string());
    }
    let control = host.control().to_string();
    let args: Vec<&str> = follows.iter().map(String::as_str).collect();
    let mut child = start(&[&["--host", &control], args.as_slice()].concat());
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    for _ in 0..2 {
        soon("a line", lines.next_line()).await.unwrap().unwrap();
    }
    // The next host knows nothing of them.
    host.kill_9();
    std::fs::remove_dir_all(host.state_dir()).unwrap();
    host.start_again().await;
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(125), "{}", ran.stderr);
    for agent in &follows[2..] {
        let told = format!("skep: {agent}: ");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_forgotten_meanwhile_holds_nobody_else_up() {
    const LINES: usize = 20_000;
    let host = TestHost::start().await;
    let client = host.client().await;
    let control = host.control().to_string();
    for follow in [&["-f"][..], &[]] {
        let (mut agents, mut ids) = (Vec::new(), Vec::new());
        for name in ["before", "lost", "after"] {
            let agent = printed(&host, name, &["lines", &LINES.to_string()]).await;
            agents.push(agent);
            ids.push(agent.to_string());
        }
        let named: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut child = start(&[&["--host", &control, "logs"], follow, &named].concat());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It reads little more than what is taken from it.
        for _ in 0..LINES {
            let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
            assert!(line.starts_with("before"), "{line}");
        }
        // The first was read to its end, the second was begun.
        for forgotten in &agents[..2] {
            client.forget(*forgotten).await.unwrap();
        }
        let (mut lost, mut after) = (0, 0);
        while let Some(line) = soon("a line", lines.next_line()).await.unwrap() {
            lost += usize::from(line.starts_with("lost"));
            after += usize::from(line.starts_with("after"));
        }
        let ran = ended(child).await;
        assert!((1..LINES).contains(&lost), "{lost}");
        assert_eq!(after, LINES, "{}", ran.stderr);
        // A page that was asked for just then tells what is gone as a gap.
        let gap = ran.stderr.contains("lost: records ");
        let told = format!("skep: {}: ", ids[1]);
        assert!(gap || ran.stderr.starts_with(&told), "{}", ran.stderr);
        assert!(gap || ran.code == Some(125), "{}", ran.stderr);
        client.forget(agents[2]).await.unwrap();
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_told() {
    let host = TestHost::start().await;
    let client = host.client().await;
    let mut spec = probe(&["lines", "50000"]);
    spec.limits.output_history_bytes = Some(64 * 1024);
    let agent = client.spawn(spec, None).await.unwrap().id;
    client.wait(agent, None).await.unwrap();
    let reply = client.output(agent, None, 0, None).await.unwrap();
    let gap = reply.expired.expect("a gap");
    let agent = agent.to_string();
    let ran = ask(&host, &["logs", &agent]).await;
    let told = format!("skep: records 0 to {} are lost", gap.to_seq);
    assert!(ran.stderr.starts_with(&told), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count() as u64, 49_999 - gap.to_seq);
    let ran = ask(&host, &["logs", "--json", "-f", &agent]).await;
    let first: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({
        "kind": "gap", "agent": agent, "from_seq": 0, "to_seq": gap.to_seq,
    });
    assert_eq!(first, expected);
    // Who asks for the last lines does not ask for what is lost.
    let ran = ask(&host, &["logs", "--tail", "1", &agent]).await;
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("line 50000\n", "")
    );
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_and_can_be_refused() {
    let host = native::host().await;
    let client = host.client().await;
    for (name, script) in [
        ("wild", "printf '\\033[2J\\033[31mred\\033[0m\\rover\\n'"),
        ("tame", "echo hello"),
    ] {
        let mut spec = sh(script);
        spec.name = name.parse().unwrap();
        let agent = client.spawn(spec, None).await.unwrap().id;
        end_of(&client, agent).await;
    }
    let control = host.control().to_string();
    let binary = skep_binary();
    let look = async |environment: &[(&str, &str)]| {
        let args = ["--host", &control, "logs", "wild", "tame"];
        let mut terminal = Terminal::start(binary.to_str().unwrap(), &args, environment);
        terminal.shows("tame | hello").await;
        assert!(soon("the end", terminal.ended()).await.success());
        terminal
    };
    let coloured = look(&[]).await;
    assert!(
        coloured.written().contains("\x1b[3"),
        "{:?}",
        coloured.written()
    );
    // An agent paints nothing over what another said.
    assert!(
        coloured.text().contains("wild | red\\rover"),
        "{}",
        coloured.text()
    );
    assert!(!coloured.written().contains("\x1b[2J"));
    assert!(!coloured.written().contains("\x1b[31mred"));
    let plain = look(&[("NO_COLOR", "1")]).await;
    assert!(!plain.written().contains('\x1b'), "{:?}", plain.written());
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_line_of_several_agents_is_broken_when_it_is_long() {
    const LONGEST: usize = 64 * 1024;
    let host = TestHost::start().await;
    printed(&host, "short", &["flood", &(LONGEST - 1).to_string()]).await;
    printed(&host, "long", &["flood", &(2 * LONGEST + 7).to_string()]).await;
    let ran = ask(&host, &["logs", "short", "long"]).await;
    let of = |name: &str| -> Vec<usize> {
        let behind = |line: &'_ str| {
            Some(
                line.strip_prefix(name)?
                    .trim_start_matches([' ', '|'])
                    .len(),
            )
        };
        ran.stdout.lines().filter_map(behind).collect()
    };
    assert_eq!(of("short"), [LONGEST - 1]);
    assert_eq!(of("long"), [LONGEST, LONGEST, 7]);
    // Of one agent the bytes are written as they come.
    let ran = ask(&host, &["logs", "long"]).await;
    assert_eq!(ran.stdout.len(), 2 * LONGEST + 7);
    assert!(!ran.stdout.contains('\n'));
    host.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_agents_are_read_by_one_command_and_no_more() {
    const MOST: usize = 256;
    let host = TestHost::start().await;
    let client = host.client().await;
    let bytes = guest("probe");
    client.upload(&bytes).await.unwrap();
    let mut spec = probe(&["lines", "1"]);
    spec.component = Some(ComponentRef::Digest(Digest::of(&bytes)));
    let print = async || {
        let agent = client.spawn(spec.clone(), None).await.unwrap().id;
        client.wait(agent, None).await.unwrap();
    };
    for _ in 0..MOST {
        print().await;
    }
    let all = ask(&host, &["logs", "--all"]).await;
    assert_eq!(all.stdout.lines().count(), MOST);
    print().await;
    let control = host.control().to_string();
    let ran = skep(&["--host", &control, "logs", "--all"]).await;
    assert_ne!(ran.code, Some(0));
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.starts_with("skep: these are 257 agents"),
        "{}",
        ran.stderr
    );
    host.end().await;
}
