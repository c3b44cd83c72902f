use super::*;

#[test]
fn the_field_at_fault_is_named() {
    let with = |spec: Value| {
        let mut spec = spec;
        spec.as_object_mut()
            .unwrap()
            .entry("name")
            .or_insert_with(|| json!("a"));
        request("agent.spawn", &json!({ "spec": spec }))
    };
    let cases = [
        (json!({"foo": 1}), "spec.foo"),
        (json!({"limits": {"foo": 1}}), "spec.limits.foo"),
        (json!({"grants": {"foo": 1}}), "spec.grants.foo"),
        (
            json!({"grants": {"dirs": [{"host": "/", "guest": "/", "mode": "ro", "x": 1}]}}),
            "spec.grants.dirs[0].x",
        ),
        (
            json!({"grants": {"dirs": [{"host": "/", "guest": "/", "mode": "rx"}]}}),
            "spec.grants.dirs[0].mode",
        ),
        (
            json!({"grants": {"dirs": [{"host": "/", "guest": "/"}]}}),
            "spec.grants.dirs[0].mode",
        ),
        (json!({"grants": {"scratch": 1}}), "spec.grants.scratch"),
        (json!({"restart": {}}), "spec.restart.policy"),
        (json!({"restart": "never"}), "spec.restart"),
        // Numbers.
        (json!({"limits": {"fuel": -1}}), "spec.limits.fuel"),
        (json!({"limits": {"fuel": 1.0}}), "spec.limits.fuel"),
        (json!({"limits": {"fuel": 1.5}}), "spec.limits.fuel"),
        (json!({"limits": {"fuel": "1"}}), "spec.limits.fuel"),
        (json!({"limits": {"fuel": true}}), "spec.limits.fuel"),
        (json!({"limits": {"fuel": null}}), "spec.limits.fuel"),
        // Arrays for structs, numbers for enums.
        (json!({"limits": [1]}), "spec.limits"),
        (json!({"grants": []}), "spec.grants"),
        (
            json!({"grants": {"dirs": [["/a", "/b", "ro"]]}}),
            "spec.grants.dirs[0]",
        ),
        (json!({"runner": 0}), "spec.runner"),
        (json!({"runner": "vm"}), "spec.runner"),
        (json!({"runner": {"wasm": null}}), "spec.runner.wasm"),
        (json!({"stdin": {"0": ""}}), "spec.stdin.0"),
        // Forms that carry data.
        (json!({"stdin": "data"}), "spec.stdin.data"),
        (json!({"stdin": {"data": "text"}}), "spec.stdin.data"),
        (json!({"stdin": {"data": [1, 2]}}), "spec.stdin.data"),
        (json!({"stdin": {"closed": null}}), "spec.stdin.closed"),
        (
            json!({"component": {"digest": "sha256:0"}}),
            "spec.component.digest",
        ),
        (json!({"component": {"foo": 1}}), "spec.component.foo"),
        (
            json!({"component": {"digest": "", "data": ""}}),
            "spec.component",
        ),
        // Texts.
        (json!({"task": 1}), "spec.task"),
        (json!({"args": "a b"}), "spec.args"),
        (json!({"args": ["a", 1]}), "spec.args[1]"),
        (json!({"env": {"A": 1}}), "spec.env.A"),
        (json!({"env": ["A=1"]}), "spec.env"),
    ];
    for (spec, field) in cases {
        assert_field(&with(spec), field);
    }
    for name in [
        "",
        "../x",
        "/etc",
        "a/b",
        "a\0b",
        "a\u{202e}b",
        &"x".repeat(10 * 1024),
    ] {
        assert_field(&with(json!({ "name": name })), "spec.name");
    }
    let bodies = [
        ("agent.spawn", json!({}), "spec"),
        ("agent.spawn", json!({"spec": {}}), "spec.name"),
        ("agent.spawn", json!({"spec": ["a"]}), "spec"),
        ("agent.get", json!({}), "agent"),
        ("agent.get", json!({"agent": "x"}), "agent"),
        ("agent.get", json!({"agent": ID, "foo": 1}), "foo"),
        ("agent.get", json!([ID]), "body"),
        ("agent.get", json!(null), "body"),
        ("host.hello", json!(null), "body"),
        ("host.hello", json!({"foo": 1}), "foo"),
        (
            "agent.list",
            json!({"states": ["running", "flying"]}),
            "states[1]",
        ),
        ("agent.list", json!({"limit": null}), "limit"),
        (
            "agent.stop",
            json!({"agent": ID, "grace_ms": -1}),
            "grace_ms",
        ),
        ("agent.wait", json!({"agent": ID}), "timeout_ms"),
        ("agent.stdin", json!({"agent": ID, "data": "text"}), "data"),
        ("agent.stdin", json!({"agent": ID, "close": 1}), "close"),
    ];
    for (op, body, field) in bodies {
        assert_field(&request(op, &body), field);
    }
}

#[test]
fn the_largest_number_is_one() {
    // Which numbers make sense is for the host to say.
    let payload = request("agent.stop", &json!({"agent": ID, "grace_ms": u64::MAX}));
    let Request::AgentStop(stop) = Envelope::parse(&payload).unwrap().decode().unwrap() else {
        panic!("not a stop");
    };
    assert_eq!(stop.grace_ms, Some(u64::MAX));
    // Some languages write every number as signed, or as long as it can be.
    for one in [
        &[0xd0, 1][..],
        &[0xd3, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0xcf, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        let body = map(&[("agent", &pack(&json!(ID))), ("grace_ms", one)]);
        Envelope::parse(&request_of("agent.stop", &body))
            .unwrap()
            .decode()
            .unwrap();
    }
}

#[test]
fn strings_are_utf8_and_bytes_are_bin() {
    let agent = pack(&json!(ID));
    let name = |name: &[u8]| map(&[("spec", &map(&[("name", name)]))]);
    assert_field(
        &request_of("agent.spawn", &name(&[0xa2, 0xc3, 0x28])),
        "spec.name",
    );
    // bin where a string belongs
    assert_field(
        &request_of("agent.spawn", &name(&[0xc4, 1, b'a'])),
        "spec.name",
    );
    // a key that is bin, a number, not UTF-8
    for key in [&[0xc4, 1, b'a'][..], &[0x01], &[0xa1, 0xff]] {
        let body = [&[0x81], key, &[0xc0]].concat();
        assert_eq!(
            refused(&request_of("agent.get", &body)).code,
            ErrorCode::InvalidArgument
        );
    }
    let body = map(&[("agent", &agent), ("data", &[0xa1, b'x'])]);
    assert_field(&request_of("agent.stdin", &body), "data");
    let payload = [&[0x82, 0xa2, b'i', b'd'], &agent[..], &[0xa1, 0xff, 0xc0]].concat();
    assert_malformed(&payload);
}

#[test]
fn a_key_comes_once() {
    let agent = pack(&json!(ID));
    let twice = map(&[("agent", &agent), ("agent", &agent)]);
    assert_field(&request_of("agent.get", &twice), "agent");
    let env = map(&[("A", &[0xa0]), ("A", &[0xa0])]);
    let spec = map(&[("name", &[0xa1, b'a']), ("env", &env)]);
    assert_field(
        &request_of("agent.spawn", &map(&[("spec", &spec)])),
        "spec.env.A",
    );
}
