#![expect(clippy::print_stdout, reason = "what a line costs")]

use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use serde_bytes::ByteBuf;
use serde_json::Value;
use skep_protocol::op::{AgentSpawn, AgentStdin, Op, Request};
use skep_protocol::spec::{DirGrant, DirMode, Stdin};
use skep_protocol::text::deceives;
use skep_protocol::{AgentId, AgentName, AgentSpec, ErrorCode, RequestId};

use super::*;

/// Ten times and more what anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

const LONGEST: usize = 64 * 1024;

fn bounds(max_bytes: u64, files: u32) -> Bounds {
    Bounds { max_bytes, files }
}

fn asks(request: &Request, op: Op) -> Asked {
    let mut asked = Asked::of_id(Some(RequestId::random()));
    asked.asks(op);
    asked.says(request);
    asked
}

fn spawn(spec: AgentSpec) -> Asked {
    let request = Request::AgentSpawn(AgentSpawn {
        spec,
        when_full: None,
    });
    asks(&request, Op::AgentSpawn)
}

fn named(name: &str) -> AgentSpec {
    AgentSpec::named(AgentName::from_lossy(name))
}

fn refusal(code: ErrorCode, field: &str) -> WireError {
    WireError::of_field(code, field, "it said: hunter2")
}

fn value(line: &[u8]) -> Value {
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert!(line.ends_with(b"\n"));
    serde_json::from_slice(line).unwrap()
}

fn values(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap();
    text.split_inclusive(|byte| *byte == b'\n')
        .map(value)
        .collect()
}

fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_handed_to_an_agent_is_not_told() {
    let mut spec = named("worker");
    spec.env = [("TOKEN", "hunter2"), ("PASSWORD=hunter2", "hunter2")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    spec.args = vec!["hunter2".to_owned()];
    spec.command = vec!["/bin/sh".to_owned(), "hunter2".to_owned()];
    for text in [
        &mut spec.task,
        &mut spec.context,
        &mut spec.system_prompt,
        &mut spec.model,
    ] {
        "hunter2".clone_into(text);
    }
    spec.stdin = Stdin::Data(ByteBuf::from("hunter2"));
    spec.limits.fuel = Some(7);
    spec.labels = [("team".to_owned(), "blue".to_owned())].into();
    let refused = refusal(ErrorCode::Denied, "spec.env");
    for refusal in [None, Some(&refused)] {
        let line = line::of_request(&spawn(spec.clone()), refusal);
        let told = value(&line);
        assert!(!told.to_string().contains("hunter2"), "{told}");
        assert_eq!(told["env"], serde_json::json!(["PASSWORD", "TOKEN"]));
        assert_eq!(told["program"], "/bin/sh");
        assert_eq!(told["name"], "worker");
        assert_eq!(told["limits"], serde_json::json!({"fuel": 7}));
        assert_eq!(told["labels"], serde_json::json!({"team": "blue"}));
        assert_eq!(told["op"], "agent.spawn");
        assert_eq!(told["principal"], "local");
        let result = refusal.map_or("ok", |refusal| refusal.code.as_str());
        assert_eq!(told["result"], result);
        assert!(told["duration_us"].is_u64() && told["id"].is_string());
    }
    let stdin = Request::AgentStdin(AgentStdin {
        agent: AgentId::random(),
        data: Some(ByteBuf::from("hunter2")),
        close: true,
    });
    let told = value(&line::of_request(&asks(&stdin, Op::AgentStdin), None));
    assert!(!told.to_string().contains("hunter2"), "{told}");
    assert_eq!(
        (&told["stdin_bytes"], &told["close"]),
        (&7.into(), &true.into())
    );
}

#[test]
fn no_line_is_long_whatever_a_client_writes() {
    for text in ["\u{1}", "\"", "\\", "\u{10ffff}", "x", "=", "\u{202e}"] {
        let long = text.repeat(10_000);
        let texts = (0..5000).map(|number| format!("{number:04}{long}"));
        let texts: Vec<String> = texts.take(200).collect();
        let mut spec = named("hostile");
        spec.env = texts
            .iter()
            .map(|key| (key.clone(), long.clone()))
            .collect();
        spec.labels = spec.env.clone();
        spec.command = texts.clone();
        spec.grants.dirs = (texts.iter().cloned())
            .map(|host| DirGrant {
                host,
                guest: long.clone(),
                mode: DirMode::Rw,
            })
            .collect();
        let refused = refusal(ErrorCode::InvalidArgument, &long);
        let line = line::of_request(&spawn(spec), Some(&refused));
        assert!(line.len() <= LONGEST, "{} bytes of {text:?}", line.len());
        let told = value(&line);
        assert_eq!(told["left_out"], 3 * (200 - 24), "{told}");
        assert!(told["program"].as_str().unwrap().ends_with('…'));
        let told = String::from_utf8(line).unwrap();
        assert!(!told.trim_end().contains(deceives));
    }
}

proptest! {
    #[test]
    fn a_text_is_cut_and_says_so(text in any::<String>(), most in 0..64_usize) {
        let told = asked::told(&text, most);
        prop_assert_eq!(told.ends_with('…') && told.chars().count() <= most + 1, text.len() > most
            || text.ends_with('…'));
        prop_assert!(!told.chars().any(deceives));
    }
}

#[test]
fn only_what_changes_something_or_is_refused_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::open(&dir.path().join("audit"), bounds(1 << 20, 2), "host").unwrap();
    let of = |op: Op| {
        let mut asked = Asked::now();
        asked.asks(op);
        asked
    };
    for op in Op::ALL {
        audit.record(&of(*op), None);
    }
    audit.record(
        &of(Op::AgentGet),
        Some(&refusal(ErrorCode::NotFound, "agent")),
    );
    audit.record(&Asked::now(), Some(&refusal(ErrorCode::Malformed, "id")));
    let mut put = of(Op::ComponentPut);
    put.completed();
    audit.record(&put, None);
    audit.close();
    audit.close();
    let path = dir.path().join("audit/audit.jsonl");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let told = values(&path);
    let (first, last) = (&told[0], &told[told.len() - 1]);
    assert_eq!(
        (&first["kind"], &first["server_id"]),
        (&"started".into(), &"host".into())
    );
    assert_eq!(last["kind"], "ended");
    let told: Vec<_> = told[1..told.len() - 1]
        .iter()
        .map(|line| (line["op"].as_str(), line["result"].as_str().unwrap()))
        .collect();
    let mut expected: Vec<_> = (Op::ALL.iter())
        .filter(|op| {
            let read = matches!(op, Op::ComponentRemove | Op::HostDrain);
            op.changes() || read
        })
        .map(|op| (Some(op.as_str()), "ok"))
        .collect();
    expected.extend([
        (Some("agent.get"), "not_found"),
        (None, "malformed"),
        (Some("component.put"), "ok"),
    ]);
    assert_eq!(told, expected);
}

#[test]
fn files_are_rotated_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut roll = Roll::open(dir.path(), bounds(1000, 3)).unwrap();
    let mut number = 0;
    for batch in [1, 7, 100, 3, 50] {
        let mut lines = Vec::new();
        for _ in 0..batch {
            lines.extend(format!("{{\"number\":{number},\"x\":\"{}\"}}\n", "x".repeat(50)).bytes());
            number += 1;
        }
        roll.append(&mut lines).unwrap();
        assert!(lines.is_empty());
    }
    let files = ["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"].map(|name| dir.path().join(name));
    let mut told = Vec::new();
    for file in &files {
        assert!(file.metadata().unwrap().len() <= 1000);
        told.extend(values(file));
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 3);
    let last = told.last().unwrap()["number"].clone();
    assert_eq!(last, number - 1);
    let first = told[0]["number"].as_u64().unwrap();
    assert!(first > 0 && told.len() > 20);
    for (line, expected) in told.iter().zip(first..) {
        assert_eq!(line["number"], expected);
    }
    // A line that is longer than a file has one of its own.
    let mut long = format!("\"{}\"\n\"short\"\n", "x".repeat(5000)).into_bytes();
    roll.append(&mut long).unwrap();
    assert_eq!(values(&files[1])[0].as_str().unwrap().len(), 5000);
    assert_eq!(values(&files[2]), ["short"]);
    // Fewer files, at the next turn.
    let mut roll = Roll::open(dir.path(), bounds(1000, 1)).unwrap();
    roll.append(&mut [&b"\"x\"\n"[..]; 300].concat()).unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_torn_line_stays_and_the_next_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    std::fs::write(&path, "{\"a\":1}\n{\"b\":").unwrap();
    let mut roll = Roll::open(dir.path(), bounds(1000, 2)).unwrap();
    roll.append(&mut b"{\"c\":3}\n".to_vec()).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "{\"a\":1}\n{\"b\":\n{\"c\":3}\n"
    );
    // Somebody else rotates.
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    roll.append(&mut b"{\"d\":4}\n".to_vec()).unwrap();
    assert_eq!(values(&path), [serde_json::json!({"d": 4})]);
}

#[test]
fn what_a_full_disk_does_not_take_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let audit = Audit::open(dir.path(), bounds(64 << 20, 2), "host").unwrap();
    until("it fails", || audit.is_failing());
    let mut asked = Asked::now();
    asked.asks(Op::AgentKill);
    // More than there is room for.
    const ASKED: usize = 100_000;
    for _ in 0..ASKED {
        audit.record(&asked, None);
    }
    std::fs::remove_file(&path).unwrap();
    until("it heals", || !audit.is_failing());
    audit.close();
    let told = values(&path);
    let of = |kind: &str| told.iter().filter(|line| line["kind"] == kind).count();
    let lost = told.iter().find(|line| line["kind"] == "lost").unwrap();
    let lost = usize::try_from(lost["count"].as_u64().unwrap()).unwrap();
    assert_eq!(of("request") + lost, ASKED);
    assert!(of("request") > 10_000 && lost > 10_000);
    assert_eq!((of("started"), of("ended")), (1, 1));
}

#[test]
fn a_record_that_cannot_be_opened_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Audit::open(&dir.path().join("file/audit"), bounds(1 << 20, 2), "x").unwrap_err();
    assert!(
        error.to_string().contains("[audit] enabled = false"),
        "{error}"
    );
}

#[test]
fn a_line_costs_little() {
    const TIMES: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::open(dir.path(), bounds(1 << 30, 2), "host").unwrap();
    let mut spec = named("worker");
    spec.env = (0..10)
        .map(|n| (format!("KEY_{n}"), String::new()))
        .collect();
    let refused = refusal(ErrorCode::Malformed, "id");
    let each = |what: &str, run: &dyn Fn()| {
        let start = Instant::now();
        for _ in 0..TIMES {
            run();
        }
        let each = start.elapsed() / TIMES;
        println!("{what}: {each:?}");
        // A hundred times what it takes, and ten times what it may.
        assert!(each < Duration::from_millis(1), "{what}: {each:?}");
    };
    each("a spawn", &|| audit.record(&spawn(spec.clone()), None));
    each("one of a flood of refusals", &|| {
        audit.record(&Asked::now(), Some(&refused));
    });
    each("a read", &|| audit.record(&Asked::now(), None));
}
