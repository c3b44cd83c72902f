//! Golden bytes: one file per message. What this crate writes is compared with
//! them byte for byte, and they are read back. Clients in other languages read
//! the same files.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod samples;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use samples::json::to_json;

const WRITE: &str = "SKEP_WRITE_GOLDEN";
const COMMAND: &str = "SKEP_WRITE_GOLDEN=1 cargo test -p skep-protocol --test golden";

const README: &str = "\
# Golden bytes

Each message of the protocol, as the Rust crate writes it: `<name>.bin` is the
payload, and `<name>.json` says the same for people and for other languages'
tests, with bytes as `{\"$bin\": \"<hex>\"}` and the keys in alphabetical order.
`protocol/tests/golden.rs` compares them with what the crate writes and reads.

A file that changes is a change of the wire. After an intended one, write them
anew and look at the difference:

    SKEP_WRITE_GOLDEN=1 cargo test -p skep-protocol --test golden

| name | message |
|---|---|
";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares a file with what it should hold, or writes it.
fn compare(name: &str, expected: &[u8]) -> Result<(), String> {
    let path = directory().join(name);
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(directory()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    match fs::read(&path) {
        Err(error) => Err(format!("{name}: {error}")),
        Ok(found) if found == expected => Ok(()),
        Ok(_) => Err(format!("{name} differs from what is written today")),
    }
}

#[test]
fn golden_bytes() {
    let mut files = BTreeSet::from(["README.md".to_owned()]);
    let mut wrong = Vec::new();
    let mut readme = README.to_owned();
    for sample in samples::all() {
        let name = &sample.name;
        let json = format!("{:#}\n", to_json(&sample.bytes));
        for (file, expected) in [
            (format!("{name}.bin"), &sample.bytes[..]),
            (format!("{name}.json"), json.as_bytes()),
        ] {
            wrong.extend(compare(&file, expected).err());
            assert!(files.insert(file), "two samples are named {name}");
        }
        writeln!(readme, "| {name} | {} |", sample.about).unwrap();
        (sample.reads_back)(&sample.bytes);
    }
    wrong.extend(compare("README.md", readme.as_bytes()).err());
    for entry in fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !files.contains(&name) {
            wrong.push(format!("{name} belongs to no sample: remove it"));
        }
    }
    if !wrong.is_empty() {
        panic!("{}\nIf that is intended, run: {COMMAND}", wrong.join("\n"));
    }
}

#[test]
fn no_message_is_left_out() {
    let names: BTreeSet<String> = samples::all()
        .into_iter()
        .map(|sample| sample.name)
        .collect();
    for op in skep_protocol::op::Op::ALL {
        let op = op.as_str().replace('.', "-");
        let later = ["agent-pause", "agent-resume", "agent-refuel"];
        if !later.contains(&&*op) {
            assert!(names.contains(&format!("request-{op}")), "no request-{op}");
            assert!(names.contains(&format!("reply-{op}")), "no reply-{op}");
        }
    }
    for code in skep_protocol::ErrorCode::ALL {
        let name = format!("error-{}", code.as_str().replace('_', "-"));
        assert!(names.contains(&name), "no {name}");
    }
}
