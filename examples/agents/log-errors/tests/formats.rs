//! Which lines are recognised, and what they say.

use log_errors::{Format, Level, Record, parse};

fn record(line: &str) -> Record {
    parse(line).unwrap_or_else(|| panic!("not recognised: {line}"))
}

fn says(line: &str, format: Format, time: Option<&str>, level: Level, message: &str) {
    let expected = Record {
        format,
        time: time.map(str::to_owned),
        level,
        message: message.to_owned(),
    };
    assert_eq!(record(line), expected, "{line}");
}

const AT: Option<&str> = Some("2026-11-21 04:47:52");

#[test]
fn nginx_errors_are_read_up_to_the_client() {
    says(
        r#"2026/11/21 04:47:52 [error] 15032#15032: *4 open() "./a.png" failed (2: No such file or directory), client: 127.0.0.1, server: localhost, request: "GET /a.png HTTP/1.1""#,
        Format::NginxError,
        AT,
        Level::Error,
        r#"open() "./a.png" failed (2: No such file or directory)"#,
    );
    says(
        "2026/11/21 04:47:52 [warn] 1#1: *4 a client request body is buffered",
        Format::NginxError,
        AT,
        Level::Fine,
        "a client request body is buffered",
    );
    says(
        "2026/11/21 04:47:52 [emerg] 1#0: bind() to 0.0.0.0:80 failed",
        Format::NginxError,
        AT,
        Level::Error,
        "bind() to 0.0.0.0:80 failed",
    );
}

#[test]
fn an_access_is_an_error_from_500_on() {
    let line = |status| {
        format!(
            r#"10.0.0.1 - bee [21/Nov/2026:04:47:52 +0000] "GET /a/b?c=d HTTP/1.1" {status} 30 "-" "curl""#
        )
    };
    for (status, level) in [
        (200, Level::Fine),
        (404, Level::Fine),
        (500, Level::Error),
        (503, Level::Error),
    ] {
        says(
            &line(status),
            Format::NginxAccess,
            AT,
            level,
            &format!("{status} GET /a/b"),
        );
    }
}

#[test]
fn an_access_without_a_proper_request_is_still_one() {
    says(
        r#"10.0.0.1 - - [21/Nov/2026:04:47:52 +0000] "" 500 0 "-" "-""#,
        Format::NginxAccess,
        AT,
        Level::Error,
        "500",
    );
}

#[test]
fn python_logs_in_several_layouts() {
    for line in [
        "2026-11-21 04:47:52,814 ERROR app.orders: it broke: badly",
        "2026-11-21 04:47:52,814 - app.orders - ERROR - it broke: badly",
        "2026-11-21 04:47:52 [ERROR] app.orders: it broke: badly",
        "[2026-11-21 04:47:52.814] [error] app.orders: it broke: badly",
        "2026-11-21T04:47:52.814Z CRITICAL app.orders: it broke: badly",
        "2026-11-21T04:47:52+01:00 FATAL app.orders: it broke: badly",
    ] {
        says(
            line,
            Format::Python,
            AT,
            Level::Error,
            "app.orders: it broke: badly",
        );
    }
    says(
        "ERROR:app.orders:it broke",
        Format::Python,
        None,
        Level::Error,
        "app.orders: it broke",
    );
    says(
        "2026-11-21 04:47:52,814 WARNING app: an ERROR in name only",
        Format::Python,
        AT,
        Level::Fine,
        "app: an ERROR in name only",
    );
}

#[test]
fn json_with_the_names_of_several_libraries() {
    for line in [
        r#"{"time": "2026-11-21T04:47:52.037Z", "level": "error", "msg": "no\nwhere"}"#,
        r#"{"timestamp": "2026-11-21 04:47:52,037", "severity": "CRITICAL", "message": "no"}"#,
        r#"{"ts": "2026-11-21T04:47:52", "lvl": "fatal", "event": "no"}"#,
        r#"{"time": "2026-11-21T04:47:52", "level": 50, "msg": "no"}"#,
    ] {
        says(line, Format::Json, AT, Level::Error, "no");
    }
    let fine = r#"{"time": "2026-11-21T04:47:52", "level": 30, "msg": "no error"}"#;
    says(fine, Format::Json, AT, Level::Fine, "no error");
    let number = r#"{"ts": 1795236472.5, "level": "error", "msg": "no"}"#;
    says(
        number,
        Format::Json,
        Some("1795236472.5"),
        Level::Error,
        "no",
    );
    says("{}", Format::Json, None, Level::Fine, "");
}

#[test]
fn json_names_the_last_of_its_exceptions() {
    let line = r#"{"level": "error", "msg": "no answer", "exc": "Traceback (most recent call last):\n  File \"a.py\", line 1\nCancelledError\n\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n  File \"a.py\", line 2\nTimeoutError: late"}"#;
    assert_eq!(record(line).message, "no answer: TimeoutError: late");
}

#[test]
fn syslog_with_a_priority_goes_by_it() {
    let at = Some("Nov  1 04:47:52");
    says(
        "<11>Nov  1 04:47:52 hive bee[7]: all is well",
        Format::Syslog,
        at,
        Level::Error,
        "bee: all is well",
    );
    says(
        "<14>Nov  1 04:47:52 hive bee[7]: an error",
        Format::Syslog,
        at,
        Level::Fine,
        "bee: an error",
    );
}

#[test]
fn syslog_without_a_priority_goes_by_its_words() {
    let at = Some("Nov 21 04:47:52");
    says(
        "Nov 21 04:47:52 hive sshd[7]: Failed password for root",
        Format::Syslog,
        at,
        Level::Error,
        "sshd: Failed password for root",
    );
    says(
        "Nov 21 04:47:52 hive systemd[1]: Started terrors.service",
        Format::Syslog,
        at,
        Level::Fine,
        "systemd: Started terrors.service",
    );
    says(
        "2026-11-21T04:47:52.123456+00:00 hive kernel: bee[7]: segfault at 0",
        Format::Syslog,
        AT,
        Level::Error,
        "kernel: bee[7]: segfault at 0",
    );
}

#[test]
fn other_lines_are_not_recognised() {
    for line in [
        "",
        "plain text",
        "{not json",
        "2026-11-21 04:47:52 no level in sight of this line",
        "error: something",
        "Traceback (most recent call last):",
        "  File \"a.py\", line 1, in <module>",
        "ValueError: no",
        "é".repeat(40).as_str(),
        "9999/99/99",
        "Nov",
        "10.0.0.1 - - [",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
}
