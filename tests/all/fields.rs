//! Envelopes and bodies that are MessagePack and still no requests: each is told
//! which field is wrong.

use serde_json::{Value, json};

use crate::protocol::{host, unharmed};
use crate::raw::{new_id, pack, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_envelopes_are_told_what_is_wrong() {
    let (host, mut raw) = host().await;
    let id = new_id();
    let other = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    for (envelope, code, field, answered) in [
        (json!({}), "malformed", None, ""),
        (json!([]), "malformed", None, ""),
        (json!("host.hello"), "malformed", None, ""),
        (json!({"op": "host.hello"}), "malformed", None, ""),
        (
            json!({"v": 1, "op": "host.hello"}),
            "malformed",
            Some("id"),
            "",
        ),
        (
            json!({"v": 1, "id": other, "op": "host.hello"}),
            "malformed",
            Some("id"),
            "",
        ),
        (
            json!({"v": 1, "id": 7, "op": "host.hello"}),
            "malformed",
            Some("id"),
            "",
        ),
        (
            json!({"id": id, "op": "host.hello"}),
            "unsupported_version",
            None,
            id.as_str(),
        ),
        (
            json!({"v": 2, "id": id, "op": "host.hello"}),
            "unsupported_version",
            None,
            &id,
        ),
        (
            json!({"v": "1", "id": id, "op": "host.hello"}),
            "unsupported_version",
            None,
            &id,
        ),
        (
            json!({"v": -1, "id": id, "op": "host.hello"}),
            "unsupported_version",
            None,
            &id,
        ),
        (
            json!({"v": 1, "id": id, "op": "host.explode"}),
            "unknown_op",
            None,
            &id,
        ),
        (json!({"v": 1, "id": id, "op": ""}), "unknown_op", None, &id),
        (
            json!({"v": 1, "id": id}),
            "invalid_argument",
            Some("op"),
            &id,
        ),
        (
            json!({"v": 1, "id": id, "op": 5}),
            "invalid_argument",
            Some("op"),
            &id,
        ),
        (
            json!({"v": 1, "id": id, "op": "host.hello", "colour": 1}),
            "invalid_argument",
            Some("colour"),
            &id,
        ),
        (
            json!({"v": 1, "id": id, "op": "host.hello", "body": 5}),
            "invalid_argument",
            Some("body"),
            &id,
        ),
    ] {
        let answer = raw.ask(pack(&envelope)).await;
        assert_eq!((answer.code(), answer.id()), (code, answered), "{envelope}");
        assert_eq!(
            answer.details().get("field").and_then(Value::as_str),
            field,
            "{envelope}"
        );
        if code == "unsupported_version" {
            assert_eq!(answer.details()["supported"], json!([1]));
        }
    }
    // A body may be left out.
    let hello = raw
        .ask(pack(&json!({"v": 1, "id": id, "op": "host.hello"})))
        .await;
    assert_eq!(hello.body()["protocol"], 1);
    unharmed(host, raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_fields_are_named() {
    let (host, mut raw) = host().await;
    let nobody = new_id();
    let spec = |change: Value| {
        let mut spec = json!({"name": "x", "runner": "native", "command": ["/bin/true"]});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        json!({ "spec": spec })
    };
    for (op, body, field) in [
        ("host.hello", json!({"colour": 1}), "colour"),
        ("agent.get", json!({}), "agent"),
        ("agent.get", json!({"agent": "not an id"}), "agent"),
        ("agent.get", json!({"agent": 5}), "agent"),
        ("agent.wait", json!({"agent": nobody}), "timeout_ms"),
        (
            "agent.wait",
            json!({"agent": nobody, "timeout_ms": -1}),
            "timeout_ms",
        ),
        (
            "agent.wait",
            json!({"agent": nobody, "timeout_ms": "1"}),
            "timeout_ms",
        ),
        ("agent.list", json!({"limit": 0}), "limit"),
        ("agent.list", json!({"limit": 1001}), "limit"),
        ("agent.list", json!({"limit": -1}), "limit"),
        ("agent.list", json!({"states": ["asleep"]}), "states[0]"),
        ("component.stat", json!({"digest": "sha256:"}), "digest"),
        ("agent.spawn", json!({}), "spec"),
        ("agent.spawn", json!({"spec": {}}), "spec.name"),
        ("agent.spawn", spec(json!({"colour": 1})), "spec.colour"),
        (
            "agent.spawn",
            spec(json!({"runner": "docker"})),
            "spec.runner",
        ),
        (
            "agent.spawn",
            spec(json!({"limits": {"fuel": -1}})),
            "spec.limits.fuel",
        ),
        (
            "agent.spawn",
            spec(json!({"limits": {"luck": 1}})),
            "spec.limits.luck",
        ),
        ("agent.spawn", spec(json!({"stdin": "ajar"})), "spec.stdin"),
        (
            "agent.spawn",
            spec(json!({"restart": {"policy": "maybe"}})),
            "spec.restart.policy",
        ),
        ("agent.spawn", spec(json!({"args": [1]})), "spec.args[0]"),
    ] {
        let answer = raw.ask(request(&new_id(), op, body.clone())).await;
        assert_eq!(
            answer.code(),
            "invalid_argument",
            "{op} {body}: {}",
            answer.value
        );
        assert_eq!(
            answer.details()["field"],
            field,
            "{op} {body}: {}",
            answer.value
        );
    }
    let long = "x".repeat(10_240);
    for name in [
        "",
        "../x",
        "/etc",
        "a/b",
        "a\0b",
        "a\u{202e}b",
        ".x",
        "-x",
        &long,
    ] {
        let answer = raw
            .ask(request(
                &new_id(),
                "agent.spawn",
                spec(json!({"name": name})),
            ))
            .await;
        assert_eq!(answer.code(), "invalid_argument", "{name}");
        assert_eq!(answer.details()["field"], "spec.name", "{name}");
    }
    unharmed(host, raw).await;
}
