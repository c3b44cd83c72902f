//! The command line, what is read, and what is told in the end.

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use log_errors::{Args, BadUsage, Format, Lines, MAX_LINE, Reader, Source, Summary, sources};

fn args(words: &[&str]) -> Result<Args, BadUsage> {
    Args::parse(words.iter().map(|word| (*word).to_owned()))
}

#[test]
fn without_a_path_stdin_is_read() {
    let parsed = args(&[]).unwrap();
    assert_eq!(parsed.paths, ["-"]);
    assert_eq!((parsed.json, parsed.top), (false, 20));
}

#[test]
fn all_options_are_read() {
    let parsed = args(&["--json", "--top", "3", "a", "-", "--", "--json"]).unwrap();
    assert_eq!(parsed.paths, ["a", "-", "--json"]);
    assert_eq!((parsed.json, parsed.top), (true, 3));
}

#[test]
fn bad_usage_is_refused() {
    for words in [&["--jsn"][..], &["--top"], &["--top", "many"], &["-x"]] {
        assert!(args(words).is_err(), "{words:?}");
    }
}

fn lines(log: &[u8]) -> (Vec<String>, u64) {
    // A small buffer, so that lines lie across its ends.
    let mut lines = Lines::new(BufReader::with_capacity(7, Cursor::new(log)));
    let mut found = Vec::new();
    while let Some(line) = lines.next_line().expect("a cursor can be read") {
        found.push(line);
    }
    assert_eq!(lines.bytes(), log.len() as u64);
    (found, lines.shortened())
}

#[test]
fn lines_end_as_they_do_everywhere() {
    let (found, shortened) = lines(b"one, and more\r\n\ntwo\n\xff last");
    assert_eq!(found, ["one, and more", "", "two", "\u{fffd} last"]);
    assert_eq!(shortened, 0);
}

#[test]
fn long_lines_are_cut_and_the_next_one_is_whole() {
    let log = [
        "x".repeat(MAX_LINE + 1),
        "y".repeat(MAX_LINE),
        "z".to_owned(),
    ]
    .join("\n");
    let (found, shortened) = lines(log.as_bytes());
    let lengths: Vec<_> = found.iter().map(String::len).collect();
    assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1]);
    assert_eq!(shortened, 1);
}

#[test]
fn a_directory_stands_for_all_files_below_it() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("logs");
    fs::create_dir_all(dir.join("b/deep")).unwrap();
    for name in ["c.log", "a.log", "b/deep/x.log"] {
        fs::write(dir.join(name), "line\n").unwrap();
    }
    let paths = ["-".to_owned(), dir.display().to_string()];
    let file = |name| Source::File(dir.join(name), 5);
    assert_eq!(
        sources(&paths).unwrap(),
        [
            Source::Stdin,
            file("a.log"),
            file("b/deep/x.log"),
            file("c.log")
        ]
    );
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let error = sources(&["/no/such/log".to_owned()]).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/log: "), "{error}");
}

fn summary(log: &str, top: usize) -> Summary {
    let mut reader = Reader::default();
    log.lines().for_each(|line| reader.line(line));
    reader.end();
    Summary::of(&reader, top, 1, true)
}

const LOG: &str = "\
2026-11-21 04:47:10 ERROR app: failed 1 times
2026-11-21 04:47:20 ERROR app: failed 2 times
ERROR:app:once
nobody knows
";

#[test]
fn a_summary_is_text_for_people() {
    assert_eq!(
        summary(LOG, 1).to_string(),
        "\
4 lines, 3 errors of 2 kinds
      3  python

      2  python: app: failed <n> times
         2026-11-21 04:47:10 to 2026-11-21 04:47:20
         e.g. app: failed 1 times

1 more kinds, see --top
1 lines of more than 65536 bytes, read in part
stopped before the end of the log
"
    );
}

#[test]
fn a_summary_is_json_for_programs() {
    let json: serde_json::Value = serde_json::to_value(summary(LOG, 1)).unwrap();
    assert_eq!(json["lines"], 4);
    assert_eq!(json["errors"], 3);
    assert_eq!(json["errors_by_format"]["python"], 3);
    assert_eq!(json["groups"][0]["count"], 2);
    assert_eq!(json["groups"][0]["format"], "python");
    assert_eq!(json["groups"][0]["first"], "2026-11-21 04:47:10");
    assert_eq!(json["kinds_not_told"], 1);
    assert_eq!(json["stopped_early"], true);
}

#[test]
fn nothing_wrong_is_a_summary_too() {
    let mut reader = Reader::default();
    reader.end();
    let text = Summary::of(&reader, 20, 0, false).to_string();
    assert_eq!(text, "0 lines, 0 errors of 0 kinds\n");
}

/// The counts are those of `examples/logs/README.md`.
#[test]
fn a_real_log_is_understood_to_the_last_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../logs/service.log");
    let log = fs::read_to_string(path).unwrap();
    let mut reader = Reader::default();
    log.lines().for_each(|line| reader.line(line));
    reader.end();
    assert_eq!(reader.unknown(), 0);
    assert_eq!(reader.errors()[&Format::NginxError], 512);
    assert_eq!(reader.errors()[&Format::Python], 140);
    assert_eq!(reader.errors()[&Format::Json], 206);
    assert_eq!(reader.records()[&Format::NginxAccess], 1_662);
    assert!(!reader.errors().contains_key(&Format::Traceback));
}
