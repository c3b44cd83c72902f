use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::event::{LogRecord, StatusEvent, Stream};
use crate::op::{
    AgentGet, AgentList, AgentReply, AgentSpawn, AgentStdin, ComponentPut, Done, HostHello, Op,
    OutputReply, Request,
};
use crate::spec::{AgentSpec, ComponentRef, DirGrant, DirMode, Grants, Stdin};
use crate::{AgentId, AgentName, AgentState, Digest, LimitsAsk, MAX_NESTING, MAX_VALUES};

const ID: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

fn id() -> RequestId {
    ID.parse().unwrap()
}

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

fn request(op: &str, body: &Value) -> Vec<u8> {
    pack(&json!({"v": 1, "id": ID, "op": op, "body": body}))
}

/// A request whose body is these bytes.
fn request_of(op: &str, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x84];
    for text in ["v", "id", "op", "body"] {
        rmp::encode::write_str(&mut payload, text).unwrap();
        match text {
            "v" => payload.push(1),
            "id" => rmp::encode::write_str(&mut payload, ID).unwrap(),
            "op" => rmp::encode::write_str(&mut payload, op).unwrap(),
            _ => payload.extend_from_slice(body),
        }
    }
    payload
}

/// A map, written down as it is told, with repeated keys and all.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut map = Vec::new();
    rmp::encode::write_map_len(&mut map, u32::try_from(pairs.len()).unwrap()).unwrap();
    for (key, value) in pairs {
        rmp::encode::write_str(&mut map, key).unwrap();
        map.extend_from_slice(value);
    }
    map
}

fn rejected(payload: &[u8]) -> Rejection {
    Envelope::parse(payload).unwrap_err()
}

fn assert_malformed(payload: &[u8]) {
    assert_eq!(
        rejected(payload).error.code,
        ErrorCode::Malformed,
        "{payload:02x?}"
    );
}

fn refused(payload: &[u8]) -> WireError {
    Envelope::parse(payload).unwrap().decode().unwrap_err()
}

fn assert_field(payload: &[u8], field: &str) {
    let error = refused(payload);
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(error.details.field.as_deref(), Some(field), "{error}");
    assert!(error.message.contains(field), "{error}");
}

fn spec() -> AgentSpec {
    AgentSpec {
        component: Some(ComponentRef::Data(ByteBuf::from(vec![0, 1, 0xff]))),
        env: BTreeMap::from([("KEY".to_owned(), "value".to_owned())]),
        stdin: Stdin::Data(ByteBuf::from(vec![1, 2, 3])),
        limits: LimitsAsk {
            fuel: Some(1_000_000_000_000),
            ..LimitsAsk::default()
        },
        grants: Grants {
            dirs: vec![DirGrant {
                host: "/a".into(),
                guest: "/b".into(),
                mode: DirMode::Ro,
            }],
            ..Grants::default()
        },
        ..AgentSpec::named("a".parse().unwrap())
    }
}

fn valid() -> Vec<Vec<u8>> {
    let agent: AgentId = ID.parse().unwrap();
    vec![
        encode_request(id(), &HostHello {}).unwrap(),
        encode_request(id(), &AgentGet { agent }).unwrap(),
        encode_request(
            id(),
            &AgentSpawn {
                spec: spec(),
                when_full: None,
            },
        )
        .unwrap(),
        encode_request(
            id(),
            &AgentStdin {
                agent,
                data: Some(ByteBuf::from(vec![9; 300])),
                close: true,
            },
        )
        .unwrap(),
    ]
}

#[test]
fn a_request_reads_as_it_was_written() {
    for payload in valid() {
        let envelope = Envelope::parse(&payload).unwrap();
        assert_eq!(envelope.id, id());
        assert_eq!(peek_id(&payload), Some(id()));
        envelope.decode().unwrap();
    }
    let without_body = pack(&json!({"v": 1, "id": ID, "op": "host.hello"}));
    let envelope = Envelope::parse(&without_body).unwrap();
    assert_eq!(envelope.decode().unwrap(), Request::HostHello(HostHello {}));
}

#[test]
fn what_is_cut_short_or_goes_on_is_malformed() {
    for payload in valid() {
        let with_id = payload
            .windows(ID.len())
            .position(|w| w == ID.as_bytes())
            .unwrap()
            + ID.len();
        for length in 0..payload.len() {
            let rejection = rejected(&payload[..length]);
            assert_eq!(rejection.error.code, ErrorCode::Malformed);
            // The id is told as soon as it is there.
            assert_eq!(rejection.id, (length >= with_id).then(id));
        }
        let rejection = rejected(&[&payload[..], &[0xc0]].concat());
        assert_eq!(
            (rejection.error.code, rejection.id),
            (ErrorCode::Malformed, Some(id()))
        );
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let lie = [marker, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0];
        assert_malformed(&lie);
        assert_malformed(&request_of("agent.get", &lie));
    }
    for marker in [0xdc, 0xde, 0xda, 0xc5, 0xc8] {
        assert_malformed(&request_of("agent.get", &[marker, 0xff, 0xff, 0]));
    }
}

#[test]
fn what_messagepack_or_the_protocol_does_not_use_is_malformed() {
    assert_malformed(&request_of("host.hello", &[0xc1]));
    // fixext 4 (a timestamp), ext 8.
    assert_malformed(&request_of("host.hello", &[0xd6, 0xff, 0, 0, 0, 0]));
    assert_malformed(&request_of("host.hello", &[0xc7, 1, 5, 0]));
    for no_envelope in [
        &[][..],
        &[0xc0],
        &[0x80],
        &[0x90],
        &[0x01],
        &[0x81, 0x01, 0x02],
    ] {
        assert_malformed(no_envelope);
    }
}

#[test]
fn nesting_has_an_end() {
    assert_malformed(&[0x91; 100_000]);
    assert_malformed(&request_of("host.hello", &[0x91; 100_000]));
    let nested = |depth: usize| [&vec![0x91; depth - 1][..], &[0x90]].concat();
    assert_eq!(scan::check(&nested(MAX_NESTING), MAX_VALUES), Ok(()));
    assert!(scan::check(&nested(MAX_NESTING + 1), MAX_VALUES).is_err());
    // The envelope is the first level.
    Envelope::parse(&request_of("host.hello", &nested(MAX_NESTING - 1))).unwrap();
    assert_malformed(&request_of("host.hello", &nested(MAX_NESTING)));
}

#[test]
fn the_count_of_values_has_an_end() {
    let many = |count| json!({"states": vec!["running"; count]});
    // Eleven more: the envelope with its keys and values, the body with its key and array.
    let most = MAX_VALUES - 11;
    Envelope::parse(&request("agent.list", &many(most)))
        .unwrap()
        .decode()
        .unwrap();
    assert_malformed(&request("agent.list", &many(most + 1)));
    assert!(
        decode::<Value>(&pack(&many(most + 1))).is_ok(),
        "a host may say more"
    );
}

#[test]
fn the_longest_answers_of_a_host_are_read() {
    let agent = ID.parse().unwrap();
    let record = |seq| LogRecord {
        agent,
        run: 0,
        seq,
        stream: Stream::Stdout,
        time_ns: 1_760_000_000_000_000_000,
        data: ByteBuf::new(),
        partial: false,
    };
    // As many empty lines as a payload holds.
    let records: Vec<_> = (0..100_000).map(record).collect();
    let reply = OutputReply {
        records,
        next_seq: 0,
        end: false,
        expired: None,
    };
    let payload = encode_reply(id(), &reply).unwrap();
    assert!(
        payload.len() < MAX_PAYLOAD && payload.len() > MAX_PAYLOAD / 10 * 9,
        "{}",
        payload.len()
    );
    assert_eq!(decode_reply::<OutputReply>(&payload).unwrap(), Ok(reply));
}

#[test]
fn a_payload_over_the_cap_is_too_large_and_keeps_its_id() {
    let data = vec![0; MAX_PAYLOAD];
    let put = ComponentPut {
        digest: Digest::of(b""),
        size: 1,
        offset: 0,
        data: data.into(),
    };
    let rejection = rejected(&encode_request(id(), &put).unwrap());
    assert_eq!(rejection.id, Some(id()));
    assert_eq!(rejection.error.code, ErrorCode::TooLarge);
    assert_eq!(
        rejection.error.details.limit.as_deref(),
        Some("payload_bytes")
    );
}

#[test]
fn only_this_version_is_spoken() {
    for version in [
        json!(0),
        json!(2),
        json!("1"),
        json!(1.0),
        json!(-1),
        json!(null),
    ] {
        let rejection = rejected(&pack(&json!({"v": version, "id": ID, "op": "host.hello"})));
        assert_eq!(rejection.error.code, ErrorCode::UnsupportedVersion);
        assert_eq!(rejection.error.details.supported, Some(vec![1]));
        assert_eq!(rejection.id, Some(id()));
    }
    let missing = rejected(&pack(&json!({"id": ID, "op": "host.hello"})));
    assert_eq!(missing.error.code, ErrorCode::UnsupportedVersion);
    let later = rejected(&pack(&json!({"v": 2, "id": 7})));
    assert_eq!(
        (later.error.code, later.id),
        (ErrorCode::UnsupportedVersion, None)
    );
}

#[test]
fn an_envelope_without_a_usable_id_is_malformed() {
    let plain = ID.replace('-', "");
    for wrong in [json!(""), json!(7), json!(null), json!("x"), json!(plain)] {
        let rejection = rejected(&pack(&json!({"v": 1, "id": wrong, "op": "host.hello"})));
        assert_eq!(
            (rejection.error.code, rejection.id),
            (ErrorCode::Malformed, None)
        );
    }
    assert_malformed(&pack(&json!({"v": 1, "op": "host.hello"})));
}

#[test]
fn the_envelope_is_strict() {
    let unknown = rejected(&pack(
        &json!({"v": 1, "id": ID, "op": "host.hello", "foo": 1}),
    ));
    assert_eq!(unknown.error.code, ErrorCode::InvalidArgument);
    assert_eq!(unknown.error.details.field.as_deref(), Some("foo"));
    assert_eq!(unknown.id, Some(id()));

    let text = |text: &str| pack(&json!(text));
    let op = text("host.hello");
    let twice = map(&[("v", &[1]), ("id", &text(ID)), ("op", &op), ("op", &op)]);
    assert_eq!(rejected(&twice).error.details.field.as_deref(), Some("op"));
    // The id of the answer is the one that is read without decoding.
    let other = text(&ID.replace('6', "7"));
    let twice = map(&[("v", &[1]), ("id", &text(ID)), ("id", &other), ("op", &op)]);
    assert_eq!(rejected(&twice).id, Some(id()));
    assert_eq!(peek_id(&twice), Some(id()));

    for wrong in [
        json!({"v": 1, "id": ID}),
        json!({"v": 1, "id": ID, "op": 3}),
    ] {
        let rejection = rejected(&pack(&wrong));
        assert_eq!(rejection.error.code, ErrorCode::InvalidArgument);
        assert_eq!(rejection.error.details.field.as_deref(), Some("op"));
    }
    let rejection = rejected(&request("agent.fly", &json!({})));
    assert_eq!(
        (rejection.error.code, rejection.id),
        (ErrorCode::UnknownOp, Some(id()))
    );
}

#[test]
fn operations_of_later_builds_are_known() {
    for op in Op::ALL {
        assert_eq!(Op::from_name(op.as_str()), Some(*op));
    }
    let payload = request("agent.pause", &json!({"agent": ID}));
    let request = Envelope::parse(&payload).unwrap().decode().unwrap();
    assert_eq!(request, Request::Unsupported(Op::AgentPause));
}

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

#[test]
fn a_refusal_is_short_and_printable() {
    let long = "\u{1b}[2J".repeat(200_000);
    for payload in [
        request("agent.get", &json!({ &long: 1 })),
        request("agent.get", &json!({ "agent": &long })),
        request("agent.list", &json!({ "states": [&long] })),
        request("agent.list", &json!({ "labels": { &long: 1 } })),
        request(
            "agent.spawn",
            &json!({ "spec": {"name": "a", "component": { &long: 1 }} }),
        ),
    ] {
        let error = refused(&payload);
        let field = error.details.field.unwrap();
        assert!(error.message.len() < 2048 && field.len() < 1024, "{field}");
        assert!(!error.message.contains('\u{1b}') && !field.contains('\u{1b}'));
    }
    for payload in [
        request(&long, &json!({})),
        pack(&json!({"v": 1, "id": ID, "op": "host.hello", &long: 1})),
    ] {
        let error = rejected(&payload).error;
        assert!(error.message.len() < 2048 && !error.message.contains('\u{1b}'));
    }
}

#[test]
fn replies_are_read_with_kindness() {
    let done = |reply: Value| decode_reply::<Done>(&pack(&reply));
    assert_eq!(
        done(json!({"v": 1, "id": ID, "ok": true, "body": {}})).unwrap(),
        Ok(Done {})
    );
    assert_eq!(
        done(json!({"v": 1, "id": ID, "ok": true})).unwrap(),
        Ok(Done {})
    );
    assert_eq!(
        done(json!({"ok": true, "body": {"new": [1, null]}, "more": 1})).unwrap(),
        Ok(Done {})
    );
    let error = json!({"code": "not_found", "message": "none", "new": 1});
    let refusal = done(json!({"ok": false, "error": error}))
        .unwrap()
        .unwrap_err();
    assert_eq!(refusal, WireError::new(ErrorCode::NotFound, "none"));
    for neither in [
        json!({"ok": false}),
        json!({"v": 1}),
        json!({"ok": 1, "body": {}}),
    ] {
        assert!(matches!(done(neither), Err(DecodeError::Empty)));
    }
    assert!(matches!(
        done(json!({"ok": true, "body": []})),
        Err(DecodeError::Unexpected(_))
    ));
    assert!(matches!(done(json!([])), Err(DecodeError::Malformed(_))));
}

#[test]
fn a_refusal_without_an_id_has_an_empty_one() {
    let error = WireError::new(ErrorCode::Malformed, "no");
    let reply: Value = rmp_serde::from_slice(&encode_error(None, &error).unwrap()).unwrap();
    let expected = json!({"code": "malformed", "message": "no", "details": {}});
    assert_eq!(
        reply,
        json!({"v": 1, "id": "", "ok": false, "error": expected})
    );
    assert_eq!(peek_id(&encode_error(None, &error).unwrap()), None);
    let payload = encode_error(Some(id()), &error).unwrap();
    assert_eq!(peek_id(&payload), Some(id()));
    assert_eq!(decode_reply::<Done>(&payload).unwrap(), Err(error));
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn bytes() -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..40).prop_map(ByteBuf::from)
}

fn any_name() -> impl Strategy<Value = AgentName> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}".prop_map(|name| name.parse().unwrap())
}

fn any_spec() -> impl Strategy<Value = AgentSpec> {
    let component = option::of(prop_oneof![
        bytes().prop_map(ComponentRef::Data),
        bytes().prop_map(|bytes| ComponentRef::Digest(Digest::of(&bytes))),
    ]);
    let stdin = prop_oneof![
        Just(Stdin::Closed),
        Just(Stdin::Open),
        bytes().prop_map(Stdin::Data)
    ];
    let dir = (
        text(),
        text(),
        prop_oneof![Just(DirMode::Ro), Just(DirMode::Rw)],
    )
        .prop_map(|(host, guest, mode)| DirGrant { host, guest, mode });
    let env = btree_map(text(), text(), 0..4);
    let limits = (option::of(any::<u64>()), option::of(any::<u64>()));
    (
        any_name(),
        component,
        vec(text(), 0..4),
        env,
        stdin,
        limits,
        vec(dir, 0..3),
        text(),
    )
        .prop_map(
            |(name, component, args, env, stdin, (fuel, files), dirs, task)| AgentSpec {
                component,
                args,
                labels: env.clone(),
                env,
                stdin,
                limits: LimitsAsk {
                    fuel,
                    files,
                    ..LimitsAsk::default()
                },
                grants: Grants {
                    dirs,
                    ..Grants::default()
                },
                task,
                ..AgentSpec::named(name)
            },
        )
}

/// What is done to bytes on their way.
#[derive(Debug, Clone)]
enum Harm {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Double(usize, usize),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
        at().prop_map(Harm::Remove),
        at().prop_map(Harm::Cut),
        (at(), at()).prop_map(|(from, to)| Harm::Double(from, to)),
    ]
}

fn harm(bytes: &mut Vec<u8>, harm: &Harm) {
    let length = bytes.len().max(1);
    match *harm {
        _ if bytes.is_empty() => {}
        Harm::Set(at, byte) => bytes[at % length] = byte,
        Harm::Insert(at, byte) => bytes.insert(at % length, byte),
        Harm::Remove(at) => drop(bytes.remove(at % length)),
        Harm::Cut(at) => bytes.truncate(at % length),
        Harm::Double(from, to) => {
            let piece = bytes[from % length..].to_vec();
            let to = to % length;
            bytes.splice(to..to, piece);
        }
    }
}

fn read_everything(payload: &[u8]) {
    let id = peek_id(payload);
    match Envelope::parse(payload) {
        Ok(envelope) => {
            assert_eq!(id, Some(envelope.id));
            if let Err(error) = envelope.decode() {
                assert_eq!(error.code, ErrorCode::InvalidArgument);
                assert!(error.details.field.is_some());
            }
        }
        Err(rejection) => drop(encode_error(rejection.id, &rejection.error).unwrap()),
    }
    let _ = decode_reply::<AgentReply>(payload);
    let _ = decode::<StatusEvent>(payload);
    let _ = decode::<LogRecord>(payload);
    let _ = decode::<Value>(payload);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_malformed(payload in vec(any::<u8>(), 0..200)) {
        read_everything(&payload);
        prop_assert_eq!(rejected(&payload).error.code, ErrorCode::Malformed);
    }

    #[test]
    fn harmed_requests_panic_nobody(which in 0..4_usize, harms in vec(any_harm(), 1..6)) {
        let mut payload = valid().swap_remove(which);
        for each in &harms {
            harm(&mut payload, each);
            read_everything(&payload);
        }
    }

    #[test]
    fn harmed_replies_panic_nobody(spec in any_spec(), harms in vec(any_harm(), 1..6)) {
        let mut payload = encode_reply(id(), &spec).unwrap();
        for each in &harms {
            harm(&mut payload, each);
            read_everything(&payload);
            let _ = decode_reply::<AgentSpec>(&payload);
        }
    }

    #[test]
    fn spawns_come_back(spec in any_spec()) {
        let spawn = AgentSpawn { spec, when_full: None };
        let payload = encode_request(id(), &spawn).unwrap();
        let request = Envelope::parse(&payload).unwrap().decode().unwrap();
        prop_assert_eq!(request, Request::AgentSpawn(spawn));
    }

    #[test]
    fn lists_come_back(
        states in option::of(vec(proptest::sample::select(&AgentState::ALL[..]), 0..6)),
        name in option::of(any_name()),
        labels in btree_map(text(), text(), 0..4),
        limit in option::of(any::<u64>()),
    ) {
        let list = AgentList { states, name, labels, limit, after: None };
        let payload = encode_request(id(), &list).unwrap();
        let request = Envelope::parse(&payload).unwrap().decode().unwrap();
        prop_assert_eq!(request, Request::AgentList(list));
    }

    #[test]
    fn records_come_back(
        seq in any::<u64>(), time_ns in any::<u64>(), data in bytes(), partial in any::<bool>(),
    ) {
        let agent = ID.parse().unwrap();
        let record = LogRecord { agent, run: 0, seq, stream: Stream::Stderr, time_ns, data, partial };
        prop_assert_eq!(decode::<LogRecord>(&encode(&record).unwrap()).unwrap(), record);
    }
}
