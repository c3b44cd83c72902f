use super::*;

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
fn operations_are_known_by_their_names() {
    for op in Op::ALL {
        assert_eq!(Op::from_name(op.as_str()), Some(*op));
    }
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
