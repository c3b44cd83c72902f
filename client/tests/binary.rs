//! That the command is there and speaks. The end-to-end tests run the binary
//! which cargo builds for this one.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::{Command, Output};

fn skep(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn it_tells_its_version() {
    let output = skep(&["--version"]);
    let expected = concat!("skep ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn it_fails_with_125_and_says_why() {
    for args in [&["--colour"][..], &["fly"], &["run"]] {
        let output = skep(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
}
