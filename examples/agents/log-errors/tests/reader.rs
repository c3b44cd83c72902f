//! How lines become errors, tracebacks above all.

use log_errors::{Format, Group, Groups, MAX_GROUPS, Reader};

fn read(log: &str) -> Reader {
    let mut reader = Reader::default();
    log.lines().for_each(|line| reader.line(line));
    reader.end();
    reader
}

fn messages(log: &str) -> Vec<String> {
    read(log)
        .groups()
        .sorted()
        .iter()
        .map(|group| group.message.clone())
        .collect()
}

#[test]
fn a_traceback_belongs_to_the_record_before_it() {
    let log = "\
2026-11-21 04:47:52,670 ERROR app: it failed
Traceback (most recent call last):
  File \"a.py\", line 2, in main
    work()
    ^^^^
KeyError: 'sku'
2026-11-21 04:47:53,000 INFO app: goes on
";
    assert_eq!(messages(log), ["app: it failed: KeyError: 'sku'"]);
    let reader = read(log);
    assert_eq!(reader.lines(), 7);
    assert_eq!(reader.unknown(), 0);
    assert_eq!(reader.records()[&Format::Python], 2);
    assert_eq!(reader.errors()[&Format::Python], 1);
}

#[test]
fn of_chained_tracebacks_the_last_exception_counts() {
    let log = "\
2026-11-21 04:47:52,670 ERROR app: it failed
Traceback (most recent call last):
  File \"a.py\", line 2, in main
ConnectionRefusedError: refused

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File \"a.py\", line 3, in main
URLError: <refused>

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File \"a.py\", line 4, in main
stock.Unavailable: nothing
";
    assert_eq!(
        messages(log),
        ["app: it failed: stock.Unavailable: nothing"]
    );
}

#[test]
fn a_traceback_without_a_record_is_an_error_of_its_own() {
    let log = "\
127.0.0.1 - - [21/Nov/2026:04:47:52 +0000] \"GET / HTTP/1.1\" 200 3 \"-\" \"-\"
Traceback (most recent call last):
  File \"a.py\", line 2, in main
KeyError: 'one'
Traceback (most recent call last):
  File \"a.py\", line 2, in main
KeyError: 'one'
";
    let reader = read(log);
    let groups = reader.groups().sorted();
    let group: &Group = groups[0];
    assert_eq!(groups.len(), 1);
    assert_eq!((group.count, group.format), (2, Format::Traceback));
    assert_eq!(group.message, "KeyError: 'one'");
    assert_eq!(group.first.as_deref(), Some("2026-11-21 04:47:52"));
}

#[test]
fn a_traceback_that_is_cut_off_still_counts() {
    assert_eq!(
        messages("Traceback (most recent call last):\n  File \"a.py\"\n"),
        ["Traceback (most recent call last):"]
    );
}

#[test]
fn a_warning_with_a_traceback_is_no_error() {
    let log = "\
2026-11-21 04:47:52,670 WARNING app: tries again
Traceback (most recent call last):
  File \"a.py\", line 2, in main
KeyError: 'sku'
";
    assert!(messages(log).is_empty());
}

#[test]
fn formats_may_be_mixed_line_by_line() {
    let log = "\
127.0.0.1 - - [21/Nov/2026:04:47:52 +0000] \"GET /a HTTP/1.1\" 502 3 \"-\" \"-\"
{\"level\": \"error\", \"msg\": \"declined\"}
2026/11/21 04:47:52 [error] 1#1: *4 connect() failed, client: 127.0.0.1
2026-11-21 04:47:52,670 ERROR app: it failed
Nov 21 04:47:52 hive cron[3]: fatal
nobody knows
";
    let reader = read(log);
    assert_eq!(reader.errors().len(), 5);
    assert_eq!(reader.errors().values().sum::<u64>(), 5);
    // After a record of a single line, unlike Python's.
    assert_eq!(reader.unknown(), 1);
    assert!(messages(log).contains(&"502 GET /a".to_owned()));
}

#[test]
fn groups_know_when_they_began_and_ended() {
    let at = |second: u32| format!("2026-11-21 04:47:{second} ERROR app: failed {second} times\n");
    let log = [at(30), at(10), at(50), at(20)].concat();
    let reader = read(&log);
    let groups = reader.groups().sorted();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].count, 4);
    assert_eq!(groups[0].first.as_deref(), Some("2026-11-21 04:47:10"));
    assert_eq!(groups[0].last.as_deref(), Some("2026-11-21 04:47:50"));
    assert_eq!(groups[0].example, "app: failed 30 times");
}

#[test]
fn the_most_frequent_come_first() {
    let log = "ERROR:a:rare\nERROR:a:often\nERROR:a:often\n";
    assert_eq!(messages(log), ["a: often", "a: rare"]);
}

#[test]
fn the_number_of_groups_is_bounded() {
    let mut reader = Reader::default();
    for number in 0..MAX_GROUPS + 10 {
        // Letters, since numbers would be folded.
        let name: String = number
            .to_string()
            .bytes()
            .map(|b| char::from(b + 49))
            .collect();
        reader.line(&format!("ERROR:a:{name}"));
    }
    reader.end();
    let groups: &Groups = reader.groups();
    assert_eq!(groups.sorted().len(), MAX_GROUPS);
    assert_eq!(groups.ungrouped(), 10);
    assert_eq!(reader.errors()[&Format::Python], MAX_GROUPS as u64 + 10);
}

#[test]
fn long_messages_are_shortened_between_characters() {
    let log = format!("ERROR:a:{}\n", "ü".repeat(2_000));
    let message = &messages(&log)[0];
    assert!(message.len() < 600 && message.ends_with('…'), "{message}");
}

#[test]
fn logs_do_not_run_into_each_other() {
    let mut reader = Reader::default();
    reader.line("2026-11-21 04:47:52,670 ERROR app: it failed");
    reader.end();
    reader.line("Traceback (most recent call last):");
    reader.line("KeyError: 'sku'");
    reader.end();
    assert_eq!(reader.groups().sorted().len(), 2);
    assert!(
        reader
            .groups()
            .sorted()
            .iter()
            .any(|group| group.first.is_none())
    );
}
